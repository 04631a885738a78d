"""An order visits every example once an epoch, and starts at any position."""

import itertools
import pickle
import time
from concurrent import futures

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basic.data import draws, orders


class Files:
  """A source of which only the length and the files are known."""

  def __init__(self, sizes):
    self.shards = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    self._length = int(sum(sizes))

  def __getitem__(self, index):
    return {"id": index}

  def __len__(self):
    return self._length


def epoch(visit, length, number=0):
  return [visit(number * length + i) for i in range(length)]


sizes_of_files = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@pytest.mark.parametrize("shuffle", orders.SHUFFLES)
@settings(max_examples=12, deadline=None)
@given(sizes_of_files, st.integers(1, 5), st.integers(0, 2**32 - 1),
       st.integers(0, 10**9))
def test_every_epoch_has_each_example_once(shuffle, sizes, window, seed, number):
  source = Files(sizes)
  visit = orders.order(source, seed=seed, shuffle=shuffle, window=window)
  found = epoch(visit, len(source), number)
  assert sorted(found) == list(range(len(source)))
  # Asked in another order, by a copy: nothing is remembered that matters.
  copy = pickle.loads(pickle.dumps(visit))
  for offset in reversed(range(len(source))):
    copy(7 * len(source))
    assert copy(number * len(source) + offset) == found[offset]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=7, max_size=12), st.integers(1, 4),
       st.integers(0, 2**32 - 1))
def test_shards_are_read_a_window_at_a_time(sizes, window, seed):
  source = Files(sizes)
  visit = orders.order(source, seed=seed, shuffle="shards", window=window)
  shard = np.searchsorted(source.shards, epoch(visit, len(source)), "right") - 1
  done = set()
  at = 0
  while at < len(shard):
    # The files of a window: the next ones whose examples are all together.
    files = set()
    count = 0
    while len(files) < min(window, len(sizes) - len(done)) or count < sum(
        sizes[f] for f in files
    ):
      files.add(int(shard[at + count]))
      count += 1
    assert not files & done and len(files) <= window
    assert count == sum(sizes[f] for f in files)
    done |= files
    at += count
  assert len(done) == len(sizes)


def test_shuffle_by_shards_is_new_in_each_epoch_and_for_each_seed():
  source = Files([6] * 20)
  visit, other = (
      orders.order(source, seed=seed, shuffle="shards", window=4)
      for seed in (1, 2)
  )
  found = [epoch(visit, 120), epoch(visit, 120, 1), epoch(other, 120)]
  for i in range(3):
    assert found[i] != sorted(found[i])
    # Not only the files: also the examples within a window.
    assert any(b - a not in (1, 115) for a, b in itertools.pairwise(found[i]))
    for j in range(i):
      assert found[i] != found[j]


def test_without_shuffle_the_index_counts():
  visit = orders.order(range(5), seed=3, shuffle=None)
  assert [visit(n) for n in range(12)] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
@pytest.mark.parametrize("length", [1, 3, 20, 10**8, 2**33])
def test_order_and_draws_are_those_with_which_runs_began(seed, length):
  """Grain's own pipeline, which made them in earlier versions, is the oracle."""
  def draw(index, rng):
    return index, rng.random(3).tolist(), int(rng.integers(9, dtype=np.uint32))

  before = (
      grain.MapDataset.range(length).seed(seed).shuffle().repeat(None)
      .random_map(draw)
  )
  visit, draw_of = orders.order(range(length), seed=seed), draws.Draws(seed)
  for position in (0, 1, 2, 19, 20, 21, 10**12 + 3):
    assert draw(visit(position), draw_of(position)) == before[position]


def test_draws_begin_anew_for_each_number():
  one = draws.Draws(5)
  first = one(3).random(5).tolist()
  one(3).integers(2, dtype=np.uint32)  # Half of a 64-bit number stays unused.
  one(4).random()
  assert one(3).random(5).tolist() == first
  assert pickle.loads(pickle.dumps(one))(3).random(5).tolist() == first
  assert draws.Draws(6)(3).random() != first[0] != one(4).random()


def test_a_position_among_a_hundred_million_costs_no_list():
  source = range(10**8)
  began = time.process_time()
  visit = orders.order(source, seed=0)
  found = {visit(position) for position in range(10**8 - 500, 10**8 + 500)}
  assert time.process_time() - began < 5  # A list of them would take longer.
  assert len(found) > 990 and max(found) > 9 * 10**7


class Own(Files):
  def __init__(self):
    super().__init__([4])

  def order(self, seed):
    return lambda position: (position + seed) % 4


def test_a_source_may_have_an_order_of_its_own():
  assert [orders.order(Own(), seed=1)(n) for n in range(4)] == [1, 2, 3, 0]
  with pytest.raises(ValueError, match="shuffle is 'shards', but the source has"):
    orders.order(Own(), seed=1, shuffle="shards")


@pytest.mark.parametrize("change, sentence", [
    (dict(shuffle="all"), "shuffle is 'all'; expected one of"),
    (dict(shuffle="shards"), "does not say where its shards begin"),
    (dict(window=0), "window is 0 shards"),
])
def test_wrong_settings_get_a_sentence(change, sentence):
  with pytest.raises(ValueError, match=sentence):
    orders.order(range(4), seed=0, **change)


@pytest.fixture
def ciphered(monkeypatch):
  """The calls of the cipher, which is what a table costs."""
  calls, real = [], orders._ciphered
  monkeypatch.setattr(
      orders, "_ciphered", lambda *numbers: calls.append(1) or real(*numbers)
  )
  return calls


def test_tables_are_made_once_however_many_orders_take_turns(ciphered):
  visits = [orders.order(range(50), seed=seed) for seed in range(40)]
  for position in range(50):
    for visit in visits:
      visit(position)
  assert len(ciphered) == 40 * 50


def test_tables_are_made_once_however_many_threads_ask(ciphered):
  visit = orders.order(range(2_000), seed=0)
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(visit, range(2_000)))
  assert sorted(found) == list(range(2_000)) and len(ciphered) == 2_000


def test_few_tables_are_kept(ciphered):
  visit = orders.order(range(10), seed=0)
  for position in range(0, 100, 10):
    visit(position)
  assert len(visit.permuted._tables) == 4

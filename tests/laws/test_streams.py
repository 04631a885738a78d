"""Laws of streams, over every source: a position is all that a run remembers.

Whatever the processes, threads and worker processes, and wherever a run was
stopped, the examples are those of a run in one go, in the same order.
"""

import collections

import numpy as np
import pytest
import test_sources
from hypothesis import given, settings
from hypothesis import strategies as st

from basic.data import examples, pipeline, position

case = test_sources.case
BATCH, SEED = 8, 11


def tokenize(caption):
  row = np.zeros(120, np.int32)
  row[: len(caption)] = [ord(c) for c in caption[:120]]
  return row


def first_pixel(image, rng):
  """A number in place of an image, random too."""
  del image
  return np.array([0.0 if rng is None else rng.random()], np.float32)


PREPARE = examples.prepare(tokenize=tokenize, augment=first_pixel)


def read(source, start, steps, processes=1, **changes):
  """Fields of the global batches that processes make from a position."""
  parts = []
  for process in range(processes):
    with pipeline.stream(
        source, prepare=PREPARE, batch_size=BATCH, seed=SEED, start=start,
        shard=(process, processes), **changes,
    ) as batches:
      parts.append([next(batches) for _ in range(steps)])
  saved = position.record(batches)
  assert position.check(saved, source, SEED) == start + steps * BATCH
  return {
      name: np.concatenate([
          part[step][name] for step in range(steps) for part in parts
      ])
      for name in parts[0][0]
  }


restarts = st.lists(
    st.tuples(
        st.integers(1, 6), st.sampled_from([1, 2, 4]), st.sampled_from([0, 3]),
        st.integers(0, 3),
    ),
    min_size=1, max_size=5,
)


@pytest.mark.parametrize("tried", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_restarts_on_other_processes_change_nothing(case, tried):
  _, _, source = case
  whole = read(source, 0, 30, threads=0)

  @settings(max_examples=tried, deadline=None)
  @given(restarts)
  def restarted(runs):
    at = 0
    for steps, processes, threads, prefetch in runs:
      found = read(
          source, at, steps, processes, threads=threads, prefetch=prefetch
      )
      for name, rows in found.items():
        np.testing.assert_array_equal(rows, whole[name][at : at + len(rows)])
      at += steps * BATCH

  restarted()


def test_nothing_is_repeated_or_left_out_within_an_epoch(case):
  _, _, source = case
  if getattr(source, "order", None) is not None:
    pytest.skip("its epochs are those of its parts; see tests of that source")
  count = len(source)
  steps = -(-3 * count // BATCH)
  ids = read(source, 0, steps, 2, threads=2)["id"]
  expected = sorted(int(source[i]["id"]) for i in range(count))
  for epoch in range(3):
    assert sorted(ids[epoch * count : (epoch + 1) * count].tolist()) == expected


@pytest.mark.slow
def test_a_thousand_batches_with_kills_on_1_2_and_4_processes_and_workers(case):
  _, _, source = case
  whole = read(source, 0, 1_000, threads=2)
  random, at = np.random.default_rng(0), 0
  layouts = collections.deque([(1, 0), (2, 1), (4, 0), (1, 2), (2, 0), (4, 1)])
  while at < 1_000 * BATCH:
    processes, workers = layouts[0]
    layouts.rotate(1)
    # As a kill does, it loses what was read ahead of the position saved last.
    steps = min(int(random.integers(1, 400)), 1_000 - at // BATCH)
    found = read(source, at, steps, processes, workers=workers)
    for name, rows in found.items():
      np.testing.assert_array_equal(rows, whole[name][at : at + len(rows)])
    at += steps * BATCH

"""A run stops at the first position whose window has too many bad examples."""

import json
import random
import re

import numpy as np
import pytest

from basic.data import batches, damage, examples

REASONS = ("truncated image", "no caption")


def failure(index, reason=REASONS[0], attempt=0):
  return damage.Failure(index, reason, f"{reason}: planted", attempt=attempt)


def first_excess(bad, bound):
  """(the first position where too much is bad, bad ones, of how many)."""
  for p, is_bad in enumerate(bad):
    if bound.epoch is not None and bound.epoch < bound.window:
      start, whole = p // bound.epoch * bound.epoch, bound.epoch
    else:
      start, whole = max(0, p - bound.window + 1), bound.window
    count = sum(bad[start : p + 1])
    if is_bad and count / whole > bound.most:
      return p, count, p + 1 - start
  return None


def counted(bad, bound, sizes, record_between=False):
  """Counts batches of these sizes; (the position reached, sentence) or None."""
  tally, position = damage.Tally(), 0
  for size in sizes:
    stop = min(position + size, len(bad))
    rows = [
        (p, failure(p, REASONS[p % 2])) for p in range(position, stop) if bad[p]
    ]
    random.Random(size).shuffle(rows)  # Processes are gathered in any order.
    tally, sentence = damage.add(tally, rows, stop, bound)
    if sentence is not None:
      return stop, sentence
    if record_between:
      tally = damage.restored(json.loads(json.dumps(tally.record())))
    position = stop
  assert position == len(bad)
  return None


@pytest.mark.parametrize("bound", [
    damage.Limit(0.1, 100), damage.Limit(0.1, 100, 1000), damage.Limit(0.0, 7),
    damage.Limit(0.25, 40, 40), damage.Limit(0.29, 100, 50),
    damage.Limit(0.3, 1000, 20), damage.Limit(0.1, 1000, 3),
    damage.Limit(1.0, 10, 5),
], ids=str)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.28, 1.0])
def test_a_run_stops_in_the_batch_of_the_first_excess(bound, share):
  draw = np.random.default_rng(0)
  for _ in range(5):
    bad = (draw.random(500) < share).tolist()
    expected = first_excess(bad, bound)
    for batch, resumed in ((1, False), (16, True), (77, True), (512, False)):
      sizes = [batch] * (500 // batch + 1)
      found = counted(bad, bound, sizes, resumed)
      if expected is None:
        assert found is None
        continue
      p, count, seen = expected
      stop, sentence = found
      assert stop == min(500, (p // batch + 1) * batch)
      numbers = re.match(r"([\d,]+) of the (?:first|last) ([\d,]+) ", sentence)
      assert (int(numbers[1]), int(numbers[2])) == (count, seen)


def test_exactly_the_fraction_is_allowed_and_one_more_is_not():
  for most, window in ((0.1, 10_000), (0.29, 100), (0.07, 100), (0.3, 10)):
    allowed = round(most * window)
    bad = [True] * allowed + [False] * (window - allowed)
    bound = damage.Limit(most, window)
    assert counted(3 * bad, bound, [window] * 3) is None
    stop, _ = counted([*bad[:allowed], True, *bad], bound, [1] * 3 * window)
    assert stop == allowed + 1


def test_a_bad_example_leaves_the_window_after_as_many_as_it_is_long():
  bound = damage.Limit(0.1, 10)
  apart = [True, *[False] * 9, True, *[False] * 9]
  assert counted(apart, bound, [4] * 5) is None
  near = [True, *[False] * 8, True, *[False] * 9]
  assert counted(near, bound, [1] * 19)[0] == 10


def test_half_of_a_small_data_set_stops_within_its_first_epoch():
  order = np.random.default_rng(0).permutation(100)
  bound = damage.limit(range(100), most=0.1, window=10_000)
  stop, sentence = counted((order < 50).tolist(), bound, [16] * 7)
  assert stop < 50
  assert re.match(r"11 of the first \d+ examples of an epoch of 100 ", sentence)


def test_chance_does_not_stop_a_small_data_set_below_the_limit():
  draw, bad = np.random.default_rng(0), []
  for _ in range(300):  # epochs, of which 9 of 100 examples are bad
    bad += (draw.permutation(100) < 9).tolist()
  bound = damage.limit(range(100), most=0.09, window=10_000)
  assert counted(bad, bound, [100] * 300) is None


def test_a_source_with_an_order_of_its_own_has_no_epochs():
  class Mixed(list):
    order = staticmethod(lambda seed: lambda position: 0)

  assert damage.limit([1] * 5, most=0.1, window=9).epoch == 5
  assert damage.limit(Mixed([1] * 5), most=0.1, window=9).epoch is None


def test_substitutes_are_counted_as_reads_and_not_as_positions():
  tally, sentence = damage.add(
      damage.Tally(),
      [(3, failure(7)), (3, failure(9, REASONS[1], attempt=1)), (5, failure(9))],
      8, damage.Limit(0.5, 8),
  )
  assert sentence is None
  assert tally.reads == {REASONS[0]: 2, REASONS[1]: 1}
  assert tally.substituted == 2
  assert tally.fraction(8, damage.Limit(0.5, 8)) == 2 / 8
  assert tally.recent == ((3, REASONS[0]), (5, REASONS[0]))


def test_the_fraction_is_of_the_positions_of_the_window_that_were_reached():
  tally = damage.Tally().of_stage(100)
  bound = damage.Limit(1.0, 50)
  assert tally.fraction(100, bound) == 0
  tally, _ = damage.add(tally, [(105, failure(0))], 110, bound)
  assert tally.fraction(110, bound) == 1 / 10
  tally, _ = damage.add(tally, [], 155, bound)
  assert tally.fraction(155, bound) == 1 / 50
  tally, _ = damage.add(tally, [], 156, bound)
  assert tally.fraction(156, bound) == 0


def test_a_stage_begins_with_an_empty_window_and_keeps_the_counts():
  bound = damage.Limit(0.5, 4)
  tally, _ = damage.add(damage.Tally(), [(1, failure(1)), (3, failure(3))], 4, bound)
  tally = tally.of_stage(4)
  tally, sentence = damage.add(tally, [(4, failure(0))], 6, bound)
  assert sentence is None
  assert (tally.substituted, tally.fraction(6, bound)) == (3, 1 / 2)


def test_the_sentence_has_reasons_the_newest_examples_and_the_limit():
  rows = [(p, failure(10 + p, REASONS[p % 3 == 0])) for p in range(7)]
  _, sentence = damage.add(damage.Tally(), rows, 7, damage.Limit(0.5, 10))
  assert sentence.startswith(
      "6 of the last 6 examples could not be read (4 x truncated image, "
      "2 x no caption), and unreadable.most allows 0.5 of 10. The newest:\n"
  )
  assert sentence.count("\n") == 5
  assert sentence.endswith("example 16: no caption: planted")


def test_a_batch_says_which_reads_of_which_rows_failed():
  rows = [
      examples.Row(4, {"x": np.zeros(1)}),
      examples.Row(7, {"x": np.zeros(1)}, (failure(5), failure(6, REASONS[1]))),
  ]
  block = batches.Block(2)
  for place, row in enumerate(rows):
    block.put(place, row)
  _, failures = block.finish()
  assert [(f.row, f.attempt, f.example) for f in failures] == [(1, 0, 5), (1, 1, 6)]


class Ordered(list):
  """A source with an order of its own."""

  def order(self, seed):
    return lambda position: position % len(self)


def test_a_source_with_its_own_order_is_judged_over_as_many_as_it_has():
  small = damage.limit(Ordered([{}] * 50), most=0.1, window=10_000)
  assert small.span == 50
  bad = [(p, failure(p)) for p in (3, 8, 13, 18, 23)]
  tally, sentence = damage.add(damage.Tally(), bad, 24, small)
  assert sentence is None and tally.fraction(24, small) == 5 / 24
  _, sentence = damage.add(tally, [(28, failure(28))], 29, small)
  assert sentence is not None
  _, sentence = damage.add(tally, [(60, failure(10))], 61, small)
  assert sentence is None  # position 3 and 8 have left the window


@pytest.mark.parametrize("window", [7, 40, 64, 1000])
@pytest.mark.parametrize("length", [40, 300])
@pytest.mark.parametrize("kind", [list, Ordered])
def test_the_fraction_is_that_of_the_latest_positions(window, length, kind):
  """Of streams over epochs, with a window longer than the data and a shorter one."""
  draw = np.random.default_rng(window + length)
  torn = draw.random(length) < 0.1
  bad = np.concatenate([torn[draw.permutation(length)] for _ in range(700 // length)])
  bound = damage.limit(kind([{}] * length), most=1.0, window=window)
  most = min(window, length) if kind is Ordered else window
  for begin in (0, 33):
    tally, position = damage.Tally().of_stage(begin), begin
    assert tally.fraction(begin, bound) == 0
    while position < len(bad):
      stop = min(position + 16, len(bad))
      rows = [(p, failure(p)) for p in range(position, stop) if bad[p]]
      tally, _ = damage.add(tally, rows, stop, bound)
      tally, position = damage.restored(tally.record()), stop
      reached = count = 0
      for p in range(begin, position):
        if p >= position - most:
          reached += 1
          count += bad[p]
      assert tally.fraction(position, bound) == pytest.approx(count / reached)
  if window > length:  # After whole epochs it is the share of the data set.
    share = torn.sum() / length
    assert tally.fraction(len(bad), bound) == pytest.approx(share, rel=0.3)


def test_a_hundredth_of_the_data_is_a_hundredth_in_every_epoch():
  """Early in an epoch the fraction does not start again from 0."""
  bound = damage.limit([{}] * 1000, most=0.1, window=10_000)
  tally = damage.Tally()
  for position in range(100, 3100, 100):
    at = position - 50
    tally, _ = damage.add(tally, [(at, failure(at))], position, bound)
    assert tally.fraction(position, bound) == 0.01


def test_what_is_said_of_a_name_that_is_no_utf_8_can_be_written():
  failed = damage.Failure(3, "torn", "no caf\udce9", where="caf\udce9.png")
  assert failed.said == r"example 3 (caf\udce9.png): no caf\udce9"
  failed.said.encode()

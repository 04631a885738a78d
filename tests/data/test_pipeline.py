"""A stream is a function of its position; a pass judges each example once."""

import collections
import itertools
import json
import threading
import time

import numpy as np
import pytest

from basic import types
from basic.data import examples, pipeline, position


class Toy:
  """Images that say their index, with 1 to 3 captions."""

  def __init__(self, count, bad=(), fingerprint="toy"):
    self._count, self._bad = count, dict(bad)
    self.fingerprint = fingerprint
    self.reads = collections.Counter()

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    self.reads[index] += 1
    if index in self._bad:
      raise types.Unreadable(self._bad[index], "planted")
    return {
        "image": np.full((4, 4, 1), index % 256, np.uint8),
        "text": tuple(f"{index} {k}" for k in range(1 + index % 3)),
        "id": index,
    }


def tokenize(text):
  row = np.zeros(8, np.int32)
  row[: len(text)] = [ord(c) for c in text]
  return row


def jitter(image, rng):
  if rng is None:
    return image.astype(np.float32)
  return (image + rng.random(image.shape)).astype(np.float32)


PREPARE = examples.prepare(tokenize=tokenize, augment=jitter)


def take(source, steps, **settings):
  settings = {"seed": 7, "batch_size": 8, "threads": 0, **settings}
  with pipeline.stream(source, prepare=PREPARE, **settings) as batches:
    return list(itertools.islice(batches, steps))


def joined(parts):
  """The batches of several processes, as one process would make them."""
  return [
      {name: np.concatenate([part[name] for part in step]) for name in step[0]}
      for step in zip(*parts, strict=True)
  ]


def flat(batches):
  return {
      name: np.concatenate([batch[name] for batch in batches])
      for name in batches[0]
  }


def same(one, two):
  assert one.keys() == two.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], two[name])


def test_batches_have_shapes_and_dtypes():
  batch = take(Toy(20), 1)[0]
  described = {name: (x.shape, str(x.dtype)) for name, x in batch.items()}
  assert described == {
      "text": ((8, 8), "int32"), "image": ((8, 4, 4, 1), "float32"),
      "id": ((8,), "int32"), "caption_id": ((8, 2), "int32"),
  }


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_make_the_same_global_batch_in_the_same_order(processes):
  alone = take(Toy(20), 6)
  parts = [
      take(Toy(20), 6, shard=(i, processes)) for i in range(processes)
  ]
  same(flat(alone), flat(joined(parts)))
  assert parts[0][0]["id"].shape == (8 // processes,)


@pytest.mark.parametrize("start", [0, 8, 24, 13])
def test_resume_equals_the_uninterrupted_stream(start):
  whole = flat(take(Toy(20), 8))
  resumed = flat(take(Toy(20), 4, start=start))
  same({name: x[start : start + 32] for name, x in whole.items()}, resumed)


def test_resume_on_other_processes_is_exact():
  whole = flat(take(Toy(20), 6))
  parts = [take(Toy(20), 3, start=24, shard=(i, 4)) for i in range(4)]
  same({name: x[24:] for name, x in whole.items()}, flat(joined(parts)))


def test_batch_size_may_change_in_mid_stream():
  whole = flat(take(Toy(20), 8))
  small = take(Toy(20), 3, batch_size=8)
  large = take(Toy(20), 2, batch_size=16, start=24)
  for name, x in whole.items():
    both = np.concatenate([flat(small)[name], flat(large)[name]])
    np.testing.assert_array_equal(both, x[:56])


def test_position_counts_examples_of_all_processes():
  with pipeline.stream(
      Toy(20), prepare=PREPARE, batch_size=8, seed=0, start=5, shard=(1, 4),
      threads=2, prefetch=3,
  ) as batches:
    assert batches.position == 5
    next(batches)
    next(batches)
    assert batches.position == 21


def test_each_epoch_has_every_example_once_in_an_order_of_its_own():
  ids = flat(take(Toy(24), 9))["id"].reshape(3, 24)
  np.testing.assert_array_equal(
      np.sort(ids), np.tile(np.arange(24, dtype=np.int32), (3, 1))
  )
  assert not (ids[0] == ids[1]).all() and not (ids[1] == ids[2]).all()
  assert not (ids[0] == np.arange(24)).all()


def test_noise_is_new_in_each_epoch():
  found = flat(take(Toy(8), 2))
  first, second = (
      found["image"][np.flatnonzero(found["id"] == 3)[k]] for k in (0, 1)
  )
  assert (first != second).all()


def test_seed_changes_order_and_noise():
  one, two = (flat(take(Toy(24), 3, seed=seed)) for seed in (1, 2))
  assert (one["id"] != two["id"]).any()
  at = [np.flatnonzero(found["id"] == 5)[0] for found in (one, two)]
  assert (one["image"][at[0]] != two["image"][at[1]]).all()


@pytest.mark.parametrize("threads, prefetch", [(1, 1), (3, 5), (4, 0)])
def test_threads_do_not_change_the_stream(threads, prefetch):
  class Slow(Toy):
    def __getitem__(self, index):
      time.sleep(0.001 * (index % 3))  # later batches may be ready earlier
      return super().__getitem__(index)

  threaded = take(Slow(20), 6, threads=threads, prefetch=prefetch)
  same(flat(take(Toy(20), 6)), flat(threaded))


def test_source_smaller_than_the_batch_repeats():
  ids = take(Toy(3), 1)[0]["id"]
  assert sorted(collections.Counter(ids.tolist()).values()) == [2, 3, 3]


def test_seeking_far_reads_nothing_before():
  source = Toy(10)
  take(source, 1, start=10**12 + 3)
  assert sum(source.reads.values()) == 8


def test_ids_are_the_examples_of_any_position_without_reading():
  source = Toy(20)
  with pipeline.stream(
      source, prepare=PREPARE, batch_size=8, seed=3, threads=0
  ) as batches:
    ids = np.concatenate([next(batches)["id"] for _ in range(5)])
    reads = dict(source.reads)
    np.testing.assert_array_equal(batches.ids(0, 40), ids)
    np.testing.assert_array_equal(batches.ids(13, 15), ids[13:15])
    assert batches.ids(5, 5).shape == (0,)
    assert source.reads == reads


BAD = {2: "truncated image", 5: "truncated image", 11: "no caption"}


def test_unreadable_examples_are_replaced_by_their_substitutes():
  found = flat(take(Toy(24, bad=BAD), 3))["id"]
  meant = flat(take(Toy(24), 3))["id"]
  for was, now in zip(meant.tolist(), found.tolist(), strict=True):
    attempt, expected = 0, was
    while expected in BAD:
      attempt += 1
      expected = examples.substitute(was, attempt, 24)
    assert now == expected
  assert (found != meant).sum() == 3


def test_unreadable_examples_are_replaced_alike_on_any_processes():
  alone = take(Toy(24, bad=BAD), 6)
  parts = [take(Toy(24, bad=BAD), 6, shard=(i, 2)) for i in range(2)]
  same(flat(alone), flat(joined(parts)))
  resumed = take(Toy(24, bad=BAD), 3, start=24, threads=2)
  same(flat(alone[3:]), flat(resumed))


@pytest.mark.parametrize("threads", [0, 4])
def test_unreadable_examples_are_counted_by_reason(threads):
  counts = collections.Counter()
  for process in range(2):
    with pipeline.stream(
        Toy(24, bad=BAD), prepare=PREPARE, batch_size=8, seed=7,
        shard=(process, 2), threads=threads,
    ) as batches:
      assert batches.unreadable == {}
      for _ in range(3):
        next(batches)
      counts.update(batches.unreadable)
  # One epoch: each bad example once, and the substitutes that were bad too.
  expected = collections.Counter()
  for index, reason in BAD.items():
    expected[reason] += 1
    for attempt in itertools.count(1):
      other = examples.substitute(index, attempt, 24)
      if other not in BAD:
        break
      expected[BAD[other]] += 1
  assert counts == expected


def test_the_first_of_each_reason_is_logged(caplog):
  take(Toy(24, bad=BAD), 6)
  said = [record.getMessage() for record in caplog.records]
  assert len(said) == 2
  assert any("example 11: no caption: planted" in line for line in said)


def test_a_source_that_cannot_be_read_at_all_says_so():
  source = Toy(5, bad=dict.fromkeys(range(5), "truncated image"))
  with pytest.raises(RuntimeError, match=r"substitutes .*17 x truncated image"):
    take(source, 1)


def test_errors_in_threads_come_through_with_the_example():
  class Broken(Toy):
    def __getitem__(self, index):
      if index == 3:
        raise OSError("disk gone")
      return super().__getitem__(index)

  with pytest.raises(OSError, match="disk gone") as caught:
    take(Broken(8), 1, threads=2)
  assert "while reading example 3 of 8" in caught.value.__notes__


def test_a_stream_ends_with_its_first_error():
  # Else the batch that failed would be skipped, and the position be wrong.
  source = Toy(8, bad=dict.fromkeys(range(8), "no caption"))
  with pipeline.stream(
      source, prepare=PREPARE, batch_size=4, seed=0, threads=2
  ) as batches:
    with pytest.raises(RuntimeError, match="unreadable"):
      next(batches)
    source._bad.clear()
    with pytest.raises(ValueError, match="closed"):
      next(batches)
    assert batches.position == 0


def test_closing_ends_the_threads():
  before = set(threading.enumerate())
  batches = pipeline.stream(
      Toy(8), prepare=PREPARE, batch_size=4, seed=0, threads=3
  )
  next(batches)
  workers = set(threading.enumerate()) - before
  assert workers
  batches.close()
  batches.close()
  for worker in workers:
    worker.join(timeout=10)
    assert not worker.is_alive()
  with pytest.raises(ValueError, match="closed"):
    next(batches)


@pytest.mark.parametrize("settings, sentence", [
    (dict(batch_size=8, shard=(0, 3)), "8 rows cannot be shared equally by 3"),
    (dict(batch_size=0), "0 rows cannot be shared"),
    (dict(shard=(2, 2)), r"shard is \(2, 2\)"),
    (dict(start=-1), "start is -1"),
    (dict(seed=-1), "seed is -1"),
    (dict(seed=2**32), "seed is 4294967296"),
    (dict(prefetch=-1), "prefetch is -1"),
    (dict(workers=-1), "workers is -1"),
    (dict(workers=2, threads=0), "threads is 0 for 2 workers"),
    (dict(threads=-1), "threads is -1"),
])
def test_bad_settings_get_a_sentence(settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    take(Toy(20), 1, **settings)


def test_an_empty_source_gets_a_sentence():
  with pytest.raises(ValueError, match="the source has no examples"):
    take(Toy(0), 1)
  with pytest.raises(ValueError, match="the source has no examples"):
    pipeline.once(Toy(0), prepare=PREPARE, batch_size=2)


def test_sources_without_image_or_text_work():
  source = [{"label": i} for i in range(6)]
  batch = take(source, 1, batch_size=6)[0]
  assert set(batch) == {"label"}
  assert sorted(batch["label"].tolist()) == [0, 1, 2, 3, 4, 5]


def test_long_text_is_not_cut():
  source = [{"key": "x" * n} for n in (1, 3000, 70_000)]
  batch = take(source, 1, batch_size=3, threads=2)[0]
  assert sorted(len(key) for key in batch["key"].tolist()) == [1, 3000, 70_000]


def passed(source, **settings):
  settings = {"batch_size": 4, "threads": 0, **settings}
  judged = pipeline.once(source, prepare=PREPARE, **settings)
  return list(judged), judged.unreadable


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("count", [1, 4, 6, 9])
def test_a_pass_has_every_example_once_in_order(count, threads):
  batches, _ = passed(Toy(count), threads=threads)
  assert len(batches) == -(-count // 4)
  kept = np.concatenate([batch["id"][mask] for batch, mask in batches])
  np.testing.assert_array_equal(kept, np.arange(count))
  assert all(mask.shape == (4,) for _, mask in batches)


def test_rows_that_fill_repeat_the_first_row():
  batch, mask = passed(Toy(6))[0][-1]
  assert mask.tolist() == [True, True, False, False]
  assert batch["id"].tolist() == [4, 5, 4, 4]


def test_a_pass_has_no_noise():
  one, two = passed(Toy(6))[0], passed(Toy(6), threads=2)[0]
  for (left, mask), (right, other) in zip(one, two, strict=True):
    same(left, right)
    np.testing.assert_array_equal(mask, other)
  np.testing.assert_array_equal(one[0][0]["image"][3], np.full((4, 4, 1), 3.0))


def test_captions_are_counted_and_zeros_where_absent():
  for batch, _ in passed(Toy(6))[0]:
    most = max(1 + index % 3 for index in batch["id"])
    assert batch["captions"].shape == (4, most, 8)
    for index, rows in zip(batch["id"], batch["captions"], strict=True):
      real = 1 + index % 3
      for k in range(real):
        np.testing.assert_array_equal(rows[k], tokenize(f"{index} {k}"))
      assert not rows[real:].any()


@pytest.mark.parametrize("count", [1, 5, 8, 9])
def test_a_pass_is_shared_in_contiguous_rows(count):
  alone, _ = passed(Toy(count))
  parts = [passed(Toy(count), shard=(i, 2))[0] for i in range(2)]
  for (batch, mask), *shards in zip(alone, *parts, strict=True):
    np.testing.assert_array_equal(
        mask, np.concatenate([part_mask for _, part_mask in shards])
    )
    ids = np.concatenate([part["id"] for part, _ in shards])
    np.testing.assert_array_equal(batch["id"][mask], ids[mask])


def test_unreadable_examples_are_masked_and_counted_not_replaced():
  bad = {0: "truncated image", 4: "no caption", 5: "no caption", 6: "no caption",
         7: "truncated image"}
  batches, unreadable = passed(Toy(10, bad=bad))
  kept = np.concatenate([batch["id"][mask] for batch, mask in batches])
  assert kept.tolist() == [1, 2, 3, 8, 9]
  assert len(batches) == 3
  assert unreadable == {"truncated image": 2, "no caption": 3}
  assert batches[0][0]["id"].tolist() == [1, 1, 2, 3]
  # A batch without any readable row is filled from the start of the source.
  assert batches[1][0]["id"].tolist() == [1, 1, 1, 1]
  assert not batches[1][1].any()


def test_a_pass_over_nothing_readable_says_so():
  source = Toy(3, bad=dict.fromkeys(range(3), "no caption"))
  with pytest.raises(ValueError, match=r"none of 3 examples is readable.*3 x no"):
    passed(source)


def test_limit_stops_a_pass():
  source = Toy(20)
  batches, _ = passed(source, limit=6)
  assert sum(int(mask.sum()) for _, mask in batches) == 6
  assert max(source.reads) == 5
  assert len(passed(Toy(3), limit=100)[0]) == 1
  with pytest.raises(ValueError, match="limit is 0"):
    passed(Toy(3), limit=0)


def record(source, steps=3, **settings):
  settings = {"batch_size": 8, "seed": 7, "threads": 0, **settings}
  with pipeline.stream(source, prepare=PREPARE, **settings) as batches:
    for _ in range(steps):
      next(batches)
    return json.loads(json.dumps(position.record(batches)))


def test_a_saved_position_is_where_to_start():
  saved = record(Toy(20))
  start = position.check(saved, Toy(20), 7)
  assert start == 24
  whole = flat(take(Toy(20), 5))
  resumed = flat(take(Toy(20), 2, start=start))
  same({name: x[24:] for name, x in whole.items()}, resumed)


def test_a_source_without_a_fingerprint_is_known_by_its_size():
  saved = record([{"label": i} for i in range(5)])
  assert saved["fingerprint"] is None
  assert position.check(saved, [{"label": 0}] * 5, 7) == 24
  with pytest.raises(ValueError, match="examples is 5, this run has 6"):
    position.check(saved, [{"label": 0}] * 6, 7)


@pytest.mark.parametrize("source, seed, sentence", [
    (Toy(20, fingerprint="other"), 7, "fingerprint is toy, this run has other"),
    (Toy(21), 7, "examples is 20, this run has 21"),
    (Toy(20), 8, "seed is 7, this run has 8"),
])
def test_another_source_or_seed_is_refused(source, seed, sentence):
  with pytest.raises(ValueError, match=f"after 24 examples: the saved {sentence}"):
    position.check(record(Toy(20)), source, seed)


def test_another_shuffle_is_refused():
  saved = record(Toy(20))
  saved["next"] = saved["next"][::-1]
  with pytest.raises(ValueError, match="the settings shuffle and window, have"):
    position.check(saved, Toy(20), 7)
  saved["grain"] = "0.0.1"
  with pytest.raises(ValueError, match=r"the shuffle of grain .* is not that"):
    position.check(saved, Toy(20), 7)

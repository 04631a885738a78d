"""A read that hangs is said, and ends the run after a while."""

import logging
import pickle
import threading
import time

import numpy as np
import pytest

from basic import cli
from basic.data import examples, pipeline, stalls

PREPARE = examples.prepare(tokenize=None)


class Hanging:
  """Numbers, of which one is only given after `go` is set."""

  def __init__(self, hangs=3, count=16, pause=0.0):
    self.go = threading.Event()
    self._hangs, self._count, self._pause = hangs, count, pause

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    time.sleep(self._pause)
    if index == self._hangs:
      assert self.go.wait(30)
    return {"label": index}


@pytest.fixture
def source():
  made = Hanging()
  yield made
  made.go.set()


def opened(source, warn_after, stop_after, **settings):
  settings = {"batch_size": 8, "seed": 0, "threads": 2, **settings}
  return pipeline.stream(
      source, prepare=PREPARE,
      patience=stalls.Patience(warn_after, stop_after), **settings,
  )


def test_a_read_that_hangs_ends_the_wait_with_its_example(source):
  with opened(source, 10.0, 0.2) as batches, pytest.raises(
      cli.Stalled, match=r"no example came for 0 s; being read are example 3 for 0"
  ):
    next(batches), next(batches)
  with pytest.raises(ValueError, match="closed"):
    next(batches)


def test_a_read_that_hangs_for_a_while_is_warned_of_once_and_given(
    source, caplog
):
  caplog.set_level(logging.WARNING)
  threading.Timer(0.4, source.go.set).start()
  with opened(source, 0.1, None) as batches:
    found = np.concatenate([next(batches)["label"] for _ in range(2)])
  assert sorted(found.tolist()) == list(range(16))
  (record,) = [r for r in caplog.records if "no example came" in r.getMessage()]
  said = record.getMessage()
  assert "example 3 for" in said and "The thread that reads example 3:" in said
  assert "self.go.wait(30)" in said  # the line at which it hangs


def test_many_slow_reads_are_no_stall():
  source = Hanging(hangs=None, pause=0.05)  # 0.4 s a batch of 8
  with opened(source, 0.2, 0.3, threads=1) as batches:
    assert len(next(batches)["label"]) == 8


def test_an_evaluation_does_not_wait_for_ever_either(source):
  with pipeline.once(
      source, prepare=PREPARE, batch_size=8, threads=1,
      patience=stalls.Patience(10.0, 0.2),
  ) as batches, pytest.raises(cli.Stalled):
    list(batches)


def test_nothing_is_left_when_a_stream_or_a_pass_is_over():
  before = set(threading.enumerate())
  with opened(Hanging(hangs=None), 10.0, 10.0) as batches:
    next(batches)
    threads = set(threading.enumerate()) - before
    assert any(thread.name == "batches" for thread in threads)
  passed = pipeline.once(Hanging(hangs=None), prepare=PREPARE, batch_size=8)
  assert len(list(passed)) == 2  # Its end closes it.
  for thread in set(threading.enumerate()) - before:
    thread.join(timeout=10)
  assert set(threading.enumerate()) <= before


def test_a_source_that_is_watched_is_the_source(source):
  watched = stalls.Watched([{"label": 4}])
  copy = pickle.loads(pickle.dumps(watched))
  assert len(copy) == 1 and copy[0] == {"label": 4}
  assert copy.last_read > 0 and copy.reads() == []
  with pytest.raises(IndexError):
    copy[1]
  assert copy.reads() == []


def test_a_pass_that_has_ended_has_no_more():
  source = [{"label": k} for k in range(3)]
  with pipeline.once(
      source, prepare=examples.prepare(tokenize=None), batch_size=2
  ) as batches:
    assert len(list(batches)) == 2
    assert list(batches) == []

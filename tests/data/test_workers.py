"""Worker processes: the same stream, errors as sentences, and nothing left."""

import gc
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import planted
import pytest

from basic import cli
from basic.data import examples, pipeline

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PREPARE = examples.prepare(tokenize=None)


def stream(source, workers, **changes):
  return pipeline.stream(source, prepare=PREPARE, **{
      "batch_size": 8, "seed": 3, "threads": 2, "workers": workers, **changes
  })


def take(source, steps, workers, **changes):
  with stream(source, workers, **changes) as batches:
    found = [dict(batch) for batch in itertools.islice(batches, steps)]
    unreadable = batches.unreadable
  pids = {int(pid) for batch in found for pid in batch.pop("process")}
  return found, unreadable, pids


def alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  return state[0] != "Z"


def gone(pids):
  """Whether processes have ended within some seconds."""
  for _ in range(200):
    if not any(map(alive, pids)):
      return True
    time.sleep(0.05)
  return False


def test_the_number_of_workers_changes_nothing():
  bad = {2: "unreadable", 5: "unreadable", 11: "unreadable"}
  source = planted.Planted(24, bad)
  alone, unreadable, here = take(source, 6, 0)
  assert here == {os.getpid()}
  for workers in (1, 3):
    found, counts, pids = take(source, 6, workers)
    assert counts == unreadable and sum(counts.values()) >= 6
    assert len(pids) == workers and os.getpid() not in pids
    for one, two in zip(alone, found, strict=True):
      assert list(one) == list(two)
      for name in one:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name])
    assert gone(pids)


def test_a_stream_may_go_on_with_other_workers():
  ids = np.concatenate([b["id"] for b in take(planted.Planted(20), 5, 0)[0]])
  later, _, _ = take(planted.Planted(20), 3, 2, start=16, shard=(1, 2))
  rows = ids[16:].reshape(3, 8)[:, 4:]
  np.testing.assert_array_equal([batch["id"] for batch in later], rows)


def test_arrays_outlive_the_stream_and_can_be_written():
  with stream(planted.Planted(20), 1) as batches:
    first = next(batches)
    kept = first["image"].copy()
    for _ in range(4):
      next(batches)
  gc.collect()
  np.testing.assert_array_equal(first["image"], kept)
  first["image"][...] = 0


def faulty(fault):
  """A source whose first example, which tells the fields, can be read."""
  first = int(pipeline.orders.order(range(30), seed=3)(0))
  return planted.Planted(30, {i: fault for i in range(30) if i != first})


@pytest.mark.parametrize("fault, kind, sentence", [
    ("error", OSError, "disk gone"),
    ("strange", RuntimeError, "Strange: 1 and 2"),
    ("killed", RuntimeError, r"worker process \d of 2 \(\d+\) was killed by SIGKILL"),
])
def test_what_ends_a_worker_ends_the_stream_with_a_sentence(fault, kind, sentence):
  batches = stream(faulty(fault), 2)
  pids = [w.process.pid for w in batches._batches._batches._workers]
  with pytest.raises(kind, match=sentence) as caught:
    next(batches)
  if fault in ("error", "strange"):
    assert any("while reading example" in n for n in caught.value.__notes__)
    assert "in __getitem__" in str(caught.value.__cause__)
  assert gone(pids)
  with pytest.raises(ValueError, match="closed"):
    next(batches)


def test_a_source_that_cannot_be_copied_gets_a_sentence():
  source = planted.Planted(8)
  source.lock = open(os.devnull)
  with source.lock, pytest.raises(ValueError, match="need a copy of the source"):
    stream(source, 1)


def test_fields_that_differ_get_the_sentence_that_threads_give():
  source = planted.Ragged(16)
  sentences = []
  for workers in (0, 2):
    with pytest.raises(ValueError, match="a batch needs one shape") as caught:
      take(source, 1, workers, batch_size=16)
    sentences.append(str(caught.value).split("; ")[1])
  assert sentences[0] == sentences[1]


def test_closing_leaves_no_process_and_no_open_file():
  def files():
    return len(os.listdir("/proc/self/fd"))

  gc.collect()
  before = files()
  batches = stream(planted.Planted(20), 2)
  next(batches)
  pids = [w.process.pid for w in batches._batches._batches._workers]
  batches.close()
  batches.close()
  assert gone(pids) and files() == before
  unclosed = stream(planted.Planted(20), 1)
  next(unclosed)
  pids = [w.process.pid for w in unclosed._batches._batches._workers]
  del unclosed
  gc.collect()
  assert gone(pids) and files() == before


SCRIPT = """
import signal, sys, time
import planted
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may ignore it
from basic.data import examples, pipeline
if __name__ == "__main__":
  batches = pipeline.stream(
      planted.Planted(20, {{5: "slow"}} if {slow} else {{}}),
      prepare=examples.prepare(tokenize=None), batch_size=20, seed=0, workers=2)
  pids = [w.process.pid for w in batches._batches._batches._workers]
  print(*pids, flush=True)
  if not {slow}:
    next(batches)
  print("ready", flush=True)
  next(batches) if {slow} else time.sleep(60)
"""


@pytest.mark.parametrize("number, slow", [
    (signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, True),
])
def test_workers_end_with_the_process_that_started_them(tmp_path, number, slow):
  script = tmp_path / "script.py"
  script.write_text(textwrap.dedent(SCRIPT).format(slow=slow))
  path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "data")])
  process = subprocess.Popen(
      [sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
      stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path},
  )
  pids = [int(pid) for pid in process.stdout.readline().split()]
  assert process.stdout.readline() == "ready\n" and len(pids) == 2
  assert all(map(alive, pids))
  time.sleep(0.5)
  process.send_signal(number)
  process.wait(20)
  process.stdout.close()
  assert gone(pids)


def test_a_worker_initialises_no_device():
  found, _, _ = take(planted.Devices(8), 1, 1)
  assert not found[0]["initialised"].any()


def started(fault, stop_after):
  """A stream that has had a batch, and reads planted examples from now on."""
  order = pipeline.orders.order(range(30), seed=3)
  source = planted.Planted(30, {int(order(n)): fault for n in range(4, 30)})
  batches = stream(source, 1, batch_size=4, threads=1, prefetch=0)
  next(batches)  # The start of a worker may take long, too.
  patience = pipeline.stalls.Patience(warn_after=60.0, stop_after=stop_after)
  batches._batches._patience = patience
  return batches


def test_a_worker_imports_nothing_from_the_current_folder(tmp_path, monkeypatch):
  (tmp_path / "planted.py").write_text("raise ImportError('not this one')")
  monkeypatch.chdir(tmp_path)
  assert len(take(planted.Planted(8), 1, 1)[0]) == 1


def test_slow_reads_of_workers_are_no_stall():
  with started("slowly", stop_after=2.5) as batches:
    assert len(next(batches)["id"]) == 4  # in more than three seconds


def test_a_read_that_hangs_in_a_worker_is_named():
  batches = started("slow", stop_after=3.0)
  pids = [w.process.pid for w in batches._batches._batches._workers]
  with pytest.raises(cli.Stalled, match=r"being read are example \d+ for \d s"):
    next(batches)
  assert gone(pids)

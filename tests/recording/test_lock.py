"""A run's folder has one writer at a time, and a dead one owns nothing."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny

from basic.recording import lock

HOLD = """
import sys, time
from basic.recording import lock
with lock.hold(sys.argv[1]):
  print("held", flush=True)
  time.sleep(60)
"""


@contextlib.contextmanager
def held_by_another_process(folder):
  process = subprocess.Popen(
      [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True,
      env={**os.environ, "PYTHONPATH": str(tiny.ROOT)})
  try:
    assert process.stdout.readline() == "held\n"
    yield process
  finally:
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_owner_is_told_of_the_first_until_it_dies(tmp_path):
  folder = tmp_path / "run"
  with held_by_another_process(folder) as process:
    year = time.strftime("%Y-", time.gmtime())
    with pytest.raises(lock.InUseError) as refused, lock.hold(folder):
      pass
    said = str(refused.value)
    assert f"process {process.pid} on {os.uname().nodename}, since {year}" in said
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert (folder / lock.NAME).exists()  # A killed owner cannot clean up,
  with lock.hold(folder):  # and does not stand in the way.
    assert f'"pid": {os.getpid()}' in (folder / lock.NAME).read_text()


def test_one_process_is_no_exception(tmp_path):
  with lock.hold(tmp_path):
    with pytest.raises(lock.InUseError, match=f"process {os.getpid()} on"):
      with lock.hold(tmp_path):
        pass
  with lock.hold(tmp_path):
    pass


def test_nothing_is_left_of_a_folder_into_which_nothing_was_written(tmp_path):
  with lock.hold(tmp_path / "a" / "b"):
    pass
  assert list(tmp_path.iterdir()) == []
  with lock.hold(tmp_path / "a" / "b"):
    (tmp_path / "a" / "kept").touch()
  assert {p.name for p in tmp_path.rglob("*")} == {"a", "kept"}


def test_a_lock_on_a_file_that_its_last_owner_removed_is_no_lock(
    tmp_path, monkeypatch
):
  flock, taken = fcntl.flock, []

  def slow(descriptor, operation):
    if not taken:  # The owner before ends between `open` and `flock`.
      (tmp_path / lock.NAME).unlink()
    taken.append(descriptor)
    flock(descriptor, operation)

  monkeypatch.setattr(fcntl, "flock", slow)
  with lock.hold(tmp_path):
    assert len(taken) == 2
    with pytest.raises(lock.InUseError), lock.hold(tmp_path):
      pass


def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path, monkeypatch, caplog
):
  def refuse(descriptor, operation):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", refuse)
  with lock.hold(tmp_path):
    assert "cannot be locked (No locks available)" in caplog.text


FORK = """
import os, sys, time
from basic.recording import lock
with lock.hold(sys.argv[1]):
  child = os.fork()
  if child == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
  time.sleep(60)
"""


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path):
  parent = subprocess.Popen(
      [sys.executable, "-c", FORK, str(tmp_path)], stdout=subprocess.PIPE, text=True,
      env={**os.environ, "PYTHONPATH": str(tiny.ROOT)})
  child = int(parent.stdout.readline())
  try:
    with pytest.raises(lock.InUseError):
      with lock.hold(tmp_path):
        pass
    parent.kill()
    parent.wait()
    with lock.hold(tmp_path):
      pass
  finally:
    os.kill(child, signal.SIGKILL)
    parent.stdout.close()

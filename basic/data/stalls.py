"""Notices reads that hang: warns, and ends the run after a longer time.

A read that never returns can be neither interrupted nor skipped. So batches are
taken by a thread of their own, which may hang, while the caller waits for it with
a limit.
"""

import logging
import queue
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from basic import cli, types
from basic.data import damage

_log = logging.getLogger(__name__)
_SHOWN = 4  # reads whose stacks are shown
_FRAMES = 8  # innermost frames of a stack


class Patience(NamedTuple):
  """How long to wait while nothing is read.

  Attributes:
    warn_after: seconds until a warning.
    stop_after: seconds until `cli.Stalled`; None: for ever.
  """

  warn_after: float = 60.0
  stop_after: float | None = 600.0


PATIENCE = Patience()


class Watched:
  """A source that knows which of its examples are being read, by which thread.

  Attributes:
    source: the source.
    last_read: when a read ended last, in seconds of `time.monotonic`.
  """

  def __init__(self, source: types.Source):
    self.source = source
    self.last_read = 0.0
    self._reads: dict[int, tuple[int, float]] = {}
    self._elsewhere: dict[int, Sequence[tuple[int, float]]] = {}

  def __getstate__(self) -> types.Source:
    return self.source  # Another process has threads of its own.

  def __setstate__(self, source: types.Source) -> None:
    self.__init__(source)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> types.Example:
    thread = threading.get_ident()
    self._reads[thread] = index, time.monotonic()
    try:
      return self.source[index]
    finally:
      del self._reads[thread]
      self.last_read = time.monotonic()

  def where(self, index: int) -> str:
    """The file or record of an example; "" if the source does not say."""
    return damage.where(self.source, index)

  def reads(self) -> list[tuple[int, float, int | None]]:
    """(example that is read, since when, by which thread), the longest first.

    The thread is None where another process reads.
    """
    here = [(*read, thread) for thread, read in self._reads.copy().items()]
    elsewhere = [
        (*read, None) for reads in self._elsewhere.values() for read in reads
    ]
    return sorted([*here, *elsewhere], key=lambda read: read[1])

  def hear(
      self, process: int, last_read: float, reads: Sequence[tuple[int, float]]
  ) -> None:
    """Takes note of what another process on this machine reads.

    Args:
      process: its number.
      last_read: when a read ended there last, by the clock that all share.
      reads: (example, since when) of those that it reads now.
    """
    self.last_read = max(self.last_read, last_read)
    self._elsewhere[process] = reads


class Patient(Iterator):
  """Yields what another iterator does, and raises if that takes too long.

  Time counts from the request, or from the end of the last read, if that was
  later: many slow reads are not a stall.

  Args:
    batches: the other iterator; its `close` ends its threads.
    watched: the source that it reads.
    patience: how long to wait.
  """

  def __init__(self, batches: Any, watched: Watched, patience: Patience):
    self._batches, self._watched, self._patience = batches, watched, patience
    self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
    self._results: queue.SimpleQueue[tuple[Any, BaseException | None]]
    self._results = queue.SimpleQueue()
    self._thread: threading.Thread | None = None
    self._ended = False
    # Also where nobody calls `close`: the thread does not refer to this object.
    self._finalizer = weakref.finalize(self, _end, batches, self._requests)

  def __next__(self) -> Any:
    if self._ended:
      raise StopIteration
    if not self._finalizer.alive:
      raise ValueError("this iterator is closed; open another one.")
    if self._thread is None:
      # A daemon, since a read that hangs must not keep the program from ending.
      self._thread = threading.Thread(
          target=_serve, args=(self._batches, self._requests, self._results),
          name="batches", daemon=True,
      )
      self._thread.start()
    self._requests.put(True)
    result, error = self._wait()
    if error is not None:
      self._ended = isinstance(error, StopIteration)
      self.close()
      raise error
    return result

  def _wait(self) -> tuple[Any, BaseException | None]:
    """The next result; warns and raises where it does not come."""
    began, warned = time.monotonic(), False
    warn_after, stop_after = self._patience
    while True:
      idle = time.monotonic() - max(began, self._watched.last_read)
      if stop_after is not None and idle >= stop_after:
        self.close()
        raise cli.Stalled(
            f"{_describe(self._watched, idle)} Check the storage that the "
            "examples are read from, then start the same command again: it goes "
            "on from the newest checkpoint. unreadable.stop_after is how long to "
            "wait."
        )
      if warned and idle < warn_after:
        warned = False  # It went on.
      if not warned and idle >= warn_after:
        warned = True
        _log.warning("%s%s", _describe(self._watched, idle), _stacks(self._watched))
      due = [
          after - idle for after in (None if warned else warn_after, stop_after)
          if after is not None
      ]
      try:
        return self._results.get(timeout=max(min(due), 0.01) if due else None)
      except queue.Empty:
        continue

  def close(self) -> None:
    """Ends the threads, except those whose read hangs."""
    if self._finalizer.alive:
      self._finalizer()
      if self._thread is not None:
        self._thread.join(timeout=0.1)


def _end(batches, requests) -> None:
  requests.put(False)
  batches.close()


def _serve(batches, requests, results) -> None:
  """Takes a batch for every request, until one fails or there are no more."""
  while requests.get():
    try:
      results.put((next(batches), None))
    except BaseException as error:
      results.put((None, error))
      return


def _describe(watched: Watched, idle: float) -> str:
  now = time.monotonic()
  reads = [
      f"example {index} for {now - since:.0f} s"
      for index, since, _ in watched.reads()
  ]
  listed = ", ".join(reads[:_SHOWN]) + (", ..." if len(reads) > _SHOWN else "")
  doing = f"being read are {listed}." if reads else "no example is being read."
  return f"no example came for {idle:.0f} s; {doing}"


def _stacks(watched: Watched) -> str:
  """What the threads do that have read for the longest time."""
  frames = sys._current_frames()
  return "".join(
      f"\nThe thread that reads example {index}:\n"
      + "".join(traceback.format_stack(frames[thread])[-_FRAMES:])
      for index, _, thread in watched.reads()[:_SHOWN]
      if thread in frames
  )

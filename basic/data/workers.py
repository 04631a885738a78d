"""Worker processes that read the rows of batches into shared memory.

Every worker reads an equal part of every batch, so the position of a stream stays
one number, and the number of workers may change whenever a run resumes:

    this process              worker w of W
    memory of a batch   -->   rows w b/W to (w+1) b/W, by its threads
    batch  <--   "done", text, and reads that failed; or an error

The memory has no name: the kernel frees it with its last user, however that ends.
A worker imports neither the main script nor a device: it is a fresh interpreter
that opens a pickled copy of the source, and ends when this process does.
"""

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np

from basic.data import batches, reader, stalls, threads

_PATIENCE = 5  # seconds that a worker has to end
_PROGRAM = "from basic.data import reader; reader.serve({})"


class _Worker(NamedTuple):
  process: subprocess.Popen
  channel: connection.Connection
  answers: dict[int, reader.Answer]  # those that came early, by step


class Workers(Iterator):
  """Batches in order, made by worker processes.

  Args:
    read: number -> row; it is pickled.
    rows: which numbers are in which batch.
    watched: is told what the workers read.
    workers: number of processes.
    threads: that read, in each process.
    prefetch: batches begun before they are requested.
  """

  def __init__(
      self,
      read: threads.Read,
      rows: batches.Rows,
      watched: stalls.Watched,
      *,
      workers: int,
      threads: int,
      prefetch: int,
  ):
    self._read, self._rows, self._ahead = read, rows, prefetch
    self._watched = watched
    self._like: tuple[int, Mapping[str, batches.Kind]] | None = None
    self._begun = self._taken = 0
    self._pending: deque[batches.Arrays] = deque()
    self._workers: list[_Worker] = []
    # Also where nobody calls `close`, as when an exception ends the program.
    self._finalizer = weakref.finalize(self, _stop, self._workers)
    count = min(workers, rows.local)
    for index in range(count):
      self._workers.append(_start())
      self._send(index, reader.Share(read, rows, index, count, threads))

  def __next__(self) -> batches.Batch:
    if not self._finalizer.alive:
      raise ValueError("the stream is closed; no batch can be taken from it")
    if self._like is None:
      # Read here, since the memory is made here. A worker reads it again.
      row = self._read(self._rows.numbers(0)[0])
      self._like = row.index, batches.kinds(row.arrays or {})
    while len(self._pending) <= self._ahead:
      self._pending.append(self._begin(self._begun))
      self._begun += 1
    fields, step = self._pending.popleft(), self._taken
    self._taken += 1
    answers = [self._answer(w, step) for w in range(len(self._workers))]
    text = {
        name: np.concatenate([answer.text[name] for answer in answers])
        for name in answers[0].text
    }
    arrays = {
        name: text[name] if name in text else fields[name]
        for name in self._like[1]
    }
    return arrays, tuple(f for answer in answers for f in answer.failures)

  def _begin(self, step: int) -> batches.Arrays:
    """Makes the memory of a batch, and has the workers write into it."""
    assert self._like is not None
    spans, size = reader.spans(self._like[1], self._rows.local)
    memory = _memory()
    try:
      os.ftruncate(memory, size)
      fields = reader.views(mmap.mmap(memory, size), spans)
      for w in range(len(self._workers)):
        self._send(w, reader.Request(step, self._like), memory)
    finally:
      os.close(memory)
    return fields

  def _send(self, w: int, message: Any, memory: int | None = None) -> None:
    channel = self._workers[w].channel
    try:
      channel.send(message)
      if memory is not None:
        reader.send_memory(channel, memory)
    except (BrokenPipeError, ConnectionResetError):
      self._answer(w, -1)  # Raises what ended it.
    except Exception as error:  # Of whatever kind pickling raises.
      raise ValueError(
          f"worker processes need a copy of the source: {error}. Make the source "
          "one that can be pickled, or set workers to 0"
      ) from error

  def _answer(self, w: int, step: int) -> reader.Answer:
    """A worker's answer for a step; raises what it raised."""
    worker = self._workers[w]
    while step not in worker.answers:
      try:
        answer = worker.channel.recv()
      except (EOFError, ConnectionResetError):
        raise self._ended(w) from None
      if isinstance(answer, reader.Alive):
        self._watched.hear(w, *answer)
        continue
      if answer.error is not None:
        raise answer.error from reader.Remote(answer.trace)
      worker.answers[answer.step] = answer
    return worker.answers.pop(step)

  def _ended(self, w: int) -> RuntimeError:
    """The error that says how a worker ended."""
    process = self._workers[w].process
    try:
      status = process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
      status = None
    if status is not None and status < 0:
      how = f"was killed by {signal.Signals(-status).name}"
    else:
      how = f"ended with exit status {status}; its own message is above"
    return RuntimeError(
        f"worker process {w + 1} of {len(self._workers)} ({process.pid}) {how}. "
        "The run can be resumed. If memory ran out, lower loader.workers or "
        "loader.prefetch"
    )

  def close(self) -> None:
    """Ends the processes."""
    self._finalizer()
    self._pending.clear()


def _memory() -> int:
  """A file descriptor of memory without a name."""
  if hasattr(os, "memfd_create"):
    return os.memfd_create("batch")
  with tempfile.TemporaryFile() as file:  # macOS
    return os.dup(file.fileno())


def _start() -> _Worker:
  """A fresh interpreter that serves one end of a socket."""
  ours, theirs = socket.socketpair()
  with theirs:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(theirs.fileno())],
        pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
        # Ctrl-C is for this process, which then ends its workers.
        start_new_session=True,
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "JAX_PLATFORMS": "cpu",  # Devices belong to this process alone.
        },
    )
  return _Worker(process, connection.Connection(ours.detach()), {})


def _stop(workers: list[_Worker]) -> None:
  """A worker ends when its channel is closed; one that does not is killed."""
  for worker in workers:
    # A thread may be waiting for an answer, which would keep the socket open.
    with contextlib.suppress(OSError):
      with socket.socket(fileno=os.dup(worker.channel.fileno())) as link:
        link.shutdown(socket.SHUT_RDWR)
    worker.channel.close()
  for worker in workers:
    try:
      worker.process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
      worker.process.kill()
      worker.process.wait()

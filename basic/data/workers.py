"""Worker processes that read the rows of batches into shared memory.

Every worker reads an equal part of every batch, so the position of a stream stays
one number, and the number of workers may change whenever a run resumes:

    this process              worker w of W
    memory of a batch   -->   rows w b/W to (w+1) b/W, by its threads
    batch  <--   "done", text, and reads that failed; or an error

The memory is used again once nobody has the batch, see `shared_memory`. A worker
imports neither the main script nor a device: it is a fresh interpreter that opens a
pickled copy of the source, and ends when this process does.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np

from basic.data import batches, reader, shared_memory, stalls, threads

_HELD = 8  # batches of a caller that keep the memory of the next ones in use
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
    self._memories = shared_memory.Memories(prefetch + 1 + _HELD)
    # Also where nobody calls `close`, as when an exception ends the program.
    self._finalizer = weakref.finalize(
        self, _stop, self._workers, self._memories
    )
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
    """Takes memory for a batch, and has the workers write into it."""
    assert self._like is not None
    number, fields, descriptor = self._memories.lend(
        self._like[1], self._rows.local
    )
    try:
      for w in range(len(self._workers)):
        self._send(w, reader.Request(step, number, self._like), descriptor)
    finally:
      if descriptor is not None:
        os.close(descriptor)
    return fields

  def _send(self, w: int, message: Any, descriptor: int | None = None) -> None:
    channel = self._workers[w].channel
    try:
      channel.send(message)
      if descriptor is not None:
        shared_memory.send(channel, descriptor)
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


def _start() -> _Worker:
  """A fresh interpreter that serves one end of a socket."""
  ours, theirs = socket.socketpair()
  with theirs:
    process = subprocess.Popen(
        # -P: modules come from where they do here, not from the current folder.
        [sys.executable, "-P", "-c", _PROGRAM.format(theirs.fileno())],
        pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
        # Ctrl-C is for this process, which then ends its workers.
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
            "JAX_PLATFORMS": "cpu",  # Devices belong to this process alone.
        },
    )
  return _Worker(process, connection.Connection(ours.detach()), {})


def _stop(workers: list[_Worker], memories: shared_memory.Memories) -> None:
  """A worker ends when its channel is closed; one that does not is killed."""
  memories.close()
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

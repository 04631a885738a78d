"""A worker process, and what it and the process that started it exchange."""

import copy
import dataclasses
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import connection, reduction
from typing import Any, NamedTuple

import cv2
import numpy as np

from basic.data import batches, examples, shared_memory, stalls, threads

_HEARTBEAT = 1.0  # seconds between two messages about what is read
_SHOWN = 4  # reads in such a message


class Share(NamedTuple):
  """What a worker reads of every batch: its equal part of the rows.

  Attributes:
    read: number -> row.
    rows: which numbers are in which batch of this process.
    worker: its number, from 0.
    workers: how many there are.
    threads: that read.
  """

  read: threads.Read
  rows: batches.Rows
  worker: int
  workers: int
  threads: int

  @property
  def places(self) -> slice:
    """Its rows within a batch."""
    size = self.rows.local
    return slice(
        size * self.worker // self.workers,
        size * (self.worker + 1) // self.workers,
    )


class Request(NamedTuple):
  """Asks for a step's rows; memory that is new to the worker follows.

  Attributes:
    step: from 0.
    memory: number of the memory of the batch; None: it is used once.
    like: an example, and the kinds of its fields, which all must have.
  """

  step: int
  memory: int | None
  like: tuple[int, Mapping[str, batches.Kind]]


@dataclasses.dataclass
class Answer:
  """What a worker says of its rows; their arrays are in the shared memory.

  Attributes:
    step: of the request.
    text: fields of text, which have no fixed width.
    failures: the reads that failed before a row was read, with rows counted in
      the whole batch.
    error: what ended the reading; None if all rows are there.
    trace: the traceback of the error.
  """

  step: int
  text: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  failures: examples.Failures = ()
  error: Exception | None = None
  trace: str = ""


class Alive(NamedTuple):
  """What a worker reads at the moment; sent once a second.

  Attributes:
    last_read: when a read ended last.
    reads: (example, since when) of the longest reads that go on.
  """

  last_read: float
  reads: tuple[tuple[int, float], ...]


class Remote(Exception):
  """The traceback of an error in a worker, as the cause of that error."""


def serve(descriptor: int) -> None:
  """Runs a worker until the other end of its socket is closed.

  Args:
    descriptor: of the socket: a `Share` comes in, then a `Request` for each step;
      an `Answer` to each goes out.
  """
  # The other process decides when to stop, and closes the socket then.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  cv2.setNumThreads(0)  # Images are small, and there are threads enough.
  channel = connection.Connection(descriptor)
  try:
    _serve(channel)
  except (EOFError, OSError):
    pass
  os._exit(0)  # Threads may be in the middle of reading.


def _serve(channel: connection.Connection) -> None:
  try:
    share: Share = channel.recv()
  except (EOFError, OSError):
    raise
  except BaseException as error:
    sentence = ValueError(
        f"a worker process cannot make its copy of the source: {error}. Its class "
        "must be in a module that can be imported, not in the main script; or set "
        "workers to 0"
    )
    channel.send(Answer(0, error=sentence, trace=traceback.format_exc()))
    raise EOFError from error
  begun: queue.SimpleQueue[Any] = queue.SimpleQueue()
  lock = threading.Lock()  # One message after another.
  threading.Thread(
      target=_answer, args=(channel, lock, begun), daemon=True
  ).start()
  watched = getattr(share.read, "source", None)
  if isinstance(watched, stalls.Watched):
    threading.Thread(
        target=_live, args=(channel, lock, watched), daemon=True
    ).start()
  pool, mapped = threads.pool(share.threads), shared_memory.Mapped(channel)
  while True:
    request: Request = channel.recv()
    begun.put((request.step, share.places.start, *_begin(
        pool, share, request, mapped
    )))


def _begin(
    pool, share: Share, request: Request, mapped: shared_memory.Mapped
) -> tuple[Any, Sequence]:
  """Lets the threads write this worker's rows of a batch."""
  whole = mapped.arrays(request.memory, request.like[1], share.rows.local)
  part = {name: field[share.places] for name, field in whole.items()}
  numbers = share.rows.numbers(request.step)[share.places]
  block = batches.Block(len(numbers), part, request.like)
  return block, threads.begin(pool, share.threads, share.read, numbers, block)


def _live(
    channel: connection.Connection, lock: Any, watched: stalls.Watched
) -> None:
  """Says once a second what is read, while something is."""
  while True:
    time.sleep(_HEARTBEAT)
    reads = tuple((index, since) for index, since, _ in watched.reads()[:_SHOWN])
    if reads:
      _send(channel, lock, Alive(watched.last_read, reads))


def _send(channel: connection.Connection, lock: Any, message: Any) -> None:
  with lock:
    try:
      channel.send(message)
    except OSError:
      os._exit(0)  # Nobody is there to read it.


def _answer(
    channel: connection.Connection, lock: Any, begun: queue.SimpleQueue
) -> None:
  """Answers the requests one after another, when their rows are there."""
  while True:
    step, first, block, parts = begun.get()
    try:
      for part in parts:
        part.result()
      arrays, failures = block.finish()
      text = {n: array for n, array in arrays.items() if array.dtype.kind in "US"}
      answer = Answer(step, text, tuple(
          failure._replace(row=failure.row + first) for failure in failures
      ))
    except BaseException as error:  # A foreign tokenizer's panic is no Exception.
      answer = Answer(step, error=_sendable(error), trace=traceback.format_exc())
    _send(channel, lock, answer)


def _sendable(error: BaseException) -> Exception:
  """The error itself if a copy of it can be made, else one that says the same."""
  if not isinstance(error, Exception):
    return _described(error)
  try:
    reduction.ForkingPickler.dumps(error)
    copy.copy(error)  # As unpickling would, it calls the class with `args`.
  except Exception:
    return _described(error)
  return error


def _described(error: BaseException) -> RuntimeError:
  described = RuntimeError(f"{type(error).__name__}: {error}")
  for note in getattr(error, "__notes__", ()):
    described.add_note(note)
  return described

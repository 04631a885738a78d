"""Threads that read the rows of batches, some batches ahead of the caller.

All threads work on the same batch before they begin the next, so that the first
batch is there soon and few unfinished batches are in memory.
"""

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

from basic.data import batches, examples

_MOST_ROWS = 32  # read by a thread at a time

Read = Callable[[int], examples.Row]  # number of an example -> its row


class Threads(Iterator):
  """Batches in order, made by threads; see `batches.Collector`.

  Args:
    read: number -> row; called by several threads at once.
    rows: which numbers are in which batch.
    collect: makes the collector of a batch of `rows.local` rows.
    threads: that read; 0 reads each batch when it is requested.
    prefetch: batches begun before they are requested.
    steps: number of batches; None: without end.
  """

  def __init__(
      self,
      read: Read,
      rows: batches.Rows,
      collect: Callable[[int], batches.Collector],
      *,
      threads: int,
      prefetch: int,
      steps: int | None = None,
  ):
    self._read, self._rows, self._collect = read, rows, collect
    self._ahead = prefetch if threads else 0
    self._pool = pool(threads) if threads else None
    self._threads, self._begun = threads, 0
    self._steps = math.inf if steps is None else steps
    self._pending: collections.deque[Any] = collections.deque()
    self._closed = False

  def __next__(self) -> Any:
    if self._closed:
      raise ValueError("the stream is closed; no batch can be taken from it")
    while len(self._pending) <= self._ahead and self._begun < self._steps:
      self._pending.append(self._begin(self._begun))
      self._begun += 1
    if not self._pending:
      raise StopIteration
    collector, parts = self._pending.popleft()
    for part in parts:
      part.result()
    return collector.finish()

  def _begin(self, step: int) -> tuple[Any, Sequence[futures.Future]]:
    collector = self._collect(self._rows.local)
    numbers = self._rows.numbers(step)
    if self._pool is None:
      fill(self._read, numbers, collector, 0)
      return collector, ()
    return collector, begin(
        self._pool, self._threads, self._read, numbers, collector
    )

  def close(self) -> None:
    """Stops the threads, after the rows that they are reading."""
    self._closed = True
    self._pending.clear()
    if self._pool is not None:
      self._pool.shutdown(wait=False, cancel_futures=True)


def pool(threads: int) -> futures.ThreadPoolExecutor:
  """Threads that read."""
  return futures.ThreadPoolExecutor(threads, thread_name_prefix="basic-reader")


def begin(
    executor: futures.Executor,
    threads: int,
    read: Read,
    numbers: range,
    collector: batches.Collector,
) -> list[futures.Future]:
  """Lets threads read the rows of a batch.

  Args:
    executor: the threads.
    threads: their number.
    read: number -> row.
    numbers: of the examples, in the order of the batch.
    collector: takes the rows; the first one at place 0.

  Returns:
    Futures: the batch is full when all are done.
  """
  size = min(_MOST_ROWS, max(1, math.ceil(len(numbers) / threads)))
  return [
      executor.submit(fill, read, numbers[first:first + size], collector, first)
      for first in range(0, len(numbers), size)
  ]


def fill(
    read: Read, numbers: range, collector: batches.Collector, first: int
) -> None:
  """Reads some rows of a batch, the first of them at the place `first`."""
  for place, number in enumerate(numbers, first):
    collector.put(place, read(number))

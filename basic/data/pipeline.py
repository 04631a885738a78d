"""Examples to batches: an endless, resumable stream, or one ordered pass.

The state of a stream is a single number, the examples seen, which means the same
for any batch size and any number of processes: with B the batch size, P
processes and b = B / P,

    row j of process p in step s  =  example number  start + s B + p b + j,

and example number n is a pure function of (source, seed, n): which example it
is, which of its captions is used, and its random augmentation. So any number of
processes gives the same global batch in the same order, and a stream can resume
at any n without reading what came before.
"""

import collections
import dataclasses
import functools
import logging
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Int64

from basic import types
from basic.data import batches, draws, examples, orders, stalls, threads, workers

Arrays: TypeAlias = examples.Arrays
Prepare: TypeAlias = examples.Prepare

_log = logging.getLogger(__name__)


class _Batches(Iterator):
  """What `Stream` and `Pass` share: closing, and counts of failed reads."""

  def __init__(self, made: threads.Threads | workers.Workers | stalls.Patient):
    self._batches = made
    self._unreadable: collections.Counter[str] = collections.Counter()
    self.failures: examples.Failures = ()

  def _next(self) -> Any:
    try:
      collated, failures = next(self._batches)
    except StopIteration:
      raise
    except Exception:
      self.close()  # A batch is lost; continuing would shift all positions.
      raise
    # Counted when the caller gets the batch, not when a thread prefetches it,
    # so that the counts are a function of the position too.
    self.failures = failures
    for failure in failures:
      if failure.reason not in self._unreadable:
        _log.warning(
            "unreadable, the first for this reason: example %d: %s",
            failure.example, failure.message,
        )
      self._unreadable[failure.reason] += 1
    return collated

  @property
  def unreadable(self) -> dict[str, int]:
    """Failed reads so far, by reason, in the rows of this process."""
    return dict(self._unreadable)

  def close(self) -> None:
    """Stops threads and processes; no batch can be taken afterwards."""
    self._batches.close()

  def __enter__(self):
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


class Stream(_Batches):
  """Endless batches; see `stream`. Close it, or use it in a `with`.

  Attributes:
    source: where the examples come from.
    seed: of the order, the choice of captions and the augmentation.
    position: examples that the caller has received, over all processes.
    unreadable: reason -> failed reads in the rows of this process, those of
      substitutes included.
    failures: the failed reads in this process's rows of the newest batch.
  """

  def __init__(
      self,
      made: threads.Threads | workers.Workers | stalls.Patient,
      rows: batches.Rows,
      source: types.Source,
      seed: int,
      order: orders.Order,
  ):
    super().__init__(made)
    self.source = source
    self.seed = seed
    self.position = rows.start
    self._batch_size = rows.batch_size
    self._order = order

  def __next__(self) -> Arrays:
    batch = self._next()
    self.position += self._batch_size
    return batch

  def ids(self, start: int, stop: int) -> Int64[np.ndarray, "n"]:
    """Which examples are at a range of positions, without reading them.

    The last batch is `stream.ids(stream.position - batch_size,
    stream.position)`. Where an example is unreadable it names that one, not
    its substitute.

    Args:
      start: first position, from 0.
      stop: one after the last position.

    Returns:
      Indices into the source, one per position, over all processes.
    """
    return np.array([self._order(i) for i in range(start, stop)], np.int64)


def stream(
    source: types.Source,
    *,
    prepare: Prepare,
    batch_size: int,
    seed: int,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    threads: int = 8,
    workers: int = 0,
    prefetch: int = 2,
    shuffle: str | None = "examples",
    window: int = 8,
    patience: stalls.Patience = stalls.PATIENCE,
) -> Stream:
  """Shuffled, full batches of a source, endlessly, from any position.

  Each epoch contains every example once, in a new order. A batch may span two
  epochs, and may then contain an example twice, as it does if it is larger than
  the source. An unreadable example is replaced by another one, see
  `examples.substitute`, and counted.

  Threads share Python's lock, which all code but decoding holds. Where that is
  the limit, `workers` processes read: each starts in a second or two, opens the
  source for itself, and writes its part of each batch into shared memory.

  Args:
    source: at least one example. Threads read it concurrently; for `workers` it
      is pickled.
    prepare: called with a generator for each example; see `examples.prepare`.
    batch_size: rows of all processes together; positive.
    seed: of the order, the choice of captions and the augmentation; 0 to
      2**32 - 1.
    start: position to resume from: the examples seen so far, which need not be
      a multiple of `batch_size`.
    shard: (index of this process, number of processes), which must divide
      `batch_size`.
    threads: threads that read, in this process or in each worker; 0 reads
      each batch when it is requested.
    workers: processes that read in place of this one; 0: none. `threads`,
      `workers` and `prefetch` change nothing of what is read.
    prefetch: batches that are begun before they are requested. So many, and
      one more, are in memory.
    shuffle: as in `orders.order`.
    window: as in `orders.order`.
    patience: how long to wait while no example is read; not where each batch
      is read when it is requested.

  Returns:
    An iterator over dicts of arrays with a leading axis of
    batch_size / processes rows.

  Raises:
    ValueError: if the source is empty, a number is out of its range, or the
      source has not what `shuffle` needs; later, from the iterator, if examples
      do not have equal fields and shapes, or cannot be pickled for `workers`.
    RuntimeError: from the iterator, if a worker process has ended.
    cli.DamagedData: from the iterator, if an example and 16 substitutes for it
      are unreadable; `cli.Stalled` if a read does not end.

  Example:
    >>> source = [{"label": 0}, {"label": 1}, {"label": 2}]
    >>> prepare = examples.prepare(tokenize=None)
    >>> with stream(source, prepare=prepare, batch_size=3, seed=0,
    ...             threads=0) as batches:
    ...   sorted(next(batches)["label"].tolist()), batches.position
    ([0, 1, 2], 3)
  """
  _check(source, batch_size, shard, threads)
  _check_endless(seed, start, threads, workers, prefetch)
  order = orders.order(source, seed=seed, shuffle=shuffle, window=window)
  rows = batches.Rows(start, batch_size, shard)
  watched = stalls.Watched(source)
  read = _Read(
      watched, prepare, order, draws.Draws(seed), batch_size, start % batch_size
  )
  made = _made(read, rows, watched, threads, workers, prefetch)
  if threads:
    made = stalls.Patient(made, watched, patience)
  return Stream(made, rows, source, seed, order)


@dataclasses.dataclass(frozen=True)
class _Read:
  """Number of an example -> its row. A class, so that it can be pickled."""

  source: types.Source
  prepare: Prepare
  order: orders.Order
  draws: draws.Draws
  batch_size: int
  offset: int  # of the first example of each batch

  def __call__(self, number: int) -> examples.Row:
    return examples.read_or_substitute(
        self.source, self.prepare, int(self.order(number)), self.draws(number),
        self._companion(number),
    )

  def _companion(self, number: int) -> int | None:
    """The example that the rows of this batch share, if a look asks for it."""
    if not getattr(self.prepare, "needs_companion", False):
      return None
    batch = (number - self.offset) // self.batch_size
    return examples.companion(self.draws.seed, batch, len(self.source))


def _made(
    read: threads.Read,
    rows: batches.Rows,
    watched: stalls.Watched,
    count: int,
    processes: int,
    prefetch: int,
) -> threads.Threads | workers.Workers:
  """Batches read by threads here, or by those of worker processes."""
  if processes:
    return workers.Workers(
        read, rows, watched, workers=processes, threads=count, prefetch=prefetch
    )
  return threads.Threads(
      read, rows, batches.Block, threads=count, prefetch=prefetch
  )


def _check(source, batch_size: int, shard: tuple[int, int], threads: int) -> None:
  index, processes = shard
  if len(source) == 0:
    raise ValueError("the source has no examples; check its name and split")
  if not 0 <= index < processes:
    raise ValueError(
        f"shard is {shard}; expected (index, number of processes) with index "
        "from 0 and below the number"
    )
  if batch_size < 1 or batch_size % processes:
    raise ValueError(
        f"a batch of {batch_size} rows cannot be shared equally by {processes} "
        f"processes; give a positive multiple of {processes}"
    )
  if threads < 0:
    raise ValueError(f"threads is {threads}; expected 0 or more")


def _check_endless(
    seed: int, start: int, threads: int, workers: int, prefetch: int
) -> None:
  if not 0 <= seed < 2**32:
    raise ValueError(f"seed is {seed}; expected 0 to 2**32 - 1")
  if start < 0:
    raise ValueError(f"start is {start} examples; expected 0 or more")
  if workers < 0:
    raise ValueError(f"workers is {workers}; expected 0 or more")
  if workers and not threads:
    raise ValueError(f"threads is 0 for {workers} workers; give each 1 or more")
  if prefetch < 0:
    raise ValueError(f"prefetch is {prefetch} batches; expected 0 or more")


class Pass(_Batches):
  """One ordered pass; see `once`.

  Attributes:
    unreadable: reason -> examples of this process that are masked out.
  """

  def __next__(self) -> tuple[Arrays, Bool[np.ndarray, "b"]]:
    return self._next()


def once(
    source: types.Source,
    *,
    prepare: Prepare,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
    limit: int | None = None,
    threads: int = 8,
    patience: stalls.Patience = stalls.PATIENCE,
) -> Pass:
  """One pass over a source, in order and without augmentation.

  All batches have the same shape, but for "captions", and all processes get
  equally many. Rows that are unreadable, or past the end, repeat the batch's
  first readable row and have a False mask: an evaluation uses no substitutes,
  and counts unreadable examples in `unreadable`.

  "captions" [b k t] has the k of the example with the most captions in this
  batch of this process. Examples with fewer captions are padded with zeros, and
  their "caption_languages" [b k], if they have any, with "".

  Args:
    source: at least one example. Threads read it concurrently.
    prepare: called without a generator; see `examples.prepare`.
    batch_size: rows of all processes together; positive.
    shard: (index of this process, number of processes), which must divide
      `batch_size`.
    limit: the number of examples to use; None means all.
    threads: threads that read; 0 reads each batch when it is requested.
    patience: as in `stream`.

  Returns:
    An iterator over (dict of arrays with b = batch_size / processes rows, mask
    that is False where a row is padding or unreadable).

  Raises:
    ValueError: if the source is empty, or a number is out of its range; later,
      from the iterator, if examples differ in fields or shapes, or none is
      readable.

  Example:
    >>> source = [{"label": 0}, {"label": 1}, {"label": 2}]
    >>> prepare = examples.prepare(tokenize=None)
    >>> for batch, mask in once(source, prepare=prepare, batch_size=2,
    ...                         threads=0):
    ...   print(batch["label"], mask)
    [0 1] [ True  True]
    [2 2] [ True False]
  """
  _check(source, batch_size, shard, threads)
  if limit is not None and limit < 1:
    raise ValueError(f"limit is {limit} examples; expected 1 or more, or None")
  count = len(source) if limit is None else min(limit, len(source))
  steps = -(-count // batch_size)

  watched = stalls.Watched(source)

  def read(index: int) -> examples.Row:
    if index >= count:
      return examples.Row(index, None)
    return examples.read(watched, prepare, index, None)

  spare = functools.cache(functools.partial(examples.filler, read, count))
  made = _passed(
      read, batches.Rows(0, batch_size, shard),
      functools.partial(batches.Masked, spare=spare), threads, steps,
  )
  return Pass(stalls.Patient(made, watched, patience) if threads else made)


def _passed(read, rows, collect, count: int, steps: int) -> threads.Threads:
  return threads.Threads(
      read, rows, collect, threads=count, prefetch=2, steps=steps
  )

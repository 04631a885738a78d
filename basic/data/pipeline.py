"""Examples to batches: an endless, resumable stream, or one ordered pass.

The only module that uses Grain. The state of a stream is a single number, the
examples seen, which means the same for any batch size and any number of
processes: with B the batch size, P processes and b = B / P,

    row j of process p in step s  =  example number  start + s B + p b + j,

and example number n is a pure function of (source, seed, n): which example it
is, which of its captions is used, and its random augmentation. So any number of
processes gives the same global batch in the same order, and a stream can resume
at any n without reading what came before.
"""

import collections
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import grain
import numpy as np
from jaxtyping import Bool, Int64

from basic import types
from basic.data import examples, stalls

Arrays: TypeAlias = examples.Arrays
Prepare: TypeAlias = examples.Prepare

_log = logging.getLogger(__name__)


class _Rows(grain.MapDataset):
  """The rows of one process, contiguous within each global batch."""

  def __init__(self, parent, *, start: int, batch_size: int, shard):
    super().__init__(parent)
    process, processes = shard
    self._examples, self._batch_size = parent, batch_size
    self._local = batch_size // processes
    self._steps = (len(parent) - start) // batch_size
    self._first = start + process * self._local

  def __len__(self) -> int:
    return self._steps * self._local

  def __getitem__(self, index):
    step, row = divmod(index, self._local)
    return self._examples[self._first + step * self._batch_size + row]

  def batches(self, collate, *, threads: int, buffer: int):
    """An iterator over collated batches, prefetched by threads."""
    # Threads, not processes: decoders release the GIL, workers take seconds to
    # start, and their state would depend on how many there are.
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=buffer if threads else 0
    )
    return iter(
        self.batch(self._local, drop_remainder=True, batch_fn=collate)
        .to_iter_dataset(options)
    )


class _Batches(Iterator):
  """What `Stream` and `Pass` share: closing, and counts of failed reads."""

  def __init__(self, batches: grain.DatasetIterator | stalls.Patient):
    self._batches = batches
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
    """Stops the threads; no batch can be taken afterwards."""
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

  def __init__(self, source, seed: int, start: int, batch_size: int, batches, order):
    super().__init__(batches)
    self.source = source
    self.seed = seed
    self.position = start
    self._batch_size = batch_size
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
    return np.array([self._order[i] for i in range(start, stop)], np.int64)


def stream(
    source: types.Source,
    *,
    prepare: Prepare,
    batch_size: int,
    seed: int,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    threads: int = 8,
    buffer: int | None = None,
    patience: stalls.Patience = stalls.PATIENCE,
) -> Stream:
  """Shuffled, full batches of a source, endlessly, from any position.

  Each epoch contains every example once, in a new order. A batch may span two
  epochs, and may then contain an example twice, as it does if it is larger than
  the source. An unreadable example is replaced by another one, see
  `examples.substitute`, and counted.

  Args:
    source: at least one example. Threads read it concurrently.
    prepare: called with a generator for each example; see `examples.prepare`.
    batch_size: rows of all processes together; positive.
    seed: of the order, the choice of captions and the augmentation; 0 to
      2**32 - 1.
    start: position to resume from: the examples seen so far, which need not be
      a multiple of `batch_size`.
    shard: (index of this process, number of processes), which must divide
      `batch_size`.
    threads: batches made concurrently; 0 makes each when it is requested.
    buffer: batches prefetched, at least `threads`; None means `threads`.
    patience: with threads, how long to wait while no example is read.

  Returns:
    An iterator over dicts of arrays with a leading axis of
    batch_size / processes rows.

  Raises:
    ValueError: if the source is empty, or a number is out of its range; later,
      from the iterator, if examples do not have equal fields and shapes.
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
  buffer = threads if buffer is None else buffer
  _check_endless(seed, start, threads, buffer)
  order = _order(source, seed)
  # Before the rows of this process are chosen, so that the generator depends on
  # the example's global number.
  watched = stalls.Watched(source)
  prepared = order.random_map(
      functools.partial(examples.read_or_substitute, watched, prepare)
  )
  rows = _Rows(prepared, start=start, batch_size=batch_size, shard=shard)
  batches = rows.batches(examples.collate, threads=threads, buffer=buffer)
  if threads:  # Without threads each batch is made by the caller's.
    batches = stalls.Patient(batches, watched, patience)
  return Stream(source, seed, start, batch_size, batches, order)


def _order(source, seed: int) -> grain.MapDataset:
  """Position -> index into the source, endless; computed lazily."""
  return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(None)


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


def _check_endless(seed: int, start: int, threads: int, buffer: int) -> None:
  if not 0 <= seed < 2**32:
    raise ValueError(f"seed is {seed}; expected 0 to 2**32 - 1")
  if start < 0:
    raise ValueError(f"start is {start} examples; expected 0 or more")
  if buffer < threads:
    raise ValueError(
        f"buffer is {buffer} batches for {threads} threads, which would leave "
        f"threads idle; give at least {threads}, or fewer threads"
    )


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
  batch of this process. Examples with fewer captions are padded with zeros.

  Args:
    source: at least one example. Threads read it concurrently.
    prepare: called without a generator; see `examples.prepare`.
    batch_size: rows of all processes together; positive.
    shard: (index of this process, number of processes), which must divide
      `batch_size`.
    limit: the number of examples to use; None means all.
    threads: batches made concurrently; 0 makes each when it is requested.
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
  fill = functools.partial(examples.fill, spare)
  ordered = grain.MapDataset.range(steps * batch_size).map(read)
  rows = _Rows(ordered, start=0, batch_size=batch_size, shard=shard)
  batches = rows.batches(fill, threads=threads, buffer=threads)
  return Pass(stalls.Patient(batches, watched, patience) if threads else batches)


def position_record(stream: Stream) -> dict[str, Any]:
  """What to save with a checkpoint, so that the stream resumes exactly.

  Args:
    stream: whose position to save.

  Returns:
    A dict for JSON. "next" are the indices of the next four examples, by which
    `check_position` detects a change of the shuffle.
  """
  return {
      "examples_seen": stream.position,
      "seed": stream.seed,
      "examples": len(stream.source),
      "fingerprint": _fingerprint(stream.source),
      "next": stream.ids(stream.position, stream.position + 4).tolist(),
      "grain": grain.__version__,
  }


def _fingerprint(source) -> str | None:
  """The source's hash of its own contents, if it has one."""
  return getattr(source, "fingerprint", None)


def check_position(
    record: Mapping[str, Any], source: types.Source, seed: int
) -> int:
  """Refuses to resume where the stream would not be the same.

  Args:
    record: from `position_record`, also if it was saved as JSON.
    source: of the resumed run.
    seed: of the resumed run.

  Returns:
    The examples seen: the `start` of the resumed stream.

  Raises:
    ValueError: if source, seed or shuffle are not those of the record.
  """
  seen = record["examples_seen"]
  for name, now in (
      ("seed", seed),
      ("examples", len(source)),
      ("fingerprint", _fingerprint(source)),
  ):
    if record[name] != now:
      raise ValueError(
          f"cannot resume after {seen} examples: the saved {name} is "
          f"{record[name]}, this run has {now}; resume with the same source "
          "and seed, or begin a new run from the saved parameters"
      )
  order = _order(source, seed)
  following = [int(order[seen + i]) for i in range(len(record["next"]))]
  if following != list(record["next"]):
    raise ValueError(
        f"cannot resume after {seen} examples: the shuffle of grain "
        f"{grain.__version__} is not that of grain {record['grain']}, with "
        "which the run began; install that version to resume it"
    )
  return seen

"""The order of an endless stream: position -> index into the source.

An order is a pure function of (source, seed, position) that holds no list of the
examples: the permutation of an epoch is computed, one number at a time, by a
cipher on the numbers below the length (Grain's `index_shuffle`). So a stream
starts anywhere, at once, whatever the number of examples. Every epoch contains
each example once. (Short permutations are kept as tables, to save time.)

Where storage is slow, examples of the same file are read near each other:

    epoch   =  the files, permuted, in windows of a few files
    window  =  the examples of its files, permuted
"""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from grain import experimental
from jaxtyping import Int64

from basic import types

Order: TypeAlias = Callable[[int], int]  # position from 0 -> index

SHUFFLES = ("examples", "shards", None)
_ROUNDS = 4  # of the cipher; as `grain.MapDataset.shuffle`
# The cipher works on 16 bits or more, again until the number is below the length:
# 3 us where that is large, 12 us for 2,000, 185 us for 100.
_TABLE = 2**16
_TABLES = 4  # kept by an order: of the epochs or windows that are being read


def order(
    source: types.Source,
    *,
    seed: int,
    shuffle: str | None = "examples",
    window: int = 8,
) -> Order:
  """The order in which a stream visits the examples of a source.

  Args:
    source: at least one example. One that has an `order` of its own is visited
      in that order.
    seed: of the permutations, 0 to 2**32 - 1.
    shuffle: "examples" permutes all examples in each epoch; "shards" permutes
      the files of the source, and the examples of `window` files at a time;
      None visits the examples by their index.
    window: files whose examples are permuted together, for "shards"; positive.

  Returns:
    position -> index; it can be pickled.

  Raises:
    ValueError: if `shuffle` is not one of these, or does not fit the source, or
      `window` is not positive.

  Example:
    >>> visit = order(range(3), seed=0)
    >>> sorted(visit(position) for position in range(3, 6))
    [0, 1, 2]
  """
  if shuffle not in SHUFFLES:
    raise ValueError(f"shuffle is {shuffle!r}; expected one of {SHUFFLES}")
  if window < 1:
    raise ValueError(f"window is {window} shards; expected 1 or more")
  own = getattr(source, "order", None)
  if own is not None:
    if shuffle != "examples":
      raise ValueError(
          f"shuffle is {shuffle!r}, but the source has an order of its own, as "
          "a mixture has; set `shuffle` among the settings of that source"
      )
    return own(seed)
  if shuffle is None:
    return _InOrder(len(source))
  if shuffle == "examples":
    return _Permuted(len(source), derived(seed, 1), _Permutations())
  shards = getattr(source, "shards", None)
  if shards is None:
    raise ValueError(
        "shuffle is 'shards', but the source does not say where its shards "
        "begin (types.Source, `shards`); use shuffle='examples'"
    )
  return _InWindows(np.asarray(shards, np.int64), len(source), seed, window)


def derived(*numbers: int) -> int:
  """A seed of 32 bits from several numbers."""
  return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])


def _ciphered(position: int, length: int, seed: int) -> int:
  """Where a permutation of the numbers below `length` takes one of them."""
  return experimental.index_shuffle(
      position, max_index=length - 1, seed=seed, rounds=_ROUNDS
  )


class _Permutations:
  """Permutations by their length and seed; the newest short ones are tables.

  A table takes 0.02 to 0.2 s to make. Each order has tables of its own, since a
  mixture asks the orders of all its sources in turn; they are made once, however
  many threads ask at the same time.
  """

  def __init__(self):
    self._tables: dict[tuple[int, int], np.ndarray] = {}
    self._lock = threading.Lock()

  def __call__(self, position: int, length: int, seed: int) -> int:
    seed %= 2**32
    if length > _TABLE:
      return _ciphered(position, length, seed)
    table = self._tables.get((length, seed))
    if table is None:
      table = self._made(length, seed)
    return int(table[position])

  def _made(self, length: int, seed: int) -> Int64[np.ndarray, "length"]:
    with self._lock:
      table = self._tables.get((length, seed))
      if table is None:
        if len(self._tables) == _TABLES:
          del self._tables[next(iter(self._tables))]  # the oldest
        table = self._tables[length, seed] = np.array(
            [_ciphered(position, length, seed) for position in range(length)],
            np.int64,
        )
    return table

  def __reduce__(self):
    return _Permutations, ()  # A copy makes its own.


class _InOrder(NamedTuple):
  """The index itself, in every epoch."""

  length: int

  def __call__(self, position: int) -> int:
    return position % self.length


class _Permuted(NamedTuple):
  """A permutation of each epoch; the same as `grain.MapDataset.shuffle`."""

  length: int
  seed: int
  permuted: _Permutations

  def __call__(self, position: int) -> int:
    epoch, offset = divmod(position, self.length)
    return self.permuted(offset, self.length, self.seed + epoch)


class _Epoch(NamedTuple):
  """The shards in the order of one epoch.

  Attributes:
    seed: of the permutations of its windows.
    firsts: index of the first example of each shard.
    ends: number of examples up to the end of each shard.
  """

  seed: int
  firsts: Int64[np.ndarray, "shards"]
  ends: Int64[np.ndarray, "shards"]


class _InWindows:
  """Shards in a new order in each epoch, examples permuted within windows."""

  def __init__(self, shards: Any, length: int, seed: int, window: int):
    self._shards, self._length = shards, length
    self._seed, self._window = seed, window
    self._epochs: dict[int, _Epoch] = {}
    self._permutation = _Permutations()

  def __call__(self, position: int) -> int:
    number, offset = divmod(position, self._length)
    epoch = self._epoch(number)
    first = int(np.searchsorted(epoch.ends, offset, "right"))
    first -= first % self._window
    last = min(first + self._window, len(epoch.ends)) - 1
    start = _before(epoch.ends, first)
    drawn = start + self._permutation(
        offset - start, int(epoch.ends[last]) - start, epoch.seed + first
    )
    shard = int(np.searchsorted(epoch.ends, drawn, "right"))
    return int(epoch.firsts[shard]) + drawn - _before(epoch.ends, shard)

  def _epoch(self, number: int) -> _Epoch:
    """Kept for two epochs: it costs 2 us for each shard."""
    epochs = self._epochs  # Other threads may replace it at any time.
    if number not in epochs:
      newest = dict(list(epochs.items())[-1:])
      epochs = self._epochs = {**newest, number: self._permuted(number)}
    return epochs[number]

  def _permuted(self, number: int) -> _Epoch:
    seed = derived(self._seed, 4, number)
    count = len(self._shards)
    shards = np.array(
        [self._permutation(shard, count, seed) for shard in range(count)], np.int64
    )
    sizes = np.diff(self._shards, append=self._length)
    return _Epoch(
        derived(self._seed, 5, number), self._shards[shards],
        np.cumsum(sizes[shards]),
    )


def _before(ends: Int64[np.ndarray, "shards"], shard: int) -> int:
  """The number of examples before a shard."""
  return int(ends[shard - 1]) if shard else 0

"""Batches from rows: the arrays that rows are written into, and masks."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from basic.data import examples

Arrays: TypeAlias = examples.Arrays
Batch: TypeAlias = tuple[Any, examples.Failures]  # and the reads that failed
Kind: TypeAlias = tuple[tuple[int, ...], Any]  # shape and dtype; of text, "U"


@runtime_checkable
class Collector(Protocol):
  """Makes one batch of rows, which several threads put there in any order."""

  def put(self, place: int, row: examples.Row) -> None:
    """Adds a row; `place` counts from 0 within the batch."""
    ...

  def finish(self) -> Batch:
    """The batch, once it has all of its rows."""
    ...


class Rows(NamedTuple):
  """The rows of one process, contiguous within each global batch.

  Attributes:
    start: number of the first example of the first global batch.
    batch_size: rows of all processes together.
    shard: (index of this process, number of processes).
  """

  start: int
  batch_size: int
  shard: tuple[int, int]

  @property
  def local(self) -> int:
    """Rows of this process in each batch."""
    return self.batch_size // self.shard[1]

  def numbers(self, step: int) -> range:
    """The numbers of this process's examples in a step, from 0."""
    first = self.start + step * self.batch_size + self.shard[0] * self.local
    return range(first, first + self.local)


class Block:
  """The arrays [b ...] of a batch, written row by row.

  Args:
    size: rows, b.
    fields: arrays [b ...] to write into, made before; None: they are made when
      the first row says which they are. Fields of text are never among them,
      since the widest text is known at the end.
    like: kinds of all fields of a row, and the index of the example that has
      them; None: those of the first row.
  """

  def __init__(
      self,
      size: int,
      fields: Arrays | None = None,
      like: tuple[int, Mapping[str, Kind]] | None = None,
  ):
    self._size, self._made = size, False
    self._like: tuple[int, Mapping[str, Kind]] | None = None
    self._fields = {} if fields is None else fields
    self._text: dict[str, list[Any]] = {}
    self._failures: list[examples.Failures] = [()] * size
    self._lock = threading.Lock()
    if like is not None:
      self._make(*like)

  def put(self, place: int, row: examples.Row) -> None:
    """Writes a row that has arrays.

    Raises:
      ValueError: if its fields, shapes or dtypes are not those of the first.
    """
    arrays = row.arrays
    assert arrays is not None
    if row.failures:
      self._failures[place] = row.failures
    if not self._made:
      with self._lock:
        self._make(row.index, kinds(arrays))
    assert self._like is not None
    index, like = self._like
    if arrays.keys() != like.keys():
      raise ValueError(_difference(row, index, like))
    for name, array in arrays.items():
      if like[name] != _kind(array):
        raise ValueError(_difference(row, index, like))
      if name in self._text:
        self._text[name][place] = array
      else:
        self._fields[name][place] = array

  def _make(self, index: int, like: Mapping[str, Kind]) -> None:
    """Makes what rows are written into, unless another thread has."""
    if self._made:
      return
    self._like = index, like
    for name, (shape, dtype) in like.items():
      if isinstance(dtype, str):
        self._text[name] = [None] * self._size
      elif name not in self._fields:
        self._fields[name] = np.empty((self._size, *shape), dtype)
    self._made = True

  def finish(self) -> tuple[Arrays, examples.Failures]:
    """The arrays, and the reads that failed before their rows were read."""
    assert self._like is not None
    text = {name: np.stack(rows) for name, rows in self._text.items()}
    arrays = {
        name: text[name] if name in text else self._fields[name]
        for name in self._like[1]
    }
    return arrays, _failures(self._failures)


def kinds(arrays: Mapping[str, np.ndarray]) -> dict[str, Kind]:
  """Shape and dtype of each field; of text "U" or "S", as widths may differ."""
  return {name: _kind(array) for name, array in arrays.items()}


def _kind(array: np.ndarray) -> Kind:
  dtype = array.dtype
  return array.shape, dtype.kind if dtype.kind in "US" else dtype


def _difference(row: examples.Row, index: int, like: Mapping[str, Kind]) -> str:
  """A sentence on what keeps a row out of the batch of example `index`."""
  assert row.arrays is not None
  found = kinds(row.arrays)
  if found.keys() != like.keys():
    return (
        f"example {row.index} has the fields {sorted(found)}, but example "
        f"{index} has {sorted(like)}; the examples of a source need the same "
        "fields"
    )
  name = next(name for name in like if found[name] != like[name])
  (shape, dtype), (other_shape, other_dtype) = found[name], like[name]
  return (
      f"{name!r} of example {row.index} is {dtype} {list(shape)}, that of "
      f"example {index} is {other_dtype} {list(other_shape)}; a batch needs one "
      "shape and dtype, so resize or convert first"
  )


def _failures(rows: Sequence[examples.Failures]) -> examples.Failures:
  """All failures, with the row and the attempt of each."""
  return tuple(
      failure._replace(row=place, attempt=attempt)
      for place, failures in enumerate(rows)
      for attempt, failure in enumerate(failures)
  )


class Masked:
  """A batch whose unreadable rows repeat a readable one, with a mask.

  Its "captions" [b k t], and "caption_languages" [b k], have the k of the example
  with the most captions.

  Args:
    size: rows, b.
    spare: gives a readable row where the batch has none.
  """

  def __init__(self, size: int, spare: Callable[[], examples.Row]):
    self._rows: list[Any] = [None] * size
    self._spare = spare

  def put(self, place: int, row: examples.Row) -> None:
    """Keeps a row, which may have no arrays."""
    self._rows[place] = row

  def finish(self) -> tuple[tuple[Arrays, np.ndarray], examples.Failures]:
    """((arrays, mask that is False where a row repeats another), failures).

    Raises:
      ValueError: if no example can be read, or examples differ in their fields.
    """
    rows: list[examples.Row] = self._rows
    mask = np.array([row.arrays is not None for row in rows])
    repeated = rows[int(np.argmax(mask))] if mask.any() else self._spare()
    full = [repeated if row.arrays is None else row for row in rows]
    most = max(len((row.arrays or {}).get("captions", ())) for row in full)
    block = Block(len(rows))
    for place, row in enumerate(full):
      block.put(place, _pad_captions(row, most))
    arrays, _ = block.finish()
    return (arrays, mask), _failures([row.failures for row in rows])


def _pad_captions(row: examples.Row, count: int) -> examples.Row:
  """Adds zeros to the captions of an example, up to `count` of them."""
  arrays = row.arrays or {}
  padded = {}
  for name in arrays.keys() & {"captions", "caption_languages"}:
    values = arrays[name]
    # Zeros of a type of text are "".
    more = np.zeros((count - len(values), *values.shape[1:]), values.dtype)
    padded[name] = np.concatenate([values, more])
  return examples.Row(row.index, {**arrays, **padded})

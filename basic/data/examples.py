"""One example to arrays, with noise or without, and many to one batch.

What cannot be read is replaced in training, by an example that depends on
nothing but the one it replaces, and left out in evaluation.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from basic import types

# Chance alone never makes so many substitutes fail: the source is broken.
ATTEMPTS = 16

Leaves: TypeAlias = dict[str, np.ndarray]
Prepare: TypeAlias = Callable[[types.Example, np.random.Generator | None], Leaves]
Failures: TypeAlias = tuple[tuple[str, str], ...]  # (reason, what was said)


@dataclasses.dataclass(frozen=True)
class _Prepare:
  """See `prepare`. A class, not a closure, so that it can be pickled."""

  tokenize: Callable[[Any], np.ndarray] | None
  augment: Callable[[Any, Any], Any] | None
  caption: Callable[[Any, Any], str] | None

  def __call__(
      self, example: types.Example, rng: np.random.Generator | None
  ) -> Leaves:
    # The caption is drawn first, whatever the order of the source's dict, so
    # that the same example always meets the same noise.
    leaves = self._text(example, rng)
    for name, leaf in example.items():
      if name == "image" and self.augment is not None:
        leaves[name] = np.asarray(self.augment(leaf, rng))
      elif name != "text":
        leaves[name] = _narrow(name, leaf)
    return leaves

  def _text(self, example, rng) -> Leaves:
    if self.tokenize is None:
      return {}
    if self.caption is not None:
      text = self.caption(example, rng)
    elif "text" in example:
      text = example["text"]
    else:
      return {}
    captions = list(text) if isinstance(text, tuple | list) else [text]
    if not captions:
      raise types.Unreadable("no caption", "the tuple of captions is empty")
    if rng is not None:
      ids = self.tokenize(captions[rng.integers(len(captions))])
      return {"text": ids, "caption_id": _identity(ids)}
    rows = np.stack([self.tokenize(caption) for caption in captions])
    return {"text": rows[0], "captions": rows}


def _identity(ids: np.ndarray) -> np.ndarray:
  """Two int32 that equal captions share, and others do not (1 in 2**64)."""
  digest = hashlib.blake2b(np.ascontiguousarray(ids).tobytes(), digest_size=8)
  return np.frombuffer(digest.digest(), np.int32)


def _narrow(name: str, leaf: Any) -> np.ndarray:
  """An array of a width that accelerators hold, or a sentence."""
  array = np.asarray(leaf)
  if array.dtype.kind not in "biufUS":
    raise ValueError(
        f"{name!r} is a {type(leaf).__name__}, which no batch can hold; give "
        "numbers, text or arrays, or leave it out of the example"
    )
  if array.dtype == np.float64:
    return array.astype(np.float32)
  if array.dtype not in (np.int64, np.uint64):
    return array
  narrow = array.astype(np.int32)
  if (narrow != array).any():
    raise ValueError(
        f"{name!r} holds {array[narrow != array][0]}, beyond int32, the widest integer "
        "of an accelerator; number from 0, or give it as text"
    )
  return narrow


def prepare(
    *,
    tokenize: Callable[[Any], np.ndarray] | None,
    augment: Callable[[Any, Any], Any] | None = None,
    caption: Callable[[Any, Any], str] | None = None,
) -> Prepare:
  """Makes what turns one example into arrays, with noise or without.

  Given a generator, it draws one of the captions, then the noise of the image.
  Given None it draws nothing: "text" is the first caption, and "captions" are
  all k of them.

  Args:
    tokenize: caption -> int32 [t]. None leaves the text of examples out, for
      a run without a text tower.
    augment: (image, generator or None) -> image. None passes images unchanged.
    caption: (example, generator or None) -> the only caption, in place of the
      example's own text; None keeps that.

  Returns:
    (example, generator or None) -> arrays: "text" int32 [t]; with noise also
    "caption_id" int32 [2], equal where texts are; "image" [h w c];
    "captions" int32 [k t], only without noise; every other field as it is, but
    int64 as int32, float64 as float32. It raises `types.Unreadable` if there
    is no caption or a caption is not text, ValueError if a field is neither
    number nor text or beyond int32. It can be pickled if its parts can.

  Example:
    >>> arrays = prepare(tokenize=None)({"label": 3}, None)
    >>> arrays["label"].dtype
    dtype('int32')
  """
  return _Prepare(tokenize, augment, caption)


class Row(NamedTuple):
  """One example on its way into a batch.

  Attributes:
    index: its number in the source.
    leaves: None if it is unreadable, or only fills a batch.
    failures: the reads that failed on the way to it.
  """

  index: int
  leaves: Leaves | None
  failures: Failures = ()


def read(
    source: types.Source,
    prepared: Prepare,
    index: int,
    rng: np.random.Generator | None,
) -> Row:
  """Reads one example; one that is unreadable comes back without leaves."""
  try:
    return Row(index, prepared(source[index], rng))
  except types.Unreadable as error:
    return Row(index, None, ((error.reason, f"example {index}: {error}"),))
  except Exception as error:
    error.add_note(f"while reading example {index} of {len(source)}")
    raise


def substitute(index: int, attempt: int, count: int) -> int:
  """The example that stands in for one that cannot be read.

  A function of its arguments alone, so that every process, every epoch and
  every resumed run puts the same example in the place.

  Args:
    index: the unreadable example, from 0.
    attempt: 1 for the first to try, 2 for the next, ...
    count: examples in the source.

  Returns:
    An index below `count`.
  """
  mixed = np.random.SeedSequence((index, attempt)).generate_state(1, np.uint64)
  return int(mixed[0] % count)


def read_or_substitute(
    source: types.Source,
    prepared: Prepare,
    index: int,
    rng: np.random.Generator | None,
) -> Row:
  """Reads one example, or the first of its substitutes that can be read."""
  failures: Failures = ()
  for attempt in range(ATTEMPTS + 1):
    tried = substitute(index, attempt, len(source)) if attempt else index
    row = read(source, prepared, tried, rng)
    failures += row.failures
    if row.leaves is not None:
      return row._replace(failures=failures)
  raise RuntimeError(
      f"example {index} and {ATTEMPTS} substitutes for it are unreadable "
      f"({_tally(failures)}); the last is {failures[-1][1]}. So many do not "
      "fail by chance: check the source"
  )


def _tally(failures: Failures) -> str:
  counts = collections.Counter(reason for reason, _ in failures)
  return ", ".join(f"{count} x {reason}" for reason, count in counts.items())


def _stack(rows: Sequence[Row]) -> Leaves:
  """Rows of equal shapes as one batch, or a sentence naming the odd one."""
  first = rows[0]
  for row in rows:
    if row.leaves.keys() != first.leaves.keys():
      raise ValueError(
          f"example {row.index} has {sorted(row.leaves)}, but example "
          f"{first.index} has {sorted(first.leaves)}; the examples of a source "
          "need the same fields"
      )
    for name, leaf in row.leaves.items():
      if _kind(leaf) != _kind(first.leaves[name]):
        raise ValueError(
            f"{name!r} of example {row.index} is {leaf.dtype} "
            f"{list(leaf.shape)}, that of example {first.index} is "
            f"{first.leaves[name].dtype} {list(first.leaves[name].shape)}; a "
            "batch needs one shape and dtype, so resize or convert first"
        )
  return {
      name: np.stack([row.leaves[name] for row in rows])
      for name in first.leaves
  }


def _kind(leaf: np.ndarray) -> tuple:
  """Shape and dtype; the width of text may differ, and grows to the widest."""
  text = leaf.dtype.kind in "US"
  return leaf.shape, leaf.dtype.kind if text else leaf.dtype


def collate(rows: Sequence[Row]) -> tuple[Leaves, Failures]:
  """A full batch, and every failure on the way to it."""
  return _stack(rows), _failures(rows)


def _failures(rows: Sequence[Row]) -> Failures:
  return tuple(failure for row in rows for failure in row.failures)


def _pad_captions(rows: Sequence[Row]) -> list[Row]:
  """Rows with zeros after their captions, up to the most that one has."""
  most = max(
      (len(row.leaves["captions"]) for row in rows
       if row.leaves is not None and "captions" in row.leaves), default=0,
  )

  def padded(row: Row) -> Row:
    if row.leaves is None or "captions" not in row.leaves:
      return row
    found = row.leaves["captions"]
    widths = ((0, most - len(found)), *((0, 0),) * (found.ndim - 1))
    return row._replace(
        leaves={**row.leaves, "captions": np.pad(found, widths)})

  return [padded(row) for row in rows]


def fill(
    spare: Callable[[], Row], rows: Sequence[Row]
) -> tuple[tuple[Leaves, np.ndarray], Failures]:
  """A batch whose unreadable rows repeat a readable one, and its mask.

  Its "captions" [b k t] have as many captions k as its richest example.
  """
  mask = np.array([row.leaves is not None for row in rows])
  usable = [row for row in rows if row.leaves is not None]
  repeated = usable[0] if usable else spare()
  full = [repeated if row.leaves is None else row for row in rows]
  return (_stack(_pad_captions(full)), mask), _failures(rows)


def filler(read: Callable[[int], Row], count: int) -> Row:
  """Any readable row, for a batch that has none of its own."""
  failures: Failures = ()
  for index in range(count):
    row = read(index)
    if row.leaves is not None:
      return row
    failures += row.failures
  raise ValueError(
      f"none of {count} examples is readable ({_tally(failures)}); the last is "
      f"{failures[-1][1]}"
  )

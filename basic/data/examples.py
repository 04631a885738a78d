"""From one example to arrays, augmented or not, and from many to one batch.

In training, an unreadable example is replaced by another one, chosen as a
function of its index alone; in evaluation, it is left out.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from basic import types
from basic.data import decoding

# So many substitutes never fail by chance: the source itself is broken.
ATTEMPTS = 16

Arrays: TypeAlias = dict[str, np.ndarray]  # by name of the field
Prepare: TypeAlias = Callable[[types.Example, np.random.Generator | None], Arrays]
Failures: TypeAlias = tuple[tuple[str, str], ...]  # (reason, message)


@dataclasses.dataclass(frozen=True)
class _Prepare:
  """See `prepare`. A class, not a closure, so that it can be pickled."""

  tokenize: Callable[[Any], np.ndarray] | None
  augment: Callable[[Any, Any], Any] | None
  caption: Callable[[Any, Any], str] | None

  def __call__(
      self, example: types.Example, rng: np.random.Generator | None
  ) -> Arrays:
    # The caption is drawn first, whatever the order of the source's dict, so
    # that an example always gets the same random augmentation.
    arrays = self._text(example, rng)
    for name, value in example.items():
      if name == "image":
        arrays[name] = self._image(value, rng)
      elif name not in ("text", "text_weights"):
        arrays[name] = _narrow(name, value)
    return arrays

  def _image(self, value, rng) -> np.ndarray:
    pixels = value.decode() if isinstance(value, decoding.Encoded) else value
    if self.augment is None:
      return _narrow("image", pixels)
    return np.asarray(self.augment(pixels, rng))

  def _text(self, example, rng) -> Arrays:
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
      ids = self.tokenize(captions[_draw(example, len(captions), rng)])
      return {"text": ids, "caption_id": _identity(ids)}
    rows = np.stack([self.tokenize(caption) for caption in captions])
    return {"text": rows[0], "captions": rows}


def _draw(example: types.Example, count: int, rng: np.random.Generator) -> int:
  """Draws one of the captions of an example, by their weights if it has any."""
  weights = example.get("text_weights")
  if weights is None or count != len(weights):  # a caption made from labels
    return int(rng.integers(count))
  shares = np.cumsum(np.asarray(weights, np.float64))
  drawn = np.searchsorted(shares, rng.random() * shares[-1], side="right")
  return min(int(drawn), count - 1)  # The product may round up to the sum.


def _identity(ids: np.ndarray) -> np.ndarray:
  """A 64-bit hash as two int32: equal for equal captions, else different."""
  digest = hashlib.blake2b(np.ascontiguousarray(ids).tobytes(), digest_size=8)
  return np.frombuffer(digest.digest(), np.int32)


def _narrow(name: str, value: Any) -> np.ndarray:
  """A field as an array of at most 32 bits, as accelerators expect."""
  array = np.asarray(value)
  if array.dtype.kind not in "biufUS":
    raise ValueError(
        f"{name!r} is a {type(value).__name__}, which no batch can hold; give "
        "numbers, text or arrays, or leave it out of the example"
    )
  if array.dtype == np.float64:
    return array.astype(np.float32)
  if array.dtype not in (np.int64, np.uint64):
    return array
  narrow = array.astype(np.int32)
  if (narrow != array).any():
    raise ValueError(
        f"{name!r} holds {array[narrow != array][0]}, beyond int32, the widest "
        "integer of an accelerator; number from 0, or give it as text"
    )
  return narrow


def prepare(
    *,
    tokenize: Callable[[Any], np.ndarray] | None,
    augment: Callable[[Any, Any], Any] | None = None,
    caption: Callable[[Any, Any], str] | None = None,
) -> Prepare:
  """Makes the function that turns one example into arrays.

  Given a generator, it draws one of the captions, with probabilities in
  proportion to "text_weights" if the example has that field, then augments the
  image at random. Given None it is deterministic: "text" is the first caption, and
  "captions" are all k of them.

  Args:
    tokenize: caption -> int32 [t]. None leaves the text of examples out, for
      a run without a text tower.
    augment: (image, generator or None) -> image. None passes images unchanged.
    caption: (example, generator or None) -> a single caption that replaces the
      example's own text; None keeps that text.

  Returns:
    (example, generator or None) -> arrays: "text" int32 [t]; "image" [h w c];
    with a generator also "caption_id" int32 [2], equal where texts are equal;
    without one also "captions" int32 [k t]; every other field unchanged, but
    int64 as int32 and float64 as float32. It raises `types.Unreadable` if there
    is no caption or a caption is not text, ValueError if a field is neither
    number nor text or exceeds int32. It can be pickled if its parts can.

  Example:
    >>> arrays = prepare(tokenize=None)({"label": 3}, None)
    >>> arrays["label"].dtype
    dtype('int32')
  """
  return _Prepare(tokenize, augment, caption)


@dataclasses.dataclass(frozen=True)
class Row:
  """One example on its way into a batch.

  Attributes:
    index: its number in the source.
    arrays: its fields; None if it is unreadable, or only pads a batch.
    failures: the failed attempts to read it or its substitutes.
  """

  index: int
  arrays: Arrays | None
  failures: Failures = ()


def read(
    source: types.Source,
    prepared: Prepare,
    index: int,
    rng: np.random.Generator | None,
) -> Row:
  """Reads one example; if it is unreadable, the row has no arrays."""
  try:
    return Row(index, prepared(source[index], rng))
  except types.Unreadable as error:
    return Row(index, None, ((error.reason, f"example {index}: {error}"),))
  except Exception as error:
    error.add_note(f"while reading example {index} of {len(source)}")
    raise


def substitute(index: int, attempt: int, count: int) -> int:
  """The example that replaces one that cannot be read.

  A function of its arguments alone, so that every process, every epoch and
  every resumed run chooses the same substitute.

  Args:
    index: the unreadable example, from 0.
    attempt: 1 for the first substitute, 2 for the next, ...
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
  failures: list[tuple[str, str]] = []
  for attempt in range(ATTEMPTS + 1):
    candidate = substitute(index, attempt, len(source)) if attempt else index
    row = read(source, prepared, candidate, rng)
    failures.extend(row.failures)
    if row.arrays is not None:
      return Row(row.index, row.arrays, tuple(failures))
  raise RuntimeError(
      f"example {index} and {ATTEMPTS} substitutes for it are unreadable "
      f"({_tally(failures)}); the last is {failures[-1][1]}. So many do not "
      "fail by chance: check the source"
  )


def _tally(failures: Sequence[tuple[str, str]]) -> str:
  counts = collections.Counter(reason for reason, _ in failures)
  return ", ".join(f"{count} x {reason}" for reason, count in counts.items())


def filler(read: Callable[[int], Row], count: int) -> Row:
  """The first readable row, for a batch that has none of its own."""
  failures: list[tuple[str, str]] = []
  for index in range(count):
    row = read(index)
    if row.arrays is not None:
      return row
    failures.extend(row.failures)
  raise ValueError(
      f"none of {count} examples is readable ({_tally(failures)}); the last is "
      f"{failures[-1][1]}"
  )

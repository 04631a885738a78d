"""From one example to arrays, augmented or not, and from many to one batch.

In training, an unreadable example is replaced by another one, chosen as a
function of its index alone; in evaluation, it is left out.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from basic import cli, types
from basic.data import damage, decoding

# So many substitutes never fail by chance: the source itself is broken.
ATTEMPTS = 16
_COMPANION = 0xC0  # sets its seeds apart from those of substitutes

Arrays: TypeAlias = dict[str, np.ndarray]  # by name of the field
# (example, generator or None), and perhaps a companion -> arrays
Prepare: TypeAlias = Callable[..., Arrays]
Failures: TypeAlias = tuple[damage.Failure, ...]


@dataclasses.dataclass(frozen=True)
class _Prepare:
  """See `prepare`. A class, not a closure, so that it can be pickled."""

  tokenize: Callable[[Any], np.ndarray] | None
  augment: Callable[[Any, Any], Any] | None
  caption: Callable[[Any, Any], str] | None
  looks: Mapping[str, types.Augment]

  @property
  def needs_companion(self) -> bool:
    """Whether a look asks for the example that the rows of a batch share."""
    return any(
        getattr(look, "needs_companion", False) for look in self.looks.values()
    )

  def __call__(
      self,
      example: types.Example,
      rng: np.random.Generator | None,
      companion: types.Example | None = None,
  ) -> Arrays:
    # The caption is drawn first, whatever the order of the source's dict, so
    # that an example always gets the same random augmentation.
    arrays = self._text(example, rng)
    looks = self.looks if rng is not None else {}
    for name, value in example.items():
      if name == "image":
        if not looks:
          arrays[name] = self._image(value, rng)
      elif name not in ("text", "text_weights", "text_languages"):
        arrays[name] = _narrow(name, value)
    if len(looks) > 1 and isinstance(example.get("image"), decoding.Encoded):
      example = {**example, "image": example["image"].decode()}  # once for all
    for field in sorted(looks):
      for end, value in looks[field](example, rng, companion).items():
        name = f"{field}_{end}" if end else field
        arrays[name] = self._made(name, value)
    return arrays

  def _made(self, name: str, value: Any) -> np.ndarray:
    """What an augmentation made, with captions as token ids."""
    if not isinstance(value, str | tuple):
      return _narrow(name, value)
    if self.tokenize is None:
      raise ValueError(f"{name!r} has captions, and the run has no text tower")
    if isinstance(value, str):
      return self.tokenize(value)
    return np.stack([self.tokenize(text) for text in value])

  def _image(self, value, rng) -> np.ndarray:
    if self.augment is not None:  # It decodes a file as far as it needs to.
      return np.asarray(self.augment(value, rng))
    encoded = isinstance(value, decoding.Encoded)
    return _narrow("image", value.decode() if encoded else value)

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
    visible = _visible(captions)
    if rng is not None:
      drawn = visible[_draw(_weights(example, captions, visible), len(visible), rng)]
      ids = self.tokenize(captions[drawn])
      return {"text": ids, "caption_id": _identity(ids)}
    rows = np.stack([self.tokenize(captions[n]) for n in visible])
    languages = _parallel(example, "text_languages", captions)
    if languages is None:
      return {"text": rows[0], "captions": rows}
    spoken = np.array([languages[n] for n in visible], str)
    return {"text": rows[0], "captions": rows, "caption_languages": spoken}


def _visible(captions: Sequence[Any]) -> list[int]:
  """The numbers of the captions that are not blank; a blank one teaches nothing."""
  for caption in captions:
    if not isinstance(caption, str | None):
      raise types.Unreadable(
          "caption is not text", f"found {type(caption).__name__}, expected str"
      )
  visible = [n for n, caption in enumerate(captions) if caption and caption.strip()]
  if not visible:
    raise types.Unreadable("no caption", f"found {list(captions)!r:.80}")
  return visible


def _parallel(example, name: str, captions: Sequence[Any]) -> Any:
  """A field with one value a caption; None if there is none."""
  values = example.get(name)
  # Captions made from labels have neither weights nor languages.
  return None if values is None or len(captions) != len(values) else values


def _weights(example, captions, visible) -> list[float] | None:
  """The weights of the captions that are not blank; None: all are equal."""
  weights = _parallel(example, "text_weights", captions)
  if weights is None:
    return None
  kept = [float(weights[n]) for n in visible]
  if not sum(kept):
    raise types.Unreadable("no caption", "those that are not blank have weight 0")
  return kept


def _draw(
    weights: Sequence[float] | None, count: int, rng: np.random.Generator
) -> int:
  """Draws one of `count` captions, by their weights if they have any."""
  if weights is None:
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
    looks: Mapping[str, types.Augment] | None = None,
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
    looks: by field: augmentations of examples in training, which replace "image";
      called in alphabetical order.

  Returns:
    (example, generator or None, companion=None) -> arrays: "text" int32 [t];
    "image" [h w c], or with a generator the looks if there are any; with one
    also "caption_id" int32 [2], equal where texts are equal;
    without one also "captions" int32 [k t] and, if the example has
    "text_languages", "caption_languages" text [k]; every other field unchanged,
    but int64 as int32 and float64 as float32. It raises `types.Unreadable` if there
    is no caption or a caption is not text, ValueError if a field is neither
    number nor text or exceeds int32. It can be pickled if its parts can.

  Example:
    >>> arrays = prepare(tokenize=None)({"label": 3}, None)
    >>> arrays["label"].dtype
    dtype('int32')
  """
  return _Prepare(tokenize, augment, caption, dict(looks or {}))


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
    companion: types.Example | None = None,
) -> Row:
  """Reads one example; if it is unreadable, the row has no arrays."""
  beside = () if companion is None else (companion,)
  try:
    return Row(index, prepared(source[index], rng, *beside))
  except types.Unreadable as error:
    failure = damage.Failure(index, error.reason, str(error))
    return Row(index, None, (failure,))
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
    companion: int | None = None,
) -> Row:
  """Reads one example, or the first of its substitutes that can be read.

  Args:
    source: of the examples.
    prepared: from `prepare`.
    index: the example, from 0.
    rng: of this example; None without noise.
    companion: index of the example that the rows of this batch share
      (`companion`); None: augmentations get none.

  Raises:
    cli.DamagedData: if the example and 16 substitutes for it are unreadable.
  """
  beside = None if companion is None else _companion(source, companion)
  failures: list[damage.Failure] = []
  for attempt in range(ATTEMPTS + 1):
    candidate = substitute(index, attempt, len(source)) if attempt else index
    row = read(source, prepared, candidate, rng, beside)
    failures.extend(row.failures)
    if row.arrays is not None:
      return Row(row.index, row.arrays, tuple(failures))
  raise cli.DamagedData(
      f"example {index} and {ATTEMPTS} substitutes for it are unreadable "
      f"({_tally(failures)}); the last is {_said(failures[-1])}. So many do not "
      "fail by chance: check the source"
  )


def companion(seed: int, batch: int, count: int) -> int:
  """The example that all rows of one batch are shown, for what they share.

  A function of its arguments alone, so it is the same however the rows are split
  over processes, and after a resume.

  Args:
    seed: of the stream.
    batch: position of a row in the stream, divided by the rows of a batch of all
      processes, rounded down.
    count: examples in the source.

  Returns:
    An index below `count`.
  """
  mixed = np.random.SeedSequence((seed, batch, _COMPANION))
  return int(mixed.generate_state(1, np.uint64)[0] % count)


def _companion(source: types.Source, index: int) -> types.Example:
  """The companion, or the first of its substitutes that can be read."""
  last = None
  for attempt in range(ATTEMPTS + 1):
    candidate = substitute(index, attempt, len(source)) if attempt else index
    try:
      example = source[candidate]
      image = example.get("image")
      if not isinstance(image, decoding.Encoded):
        return example
      return {**example, "image": image.decode()}
    except types.Unreadable as error:
      last = error
  raise cli.DamagedData(
      f"example {index}, a companion, and {ATTEMPTS} substitutes for it are "
      f"unreadable; the last: {last}. Check the source"
  )


def _said(failure: damage.Failure) -> str:
  return f"example {failure.example}: {failure.message}"


def _tally(failures: Sequence[damage.Failure]) -> str:
  counts = collections.Counter(failure.reason for failure in failures)
  return ", ".join(f"{count} x {reason}" for reason, count in counts.items())


def filler(read: Callable[[int], Row], count: int) -> Row:
  """The first readable row, for a batch that has none of its own."""
  failures: list[damage.Failure] = []
  for index in range(count):
    row = read(index)
    if row.arrays is not None:
      return row
    failures.extend(row.failures)
  raise ValueError(
      f"none of {count} examples is readable ({_tally(failures)}); the last is "
      f"{_said(failures[-1])}"
  )

"""Scenes of real handwritten digits, with captions that describe them.

The 1,797 digits of 8 by 8 pixels are part of scikit-learn, so this is a real
image-text problem without a download. A fifth of the handwritten images is held
out of training, and so are 20 of the 100 ordered pairs of neighbours (see
`_digit_scenes`).
"""

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float32, UInt8

from basic import types
from basic.sources import _digit_scenes as scenes
from basic.sources import _grammar, _handwriting, _stable

_KINDS = ("scenes", "single", "pairs", "seen_pairs")
_COUNTS = ("one digit", "two digits", "three digits", "four digits")
_PAIRS = tuple(
    scenes.exact(scenes.Composition("pair", (a, b)))[0]
    for a in range(10) for b in range(10)
)


def digits(
    *,
    split: str = "train",
    kind: str = "scenes",
    canvas: int = 32,
    channels: int = 3,
    mix: tuple[float, float, float, float] = (0.2, 0.4, 0.2, 0.2),
    seed: int = 0,
    length: int | None = None,
) -> types.Source:
  """Images of one to four handwritten digits, captioned by which and where.

  There are four kinds. "scenes" show one to four digits, without held-out
  pairs side by side; the label is their number. "single" shows every digit of
  the split once, alone; the label is the digit. "pairs" cycles through the 20
  held-out pairs (test split only) and "seen_pairs" through the other 80, as the
  baseline; the label is 10 a + b of the captions "a {a} to the left of a {b}".

  A caption names all digits of its scene. Training captions may omit their
  positions; those of test scenes never do, and no two test scenes share a
  caption. Digits are light on a darker background, with random size, position,
  contrast and noise.

  Args:
    split: "train" or "test"; no handwritten image is in both.
    kind: one of the four above.
    canvas: height and width, 24 to 64 pixels.
    channels: 1, or 3 identical ones.
    mix: relative frequency of scenes with one, two, three and four digits.
    seed: of the scenes; what is held out does not depend on it.
    length: the number of examples; by default all digits for "single", else
      100,000 in the training split and 1,000 in the test split.

  Returns:
    A source of "image" uint8[canvas canvas channels], "text" (four to six
    captions), "label" int32, "id" int64: the number of the handwritten image
    for "single", else the index. `classes` names the labels.

  Raises:
    ValueError: if a setting is not one of those above, or if more test scenes
      are requested than there are different ones.

  References:
    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998.
    https://doi.org/10.24432/C50P49

  Example:
    >>> source = digits(split="test", kind="pairs")
    >>> source[3]["text"][0]
    'a one to the left of a six'
  """
  _check(split, kind, canvas, channels, mix)
  available = len(_handwriting.handwritten(split).digits)
  if length is None:
    varied = 100_000 if split == "train" else 1_000
    length = available if kind == "single" else varied
  if length < 1 or (kind == "single" and length > available):
    raise ValueError(
        f"length is {length}; expected at least 1, and the {split} split has "
        f"{available} single digits"
    )
  return _Digits(split, kind, canvas, channels, tuple(mix), seed, length)


def _check(split, kind, canvas, channels, mix):
  if split not in ("train", "test"):
    raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
  if kind not in _KINDS:
    raise ValueError(f"kind is {kind!r}; expected one of {', '.join(_KINDS)}")
  if kind == "pairs" and split == "train":
    raise ValueError(
        "the held-out pairs are never in the training split; "
        "use split='test', or kind='seen_pairs'"
    )
  if not 24 <= canvas <= 64:
    raise ValueError(f"canvas is {canvas}; expected 24 to 64 pixels")
  if channels not in (1, 3):
    raise ValueError(f"channels is {channels}; expected 1 or 3")
  if len(mix) != 4 or min(mix) < 0 or sum(mix) <= 0:
    raise ValueError(f"mix is {mix}; expected four frequencies, not all zero")


_Draw = Callable[[], float]  # the next number in [0, 1) of one example


class _Scene(NamedTuple):
  composition: scenes.Composition
  rows: tuple[int, ...]  # the handwritten image in each slot
  label: int
  id: int


@dataclasses.dataclass(frozen=True)
class _Digits:
  """Scenes by index, each generated on access with its own generator."""

  split: str
  kind: str
  canvas: int
  channels: int
  mix: tuple[float, ...]
  seed: int
  length: int

  def __post_init__(self):
    # Computed here, once, so that the threads that share it only read it.
    _ = self._counters

  @property
  def classes(self) -> tuple[str, ...]:
    if self.kind == "scenes":
      return _COUNTS
    return _grammar.NUMBERS if self.kind == "single" else _PAIRS

  @property
  def fingerprint(self) -> str:
    return _stable.fingerprint(
        "digits", dataclasses.astuple(self), _handwriting.digest()
    )

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    index = _stable.position(index, self.length)
    rng = self._generator(index)
    scene = self._scene(index, rng)
    text = scenes.exact(scene.composition)
    if self.split == "train":
      text += scenes.loose(scene.composition)
    return {
        "image": self._render(scene, rng),
        "text": text,
        "label": np.int32(scene.label),
        "id": np.int64(scene.id),
    }

  @functools.cached_property
  def _stream(self) -> int:
    return _stable.key("digits", self.split, self.kind, self.seed)

  def _generator(self, index: int) -> np.random.Generator:
    counter = self._counters[index] if self._counters else index
    return _stable.generator(self._stream, counter)

  @functools.cached_property
  def _counters(self) -> tuple[int, ...]:
    """The counters of distinct test scenes; () where scenes may repeat."""
    if self.split == "train" or self.kind != "scenes":
      return ()
    return _stable.distinct(
        lambda i: self._drawn(_stable.generator(self._stream, i)), self.length
    )

  def _drawn(self, rng: np.random.Generator) -> scenes.Composition:
    edges = list(itertools.accumulate(self.mix[:-1]))
    count = 1 + bisect.bisect_right(edges, rng.random() * sum(self.mix))
    choices = scenes.compositions(count)
    return choices[rng.integers(len(choices))]

  def _scene(self, index: int, rng: np.random.Generator) -> _Scene:
    """The layout, its digits, and the handwritten image of each digit."""
    source = _handwriting.handwritten(self.split)
    if self.kind == "single":
      digit = int(source.digits[index])
      place = _grammar.PLACES[rng.integers(9)]
      composition = scenes.Composition(place, (digit,))
      return _Scene(composition, (index,), digit, int(source.ids[index]))
    if self.kind == "scenes":
      composition = self._drawn(rng)
      label = len(composition.digits) - 1
    else:
      pairs = scenes.HELD_OUT if self.kind == "pairs" else scenes.SEEN
      first, second = pairs[index % len(pairs)]
      composition = scenes.Composition("pair", (first, second))
      label = 10 * first + second
    choices = [source.rows[digit] for digit in composition.digits]
    rows = tuple(int(rows[rng.integers(len(rows))]) for rows in choices)
    return _Scene(composition, rows, label, index)

  def _render(
      self, scene: _Scene, rng: np.random.Generator
  ) -> UInt8[np.ndarray, "h w c"]:
    source = _handwriting.handwritten(self.split)
    ink = np.zeros((self.canvas, self.canvas), np.float32)
    draw = iter(rng.random(32).tolist()).__next__
    places = _place(scene.composition.layout, self.canvas, draw)
    for row, (top, left, size) in zip(scene.rows, places, strict=True):
      glyph = _handwriting.enlarge(source.images[row], size)
      glyph *= 0.75 + 0.25 * draw()
      ink[top:top + size, left:left + size] = glyph
    return _expose(ink, self.channels, rng)


def _place(name: str, canvas: int, draw: _Draw) -> list[tuple[int, int, int]]:
  """Draws (top, left, size) in pixels for each slot, without overlap."""
  layout = scenes.LAYOUTS[name]
  if len(layout.boxes) == 1:
    return [_place_alone(layout.boxes[0], canvas, draw)]
  down, across = ((1 - span) * canvas * draw() for span in layout.span)
  boxes = []
  for y, x, height, width in layout.boxes:
    room = int(min(height, width) * canvas)
    size = _between(max(7, round(0.7 * room)), room, draw)
    top, left = down + y * canvas, across + x * canvas
    boxes.append((
        _between(top, top + height * canvas - size, draw),
        _between(left, left + width * canvas - size, draw),
        size,
    ))
  return boxes


def _place_alone(box, canvas: int, draw: _Draw) -> tuple[int, int, int]:
  """Draws (top, left, size) of one digit, its centre within its cell."""
  y, x, height, width = box
  largest = 0.75 if y == x == 1 / 3 else 0.5
  size = _between(canvas // 3, largest * canvas, draw)

  def edge(low, extent):
    return _between(
        max(low * canvas - size / 2, 0),
        min((low + extent) * canvas - size / 2, canvas - size),
        draw,
    )

  return edge(y, height), edge(x, width), size


def _between(low: int | float, high: int | float, draw: _Draw) -> int:
  """A random integer in [low, high], or ceil(low) if there is none."""
  first, last = math.ceil(low), math.floor(high)
  return first + int(draw() * max(last - first + 1, 1))


def _expose(
    ink: Float32[np.ndarray, "h w"], channels: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w c"]:
  """Renders ink from 0 to 1 with random contrast and noise."""
  ground, light, grain = rng.random(3, np.float32)
  image = rng.standard_normal(ink.shape, np.float32) * (8 * grain)
  image += (170 + 85 * light - 50 * ground) * ink + 50 * ground
  image = np.clip(image, 0, 255, out=image).astype(np.uint8)
  return np.repeat(image[..., None], channels, axis=2)

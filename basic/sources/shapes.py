"""Synthetic scenes: shapes, colours, sizes, textures, counts and positions.

Scenes are generated, so there can be any number of examples. A quarter of all
pairs of a shape and a colour is held out of training (`_shape_scenes`).
"""

import dataclasses
import functools
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float32, UInt8

from basic import types
from basic.sources import _drawing, _grammar, _stable
from basic.sources import _shape_scenes as scenes

_KINDS = ("scenes", "single", "compositions")
_LAYOUTS = (
    "one thing", "two things side by side", "two things, one above the other",
    "several things that look the same",
)
_NAMES = tuple(
    _grammar.a(f"{colour} {shape}") for shape, colour in scenes.PAIRS
)


def shapes(
    *,
    split: str = "train",
    kind: str = "scenes",
    canvas: int = 48,
    seed: int = 0,
    length: int | None = None,
) -> types.Source:
  """Images of coloured shapes, captioned by what they are and where.

  There are three kinds. "scenes" show one object, two objects in a spatial
  relation, or two to four identical ones; the label is the layout. "single"
  shows one object whose colour and shape occur together in training;
  "compositions" one whose colour and shape never do (test split only). Both
  cycle through their pairs; the label is one of 64 captions
  "a {colour} {shape}".

  A caption names all objects of its scene. Training captions may omit sizes,
  textures or positions; those of test scenes never do, and no two test scenes
  share a caption. A position is a ninth of the canvas. Both splits have the
  same distribution and different random streams.

  Args:
    split: "train" or "test".
    kind: one of the three above.
    canvas: height and width, 32 to 128 pixels.
    seed: of the scenes; what is held out does not depend on it.
    length: the number of examples; by default 1,000,000 in the training split
      and 1,000 in the test split.

  Returns:
    A source of "image" uint8[canvas canvas 3], "text" (four to six captions),
    "label" int32, "id" int64 (the index). `classes` names the labels.

  Raises:
    ValueError: if a setting is not one of those above, or if more test scenes
      are requested than there are different ones.

  Example:
    >>> source = shapes(split="test", kind="compositions")
    >>> source.classes[source[0]["label"]]
    'a blue circle'
  """
  if split not in ("train", "test"):
    raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
  if kind not in _KINDS:
    raise ValueError(f"kind is {kind!r}; expected one of {', '.join(_KINDS)}")
  if kind == "compositions" and split == "train":
    raise ValueError(
        "the held-out compositions are never in the training split; "
        "use split='test', or kind='single'"
    )
  if not 32 <= canvas <= 128:
    raise ValueError(f"canvas is {canvas}; expected 32 to 128 pixels")
  if length is None:
    length = 1_000_000 if split == "train" else 1_000
  if length < 1:
    raise ValueError(f"length is {length}; expected at least 1")
  return _Shapes(split, kind, canvas, seed, length)


@dataclasses.dataclass(frozen=True)
class _Shapes:
  """Scenes by index, each generated on access with its own generator."""

  split: str
  kind: str
  canvas: int
  seed: int
  length: int

  def __post_init__(self):
    # Computed here, once, so that the threads that share it only read it.
    _ = self._counters

  @property
  def classes(self) -> tuple[str, ...]:
    return _LAYOUTS if self.kind == "scenes" else _NAMES

  @property
  def fingerprint(self) -> str:
    return _stable.fingerprint("shapes", dataclasses.astuple(self))

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    index = _stable.position(index, self.length)
    counter = self._counters[index] if self._counters else index
    rng = _stable.generator(self._stream, counter)
    if self.kind == "scenes":
      scene = scenes.draw(rng)
      label = scenes.LAYOUTS.index(scene.layout)
    else:
      pairs = scenes.SEEN if self.kind == "single" else scenes.HELD_OUT
      pair = pairs[index % len(pairs)]
      place = int(rng.integers(9))
      scene = scenes.Scene("alone", (scenes.thing(pair, rng),), place)
      label = scenes.PAIRS.index(pair)
    text = scenes.exact(scene)
    if self.split == "train":
      text += scenes.loose(scene)
    return {
        "image": _render(scene, self.canvas, rng),
        "text": text,
        "label": np.int32(label),
        "id": np.int64(index),
    }

  @functools.cached_property
  def _stream(self) -> int:
    return _stable.key("shapes", self.split, self.kind, self.seed)

  @functools.cached_property
  def _counters(self) -> tuple[int, ...]:
    """The counters of distinct test scenes; () where scenes may repeat."""
    if self.split == "train" or self.kind != "scenes":
      return ()
    return _stable.distinct(
        lambda i: scenes.draw(_stable.generator(self._stream, i)), self.length
    )


def _render(
    scene: scenes.Scene, canvas: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
  """Renders a scene on a dark background with a little noise."""
  image = np.empty((canvas, canvas, 3), np.float32)
  image[...] = rng.uniform(10, 60)
  for thing, (y, x) in zip(scene.things, _centres(scene, rng), strict=True):
    low, high = (0.25, 0.3) if thing.size == "small" else (0.4, 0.45)
    size = round(rng.uniform(low, high) * canvas)
    top, left = (
        min(max(round(c * canvas - size / 2), 0), canvas - size) for c in (y, x)
    )
    _paint(image[top:top + size, left:left + size], thing, rng)
  noise = rng.standard_normal((canvas, canvas), np.float32)
  noise *= rng.uniform(0, 6)
  image += noise[..., None]
  return np.clip(image, 0, 255, out=image).astype(np.uint8)


def _paint(
    patch: Float32[np.ndarray, "s s 3"],
    thing: scenes.Thing,
    rng: np.random.Generator,
) -> None:
  """Blends an object into a patch of the image, in place."""
  size = len(patch)
  colour = np.array(scenes.COLOURS[thing.colour], np.float32)
  colour = colour * np.float32(rng.uniform(0.85, 1.0))
  covered = _drawing.mask(thing.shape, size)[..., None]
  pattern = _drawing.texture(thing.texture, size)[..., None]
  patch += covered * (colour * (0.4 + 0.6 * pattern) - patch)


def _centres(
    scene: scenes.Scene, rng: np.random.Generator
) -> list[tuple[float, float]]:
  """Draws the centre of every object, in fractions of the canvas.

  Where there are several, each has its own half or quarter of the canvas, so
  that objects up to 0.45 wide do not overlap.
  """
  u, v, *jitter = rng.uniform(-1, 1, 10).tolist()
  match scene.layout:
    case "alone":
      row, column = divmod(scene.place, 3)
      return [(_third(row, u), _third(column, v))]
    case "pair":
      y = 0.5 + 0.25 * u
      return [(y + 0.05 * jitter[i], 0.25 + 0.5 * i) for i in (0, 1)]
    case "stack":
      x = 0.5 + 0.25 * u
      return [(0.25 + 0.5 * i, x + 0.05 * jitter[i]) for i in (0, 1)]
    case _:
      quarters = rng.permutation(4)[: len(scene.things)].tolist()
      return [(0.25 + 0.5 * (q // 2), 0.25 + 0.5 * (q % 2)) for q in quarters]


def _third(cell: int, jitter: float) -> float:
  """A coordinate in the cell at which a large object is not cropped."""
  return (0.27, 0.5, 0.73)[cell] + (0.05 if cell != 1 else 0.12) * jitter

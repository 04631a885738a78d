"""Scenes of shapes: objects, layouts and captions.

Shape s never has colour c in training where c - s is 2 or 5 modulo 8: these are
16 of the 64 pairs, and every shape and every colour is in two of them.
"""

import functools
from typing import NamedTuple

import numpy as np

from basic.sources import _grammar

SHAPES = (
    "circle", "square", "triangle", "diamond", "cross", "ring", "star", "heart",
)
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (60, 90, 235),
    "yellow": (240, 225, 50),
    "purple": (140, 50, 190),
    "orange": (250, 135, 20),
    "cyan": (60, 220, 225),
    "pink": (250, 150, 200),
}
SIZES = ("small", "large")
TEXTURES = ("solid", "striped", "dotted")

PAIRS = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
HELD_OUT = tuple(
    (shape, colour) for s, shape in enumerate(SHAPES)
    for c, colour in enumerate(COLOURS) if (c - s) % 8 in (2, 5)
)
SEEN = tuple(pair for pair in PAIRS if pair not in HELD_OUT)

LAYOUTS = ("alone", "pair", "stack", "group")


class Thing(NamedTuple):
  """One object; its fields are the words of its caption."""

  shape: str
  colour: str
  size: str
  texture: str

  @property
  def brief(self) -> str:
    return f"{self.colour} {self.shape}"

  @property
  def full(self) -> str:
    return f"{self.size} {self.texture} {self.brief}"


class Scene(NamedTuple):
  """Objects and their layout.

  Attributes:
    layout: "alone"; "pair", left to right; "stack", top to bottom; "group",
      several identical ones.
    things: the objects in reading order.
    place: the cell of a 3 by 3 grid, 0 to 8, for "alone"; else 0.
  """

  layout: str
  things: tuple[Thing, ...]
  place: int = 0


def draw(rng: np.random.Generator) -> Scene:
  """Draws a scene without held-out pairs of shape and colour."""
  layout = LAYOUTS[rng.integers(4)]
  first = thing(SEEN[rng.integers(len(SEEN))], rng)
  match layout:
    case "alone":
      return Scene(layout, (first,), int(rng.integers(9)))
    case "group":
      return Scene(layout, (first,) * int(rng.integers(2, 5)))
    case _:
      second = thing(SEEN[rng.integers(len(SEEN))], rng)
      if second == first:  # the captions of a group of two fit as well
        layout = "group"
      return Scene(layout, (first, second))


def thing(pair: tuple[str, str], rng: np.random.Generator) -> Thing:
  """An object of a shape and colour, with a random size and texture."""
  size, texture = SIZES[rng.integers(2)], TEXTURES[rng.integers(3)]
  return Thing(*pair, size, texture)


@functools.lru_cache(maxsize=4096)
def exact(scene: Scene) -> tuple[str, ...]:
  """Four captions, each of which describes `scene` completely.

  Example:
    >>> ring = Thing("ring", "red", "small", "solid")
    >>> exact(Scene("alone", (ring,), 8))[0]
    'a small solid red ring in the bottom right'
  """
  names = [_grammar.a(thing.full) for thing in scene.things]
  match scene.layout:
    case "pair":
      return _grammar.beside(*names)
    case "stack":
      return _grammar.above(*names)
    case "group":
      return _group(scene.things[0], _grammar.NUMBERS[len(scene.things)])
    case _:
      place, (one,) = _grammar.PLACES[scene.place], scene.things
      return (
          f"{names[0]} {place}",
          f"{place}: {names[0]}",
          f"a picture of {names[0]} {place}",
          f"{_grammar.a(one.texture)} {one.brief}, {one.size}, {place}",
      )


@functools.lru_cache(maxsize=4096)
def loose(scene: Scene) -> tuple[str, ...]:
  """Two true captions that omit size, texture or position."""
  first = scene.things[0]
  brief = [_grammar.a(thing.brief) for thing in scene.things]
  match scene.layout:
    case "pair":
      return (_grammar.beside(*brief)[0], _grammar.join(brief))
    case "stack":
      return (_grammar.above(*brief)[0], _grammar.join(brief))
    case "group":
      count = _grammar.NUMBERS[len(scene.things)]
      shapes = _grammar.plural(first.shape)
      return (f"{count} {first.colour} {shapes}", f"{count} {shapes}")
    case _:
      textured = _grammar.a(f"{first.texture} {first.shape}")
      return (brief[0], f"{textured} {_grammar.PLACES[scene.place]}")


def _group(one: Thing, count: str) -> tuple[str, ...]:
  shapes = _grammar.plural(one.shape)
  listed = f"{one.size} {one.texture} {one.colour} {shapes}"
  return (
      f"{count} {listed}",
      f"a picture of {count} {listed}",
      f"a group of {count} {listed}",
      f"{count} {one.texture} {one.colour} {shapes}, all {one.size}",
  )

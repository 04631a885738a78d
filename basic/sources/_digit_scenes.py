"""What a scene of digits shows and says: layouts, compositions, captions.

A composition is a layout and the digits in its slots, in reading order. The
pair (a, b) is held out of training where b - a is 3 or 5 modulo 10: of the
100 ordered pairs these are 20, and every digit is the first of two of them and
the second of two. The reverse of a pair 3 apart is seen in training, so it
tests order; a pair 5 apart is held out in both orders, so it tests digits that
were never seen together.
"""

import functools
import itertools
from typing import NamedTuple

from basic.sources import _grammar

HELD_OUT = tuple(
    (a, b) for a in range(10) for b in range(10) if (b - a) % 10 in (3, 5)
)
SEEN = tuple(
    pair for pair in itertools.product(range(10), repeat=2)
    if pair not in HELD_OUT
)


class Layout(NamedTuple):
  """Slots for digits, in fractions of the canvas.

  Attributes:
    boxes: (top, left, height, width) of each slot, in reading order.
    span: (height, width) of all slots together; the rest is room to move.
    adjacent: pairs of slots whose digits must not be a held-out pair.
  """

  boxes: tuple[tuple[float, float, float, float], ...]
  span: tuple[float, float]
  adjacent: tuple[tuple[int, int], ...]


def _cell(place: int) -> Layout:
  row, column = divmod(place, 3)
  return Layout(((row / 3, column / 3, 1 / 3, 1 / 3),), (1.0, 1.0), ())


def _line(count: int, thickness: float) -> Layout:
  boxes = tuple((0.0, i / count, thickness, 1 / count) for i in range(count))
  adjacent = tuple((i, i + 1) for i in range(count - 1))
  return Layout(boxes, (thickness, 1.0), adjacent)


def _turned(layout: Layout) -> Layout:
  boxes = tuple((x, y, w, h) for y, x, h, w in layout.boxes)
  height, width = layout.span
  return Layout(boxes, (width, height), layout.adjacent)


LAYOUTS = {
    **{place: _cell(i) for i, place in enumerate(_grammar.PLACES)},
    "pair": _line(2, 0.6),
    "stack": _turned(_line(2, 0.6)),
    "row": _line(3, 0.4),
    "column": _turned(_line(3, 0.4)),
    "square": Layout(
        tuple((y, x, 0.5, 0.5) for y in (0.0, 0.5) for x in (0.0, 0.5)),
        (1.0, 1.0),
        ((0, 1), (1, 2), (2, 3), (0, 2), (1, 3)),
    ),
}


class Composition(NamedTuple):
  """Which layout, and which digits in reading order."""

  layout: str
  digits: tuple[int, ...]


@functools.cache
def compositions(count: int) -> tuple[Composition, ...]:
  """All scenes of `count` digits in which no held-out pair is adjacent."""
  return tuple(
      Composition(name, digits)
      for name, layout in LAYOUTS.items() if len(layout.boxes) == count
      for digits in itertools.product(range(10), repeat=count)
      if not any((digits[i], digits[j]) in HELD_OUT for i, j in layout.adjacent)
  )


@functools.cache
def exact(scene: Composition) -> tuple[str, ...]:
  """Four captions, each of which says all that the composition holds.

  A caption names every digit of its scene, so captions of two compositions
  never describe one scene.

  Example:
    >>> exact(Composition("stack", (8, 2)))[0]
    'an eight above a two'
  """
  words = [_grammar.NUMBERS[d] for d in scene.digits]
  names = [_grammar.a(word) for word in words]
  listed = _grammar.join(names)
  match scene.layout:
    case "pair":
      return _grammar.beside(*names)
    case "stack":
      return _grammar.above(*names)
    case "row":
      return (
          f"{listed} in a row",
          f"from left to right: {listed}",
          f"a row of three digits: {listed}",
          f"{names[0]}, then {names[1]}, then {names[2]} to the right",
      )
    case "column":
      return (
          f"{listed} in a column",
          f"from top to bottom: {listed}",
          f"a column of three digits: {listed}",
          f"{names[0]}, then {names[1]}, then {names[2]} going down",
      )
    case "square":
      top, bottom = _grammar.join(names[:2]), _grammar.join(names[2:])
      return (
          f"{top} above {bottom}",
          f"{bottom} below {top}",
          f"top row {top}, bottom row {bottom}",
          f"a square of four digits: {listed}",
      )
    case place:
      return (
          f"{names[0]} {place}",
          f"the digit {words[0]} {place}",
          f"{place}: {names[0]}",
          f"a single {words[0]} {place}",
      )


@functools.cache
def loose(scene: Composition) -> tuple[str, ...]:
  """True captions that leave out where the digits stand.

  Example:
    >>> loose(Composition("row", (6, 4, 6)))
    ('three digits: two sixes and a four',)
  """
  words = [_grammar.NUMBERS[d] for d in scene.digits]
  if len(words) == 1:
    return (f"the digit {words[0]}", _grammar.a(words[0]))
  order = tuple(dict.fromkeys(scene.digits))
  if any(pair in HELD_OUT for pair in itertools.pairwise(order)):
    phrases = [_grammar.a(word) for word in words]  # counting would name it
  else:
    phrases = [_counted(d, scene.digits.count(d)) for d in order]
  count = _grammar.NUMBERS[len(words)]
  return (f"{count} digits: {_grammar.join(phrases)}",)


def _counted(digit: int, times: int) -> str:
  word = _grammar.NUMBERS[digit]
  if times == 1:
    return _grammar.a(word)
  return f"{_grammar.NUMBERS[times]} {_grammar.plural(word)}"

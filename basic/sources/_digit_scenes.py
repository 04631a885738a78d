"""Scenes of digits: layouts, compositions and captions.

A composition is a layout and the digits in its slots, in reading order. The
pair (a, b) is held out of training where b - a is 3 or 5 modulo 10: these are
20 of the 100 ordered pairs, and every digit is the first of two of them and
the second of two. Where b - a is 3, the reverse pair occurs in training, so
the pair tests the order of digits; where it is 5, both orders are held out, so
the pair tests digits that never occur side by side in training.
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
    span: (height, width) of all slots together; they move within the canvas.
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


def _transposed(layout: Layout) -> Layout:
  boxes = tuple((x, y, w, h) for y, x, h, w in layout.boxes)
  height, width = layout.span
  return Layout(boxes, (width, height), layout.adjacent)


LAYOUTS = {
    **{place: _cell(i) for i, place in enumerate(_grammar.PLACES)},
    "pair": _line(2, 0.6),
    "stack": _transposed(_line(2, 0.6)),
    "row": _line(3, 0.4),
    "column": _transposed(_line(3, 0.4)),
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
  """Four captions, each of which describes the composition completely.

  A caption names every digit and its position, so two compositions never share
  a caption.

  Example:
    >>> exact(Composition("stack", (8, 2)))[0]
    'an eight above a two'
  """
  numbers = [_grammar.NUMBERS[d] for d in scene.digits]
  names = [_grammar.a(word) for word in numbers]
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
          f"the digit {numbers[0]} {place}",
          f"{place}: {names[0]}",
          f"a single {numbers[0]} {place}",
      )


@functools.cache
def loose(scene: Composition) -> tuple[str, ...]:
  """True captions that omit the positions of the digits.

  Example:
    >>> loose(Composition("row", (6, 4, 6)))
    ('three digits: two sixes and a four',)
  """
  numbers = [_grammar.NUMBERS[d] for d in scene.digits]
  if len(numbers) == 1:
    return (f"the digit {numbers[0]}", _grammar.a(numbers[0]))
  order = tuple(dict.fromkeys(scene.digits))
  if any(pair in HELD_OUT for pair in itertools.pairwise(order)):
    # Counting would name the two digits of a held-out pair in sequence.
    phrases = [_grammar.a(word) for word in numbers]
  else:
    phrases = [_counted(d, scene.digits.count(d)) for d in order]
  count = _grammar.NUMBERS[len(numbers)]
  return (f"{count} digits: {_grammar.join(phrases)}",)


def _counted(digit: int, times: int) -> str:
  word = _grammar.NUMBERS[digit]
  if times == 1:
    return _grammar.a(word)
  return f"{_grammar.NUMBERS[times]} {_grammar.plural(word)}"

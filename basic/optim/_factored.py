"""The second moment of `adafactorw`, for a tree of weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from basic import paths
from basic.ops import factored, precision
from basic.optim import _chain


class Second(NamedTuple):
  """Mean squares by path; a path is in `rows` and `columns`, or in `full`.

  Attributes:
    rows: means over the columns, which stay as an axis of size 1.
    columns: means over the rows, likewise.
    full: what is not factored, in the shape of the weight.
  """

  rows: Any
  columns: Any
  full: Any


def statistics(squares: Any, least: int) -> Second:
  """What is kept of squares.

  Args:
    squares: a tree of weights.
    least: size that rows and columns must have to be kept in place of V.
  """
  found = Second({}, {}, {})
  for path, square in _chain.leaves(squares)[0].items():
    pair = axes(path, square.shape, least)
    if pair is None:
      found.full[path] = square
    else:
      found.rows[path], found.columns[path] = factored.means(square, pair)
  return Second(*map(paths.unflatten, found))


def zeros(params: Any, least: int) -> Second:
  """The statistics of nothing, at least as wide as float32."""
  wide = jax.tree.map(
      lambda p: jax.ShapeDtypeStruct(
          p.shape, precision.accumulator(p.dtype)
      ),
      params,
  )
  shapes = jax.eval_shape(lambda tree: statistics(tree, least), wide)
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def inverse_root(second: Second, like: Any, least: int) -> Any:
  """V^(-1/2) of every path of `like`, a tree of the weights' shapes."""
  rows, columns, full = map(paths.flatten, second)
  found, structure = _chain.leaves(like)
  roots = []
  for path, leaf in found.items():
    pair = axes(path, leaf.shape, least)
    if pair is None:
      roots.append(jax.lax.rsqrt(full[path]))
    else:
      roots.append(factored.inverse_root(rows[path], columns[path], pair[0]))
  return structure.unflatten(roots)


def axes(
    path: str, shape: tuple[int, ...], least: int
) -> tuple[int, int] | None:
  """The axes of a weight that are rows and columns; None: it is not factored."""
  # Layers of a stack are no rows, however many there are.
  first = len(shape) - len(_chain.layer_axes(path, len(shape)))
  return factored.axes(shape, least, first)

"""The second moment of `adafactorw`, for a tree of weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from basic import paths
from basic.ops import factored, precision
from basic.optim import _chain


class SecondMoment(NamedTuple):
  """Moving averages of squared gradients, by path.

  A path is in `rows` and `columns`, or in `full`.

  Attributes:
    rows: means over the columns, which are kept as an axis of size 1.
    columns: means over the rows, likewise.
    full: what is not factored, in the shape of the weight.
  """

  rows: Any
  columns: Any
  full: Any


def statistics(squares: Any, least: int) -> SecondMoment:
  """Row and column means of squared gradients, where they are factored.

  Args:
    squares: a tree in the shapes of the weights.
    least: size that both axes must have to be factored.
  """
  second = SecondMoment({}, {}, {})
  for path, square in _chain.leaves(squares)[0].items():
    pair = axes(path, square.shape, least)
    if pair is None:
      second.full[path] = square
    else:
      second.rows[path], second.columns[path] = factored.means(square, pair)
  return SecondMoment(*map(paths.unflatten, second))


def zeros(params: Any, least: int) -> SecondMoment:
  """Zeros in the shapes of `statistics`, in float32 or wider."""
  wide = jax.tree.map(
      lambda p: jax.ShapeDtypeStruct(
          p.shape, precision.accumulator(p.dtype)
      ),
      params,
  )
  shapes = jax.eval_shape(lambda tree: statistics(tree, least), wide)
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def inverse_root(second: SecondMoment, like: Any, least: int) -> Any:
  """V^(-1/2) of every path of `like`, a tree of the weights' shapes."""
  rows, columns, full = map(paths.flatten, second)
  by_path, structure = _chain.leaves(like)
  roots = []
  for path, leaf in by_path.items():
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
  # The layer axis of a stack indexes matrices: it is never rows or columns,
  # however many layers there are.
  first = len(shape) - len(_chain.layer_axes(path, len(shape)))
  return factored.axes(shape, least, first)

"""All pairs of two blocks of rows, one tile of the matrix at a time.

A pairwise loss is a reduction of the logits

    S_ij = t <x_i, y_j> + c

over rows and columns. `Reduction` says how one tile is added to the sums and
what the derivative of a tile is; `forward` and `backward` loop over the tiles
and never have more of S in memory than one of them. All of it is for a single
device.

Precision: inner products accumulate in float32 whatever the inputs; logits,
sums and gradients are float32 (float64 throughout if the inputs are float64).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact

from basic.ops import precision

# What a reduction may know of each row: vectors, or tuples of vectors, by name.
# "index" is always there: the index of a row in the whole batch, negative for
# rows that an earlier tile has seen. A reduction gets the tags of rows as [i 1]
# and those of columns as [1 j], ready to be compared.
Tags = Mapping[str, Any]


class Reduction(NamedTuple):
  """How one tile of logits is added to the sums of its rows and columns.

  Attributes:
    start: (n, m, dtype) -> states of n rows and m columns before any pair.
    fold: (logits, row tags, column tags, row state, column state) -> the two
      states after the tile. `logits` is a function () -> [i j], so that XLA can
      fuse them into what uses them. A logit of -inf means: no such pair.
    merge: k states, of arrays [k n] -> their sum, a state of arrays [n].
    finish: state -> value.
    slope: (logits, row tags, column tags, row (value, cotangent), column
      (value, cotangent)) -> dL/dlogits [i j], 0 where the logit is -inf.
  """

  start: Callable[[int, int, Any], tuple[Any, Any]]
  fold: Callable[..., tuple[Any, Any]]
  merge: Callable[[Any], Any]
  finish: Callable[[Any, Any], tuple[Any, Any]]
  slope: Callable[..., Any]


class Side(NamedTuple):
  """One side of the pairs: embeddings, and the tags of their rows."""

  z: Inexact[Array, "n d"]
  tags: Tags


class Tile(NamedTuple):
  """All pairs of some rows with some columns, and which of them are new."""

  x: Side
  y: Side
  new_rows: Bool[Array, "i"] | None  # None: no row was in an earlier tile
  new_cols: Bool[Array, "j"] | None
  scale: Any
  bias: Any


class Kernel(NamedTuple):
  """Computes the logits of one tile, and what a reduction makes of them.

  Attributes:
    fold: (reduction, tile, row state, column state) -> the two states after the
      tile.
    slope: (reduction, tile, row (value, cotangent), column (value, cotangent))
      -> (dL/dlogits [i j] in the dtype of the factors, their sum in float32).
  """

  fold: Callable[[Reduction, Tile, Any, Any], tuple[Any, Any]]
  slope: Callable[[Reduction, Tile, Any, Any], tuple[Any, Any]]


def _product(a: Array, b: Array, contract: tuple[int, int]) -> Array:
  """Contracts an axis of a with one of b.

  HIGHEST, or TPUs and GPUs round float32 factors to bfloat16 or TF32.
  """
  return jax.lax.dot_general(
      a, b, (((contract[0],), (contract[1],)), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=precision.accumulator(a.dtype),
  )


def _tile_count(n: int, tile: int) -> int:
  return -(-n // tile)


def _cut(tree: Any, k: Array, tile: int) -> tuple[Any, Array, Any]:
  """Tile k of every array, its first row, and which of its rows are new.

  The last tile ends with the last row, so it may overlap the tile before it:
  padding to a multiple of the tile would copy the embeddings. None: all rows
  are new.
  """
  n = jax.tree.leaves(tree)[0].shape[0]
  start = jnp.minimum(k * tile, n - tile)
  cut = jax.tree.map(
      lambda a: jax.lax.dynamic_slice_in_dim(a, start, tile), tree
  )
  return cut, start, start + jnp.arange(tile) >= k * tile if n % tile else None


def _write_rows(tree: Any, rows: Any, start: Array) -> Any:
  return jax.tree.map(
      lambda a, r: jax.lax.dynamic_update_slice_in_dim(a, r, start, 0),
      tree, rows,
  )


def _add_rows(a: Array, rows: Array, start: Array) -> Array:
  old = jax.lax.dynamic_slice_in_dim(a, start, rows.shape[0])
  return jax.lax.dynamic_update_slice_in_dim(a, old + rows, start, 0)


def _logits(tile):
  """(logits of one tile, as a function; row tags; column tags)."""
  x, y, new_rows, new_cols, scale, bias = tile
  products = _product(x.z, y.z, (1, 1))
  rows = {name: along_rows(tag) for name, tag in x.tags.items()}
  cols = {name: along_columns(tag) for name, tag in y.tags.items()}
  # Different negative indices, or rows already seen would be on the diagonal
  # with columns already seen.
  if new_rows is not None:
    rows["index"] = jnp.where(new_rows[:, None], rows["index"], -1)
  if new_cols is not None:
    cols["index"] = jnp.where(new_cols[None, :], cols["index"], -2)

  def logits():
    values = scale * products + bias
    if new_rows is not None:
      values = jnp.where(new_rows[:, None], values, -jnp.inf)
    if new_cols is not None:
      values = jnp.where(new_cols[None, :], values, -jnp.inf)
    return values

  return logits, rows, cols


def along_rows(tag: Any) -> Any:
  """A tag of rows, vectors [i], as [i 1]."""
  return jax.tree.map(lambda vector: vector[:, None], tag)


def along_columns(tag: Any) -> Any:
  """A tag of columns, vectors [j], as [1 j]."""
  return jax.tree.map(lambda vector: vector[None, :], tag)


def _fold(reduction, tile, row_state, col_state):
  return reduction.fold(*_logits(tile), row_state, col_state)


def _slope(reduction, tile, row, col):
  slope = reduction.slope(*_logits(tile), row, col)
  # G is a factor of two more products, in the dtype of the embeddings; its sum,
  # the gradient of the bias, is taken before it is rounded.
  return slope.astype(tile.x.z.dtype), jnp.sum(slope)


# Tiles as XLA compiles them: the reference for other implementations.
XLA = Kernel(_fold, _slope)


def forward(
    reduction: Reduction,
    x: Side,
    y: Side,
    scale: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike,
    row_state: Any,
    col_state: Any,
    tile: int,
    kernel: Kernel = XLA,
) -> tuple[Any, Any]:
  """Folds all pairs of `x` and `y` into the states of rows and columns.

  Args:
    reduction: what is summed.
    x: rows i.
    y: columns j.
    scale: t.
    bias: c.
    row_state: state of the rows so far.
    col_state: state of the columns so far.
    tile: rows and columns of a tile.
    kernel: implementation of a tile.

  Returns:
    (row state, column state).
  """
  (n, m) = x.z.shape[0], y.z.shape[0]
  (ti, tj) = min(tile, n), min(tile, m)

  def fold_rows(a, carry):
    row_state, col_state = carry
    (x_tile, row_part), row_start, new_rows = _cut((x, row_state), a, ti)

    def fold_tile(b, carry):
      row_part, col_state = carry
      (y_tile, col_part), col_start, new_cols = _cut((y, col_state), b, tj)
      pairs = Tile(x_tile, y_tile, new_rows, new_cols, scale, bias)
      row_part, col_part = kernel.fold(reduction, pairs, row_part, col_part)
      return row_part, _write_rows(col_state, col_part, col_start)

    row_part, col_state = jax.lax.fori_loop(
        0, _tile_count(m, tj), fold_tile, (row_part, col_state)
    )
    return _write_rows(row_state, row_part, row_start), col_state

  return jax.lax.fori_loop(
      0, _tile_count(n, ti), fold_rows, (row_state, col_state)
  )


class Sums(NamedTuple):
  """The sums over pairs of G = dL/dS that all gradients follow from.

  dL/dx_i = t x_i', dL/dy_j = t y_j', dL/dt = sum_i <x_i, x_i'>, dL/dc = bias:
  the gradient of the scale needs no pass over the pairs of its own.
  """

  x: Float[Array, "i d"]  # x_i' = sum_j G_ij y_j
  y: Float[Array, "j d"]  # y_j' = sum_i G_ij x_i
  bias: Float[Array, ""]  # sum_ij G_ij


def backward(
    reduction: Reduction,
    x: Side,
    y: Side,
    scale: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike,
    row: Any,
    col: Any,
    sums: Sums,
    tile: int,
    kernel: Kernel = XLA,
) -> Sums:
  """Adds all pairs of `x` and `y` to `sums`, with G from `reduction.slope`.

  Args:
    reduction: what is summed.
    x: rows i.
    y: columns j.
    scale: t.
    bias: c.
    row: (value, cotangent) of the rows.
    col: (value, cotangent) of the columns.
    sums: of the pairs so far.
    tile: rows and columns of a tile.
    kernel: implementation of a tile, which recomputes its logits.

  Returns:
    The sums after these pairs.
  """
  (n, m) = x.z.shape[0], y.z.shape[0]
  (ti, tj) = min(tile, n), min(tile, m)

  def add_rows(a, sums):
    (x_tile, row_part), row_start, new_rows = _cut((x, row), a, ti)
    # G^T x contracts the leading axis of both factors, for which CPUs have no
    # fast kernel. As x^T G it has one; x is transposed once for all tiles of
    # these rows. The barriers stop XLA from moving the transposes back.
    x_transposed = jax.lax.optimization_barrier(x_tile.z.T)

    def add_tile(b, carry):
      gx, sums = carry
      (y_tile, col_part), col_start, new_cols = _cut((y, col), b, tj)
      pairs = Tile(x_tile, y_tile, new_rows, new_cols, scale, bias)
      g, g_total = kernel.slope(reduction, pairs, row_part, col_part)
      gy = jax.lax.optimization_barrier(_product(x_transposed, g, (1, 0)))
      return gx + _product(g, y_tile.z, (1, 0)), sums._replace(
          y=_add_rows(sums.y, gy.T, col_start), bias=sums.bias + g_total
      )

    zero = jnp.zeros((ti, x.z.shape[1]), sums.x.dtype)
    gx, sums = jax.lax.fori_loop(0, _tile_count(m, tj), add_tile, (zero, sums))
    return sums._replace(x=_add_rows(sums.x, gx, row_start))

  return jax.lax.fori_loop(0, _tile_count(n, ti), add_rows, sums)

"""All pairs of two blocks of rows, one tile of the matrix at a time.

A pairwise loss is a reduction of the logits

    S_ij = t <x_i, y_j> + c

over rows and columns. `Reduction` says how one tile enters the sums and what
the derivative of a tile is; `forward` and `backward` walk the tiles and never
hold more of S than one of them. Nothing here knows of devices.

Numbers: products accumulate in float32 whatever the inputs; logits, sums and
gradients are float32 (float64 throughout where the inputs are float64).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact

# Row-wise vectors that a reduction may read. "index" is always there: the place
# of a row in the whole batch, negative where a tile overlaps rows already seen.
# A reduction gets those of rows as [i 1] and those of columns as [1 j].
Tags = Mapping[str, Any]


class Reduction(NamedTuple):
  """How one tile of logits enters the sums of its rows and of its columns.

  Attributes:
    start: (n, m, dtype) -> states of n rows and m columns that saw nothing.
    fold: (logits, row tags, column tags, row state, column state) -> the two
      states with the tile in them. `logits` is a function () -> [i j], so that
      they are made where they are used rather than stored. -inf is no pair.
    merge: a state whose leaves are [k n] -> the state [n] of all k together.
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
  """One side of the pairs: embeddings, and what is known of each row."""

  z: Inexact[Array, "n d"]
  tags: Tags


class Tile(NamedTuple):
  """All pairs of some rows with some columns, and which of them count."""

  x: Side
  y: Side
  new_rows: Bool[Array, "i"] | None  # None: no row was in a tile before
  new_cols: Bool[Array, "j"] | None
  scale: Any
  bias: Any


class Kernel(NamedTuple):
  """Who makes the logits of one tile and uses them.

  Attributes:
    fold: (reduction, tile, row state, column state) -> the two states with the
      tile in them.
    slope: (reduction, tile, row (value, cotangent), column (value, cotangent))
      -> (dL/dlogits [i j] in the type of the factors, their sum in float32).
  """

  fold: Callable[[Reduction, Tile, Any, Any], tuple[Any, Any]]
  slope: Callable[[Reduction, Tile, Any, Any], tuple[Any, Any]]


def accumulator(x: Inexact[Array, "..."]) -> jnp.dtype:
  """The type that sums over `x` are kept in: float64 for float64, or float32."""
  return jnp.promote_types(x.dtype, jnp.float32)


def _product(a: Array, b: Array, contract: tuple[int, int]) -> Array:
  """a contracted with b. float32 stays float32 on hardware that would round."""
  return jax.lax.dot_general(
      a, b, (((contract[0],), (contract[1],)), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=accumulator(a),
  )


def _starts(n: int, tile: int) -> int:
  return -(-n // tile)


def _cut(tree: Any, k: Array, tile: int) -> tuple[Any, Array, Any]:
  """Tile k of every leaf, its first row, and which of its rows are new.

  The last tile ends with the last row, so it may overlap the one before: no
  length needs padding, which would copy the embeddings. None: all are new.
  """
  n = jax.tree.leaves(tree)[0].shape[0]
  start = jnp.minimum(k * tile, n - tile)
  cut = jax.tree.map(
      lambda a: jax.lax.dynamic_slice_in_dim(a, start, tile), tree
  )
  return cut, start, start + jnp.arange(tile) >= k * tile if n % tile else None


def _put(tree: Any, piece: Any, start: Array) -> Any:
  return jax.tree.map(
      lambda a, p: jax.lax.dynamic_update_slice_in_dim(a, p, start, 0),
      tree, piece,
  )


def _add(a: Array, piece: Array, start: Array) -> Array:
  old = jax.lax.dynamic_slice_in_dim(a, start, piece.shape[0])
  return jax.lax.dynamic_update_slice_in_dim(a, old + piece, start, 0)


def _logits(tile):
  """(logits of one tile, as a function; row tags; column tags)."""
  x, y, new_rows, new_cols, scale, bias = tile
  products = _product(x.z, y.z, (1, 1))
  rows = {k: v[:, None] for k, v in x.tags.items()}
  cols = {k: v[None, :] for k, v in y.tags.items()}
  # Two different negatives, so that nothing seen before is its own pair.
  if new_rows is not None:
    rows["index"] = jnp.where(new_rows[:, None], rows["index"], -1)
  if new_cols is not None:
    cols["index"] = jnp.where(new_cols[None, :], cols["index"], -2)

  def logits():
    made = scale * products + bias
    if new_rows is not None:
      made = jnp.where(new_rows[:, None], made, -jnp.inf)
    if new_cols is not None:
      made = jnp.where(new_cols[None, :], made, -jnp.inf)
    return made

  return logits, rows, cols


def _fold(reduction, tile, row_state, col_state):
  return reduction.fold(*_logits(tile), row_state, col_state)


def _slope(reduction, tile, row, col):
  slope = reduction.slope(*_logits(tile), row, col)
  # bfloat16 inputs: bfloat16 factors of the products with it, sums float32.
  return slope.astype(tile.x.z.dtype), jnp.sum(slope)


# Products, and what follows them, as XLA compiles them: the oracle of others.
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
    row_state: state of the rows before.
    col_state: state of the columns before.
    tile: side of a tile, in rows; at most one tile of logits is alive.
    kernel: who makes the logits of a tile and folds them.

  Returns:
    (row state, column state).
  """
  (n, m) = x.z.shape[0], y.z.shape[0]
  (ti, tj) = min(tile, n), min(tile, m)

  def over_rows(a, carry):
    row_state, col_state = carry
    (xs, rs), row, new_rows = _cut((x, row_state), a, ti)

    def over_cols(b, carry):
      rs, col_state = carry
      (ys, cs), col, new_cols = _cut((y, col_state), b, tj)
      here = Tile(xs, ys, new_rows, new_cols, scale, bias)
      rs, cs = kernel.fold(reduction, here, rs, cs)
      return rs, _put(col_state, cs, col)

    rs, col_state = jax.lax.fori_loop(
        0, _starts(m, tj), over_cols, (rs, col_state)
    )
    return _put(row_state, rs, row), col_state

  return jax.lax.fori_loop(
      0, _starts(n, ti), over_rows, (row_state, col_state)
  )


class Sums(NamedTuple):
  """What the gradients are made of: sums over pairs of G = dL/dS.

  dL/dx_i = t x_i', dL/dy_j = t y_j', dL/dt = sum_i <x_i, x_i'>, dL/dc = bias:
  the scale costs no pass over the pairs.
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
    reduction: what was summed.
    x: rows i.
    y: columns j.
    scale: t.
    bias: c.
    row: (value, cotangent) of the rows.
    col: (value, cotangent) of the columns.
    sums: of the pairs so far; `x` and `y` are added to in place.
    tile: side of a tile, in rows.
    kernel: who makes the logits of a tile again, and G of them.

  Returns:
    The sums with these pairs in them.
  """
  (n, m) = x.z.shape[0], y.z.shape[0]
  (ti, tj) = min(tile, n), min(tile, m)

  def over_rows(a, sums):
    (xs, row_here), start_row, new_rows = _cut((x, row), a, ti)
    # Sums over the rows of a tile are slow on CPUs: turned once, used often.
    across = jax.lax.optimization_barrier(xs.z.T)

    def over_cols(b, carry):
      gx, sums = carry
      (ys, col_here), start_col, new_cols = _cut((y, col), b, tj)
      here = Tile(xs, ys, new_rows, new_cols, scale, bias)
      steep, total = kernel.slope(reduction, here, row_here, col_here)
      gy = jax.lax.optimization_barrier(_product(across, steep, (1, 0)))
      return gx + _product(steep, ys.z, (1, 0)), sums._replace(
          y=_add(sums.y, gy.T, start_col), bias=sums.bias + total
      )

    zero = jnp.zeros((ti, x.z.shape[1]), sums.x.dtype)
    gx, sums = jax.lax.fori_loop(0, _starts(m, tj), over_cols, (zero, sums))
    return sums._replace(x=_add(sums.x, gx, start_row))

  return jax.lax.fori_loop(0, _starts(n, ti), over_rows, sums)

"""Relative position biases: attention biases that depend on offsets alone.

A table has one number for each offset on an h x w grid: row offsets -(h-1) to
h-1, then column offsets -(w-1) to w-1. Letters here: k heads, n = h w positions in
row-major order, p = 2h-1 and q = 2w-1 offsets.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def gather(
    table: Float[Array, "k p q"], height: int, width: int
) -> Float[Array, "k n n"]:
  """Looks up the bias of every pair of positions by their offset.

      B[k, (i, j), (x, y)] = P[k, i - x + h - 1, j - y + w - 1]

  Args:
    table: P, one number a head and offset.
    height: h, rows of the grid.
    width: w, columns of the grid.

  Returns:
    B, query positions first, in the dtype of the table.

  Raises:
    ValueError: if the table has another size than the grid needs.

  References:
    Dai et al., CoAtNet, 2021, eq. 3. https://arxiv.org/abs/2106.04803

  Example:
    >>> table = jnp.arange(3.0).reshape(1, 1, 3)
    >>> print(gather(table, 1, 2))
    [[[1. 0.]
      [2. 1.]]]
  """
  _check(table, height, width)
  rows = _offsets(height)[:, None, :, None]
  columns = _offsets(width)[None, :, None, :]
  n = height * width
  return table[:, rows, columns].reshape(-1, n, n)


def einsum(
    table: Float[Array, "k p q"], height: int, width: int
) -> Float[Array, "k n n"]:
  """The same as `gather`, by two products with one-hot matrices.

      B[k, (i, j), (x, y)] = sum_pq P[k, p, q] [p = i - x + h - 1]
                                               [q = j - y + w - 1]

  First along the height, then along the width. Accelerators multiply faster
  than they gather, and the backward pass is two products too, where that of a
  gather is a scatter-add.

  Args:
    table: P, one number a head and offset.
    height: h, rows of the grid.
    width: w, columns of the grid.

  Returns:
    B, query positions first, in the dtype of the table.

  Raises:
    ValueError: if the table has another size than the grid needs.

  References:
    Dai et al., CoAtNet, 2021, appendix A.1. https://arxiv.org/abs/2106.04803

  Example:
    >>> table = jnp.arange(3.0).reshape(1, 1, 3)
    >>> print(einsum(table, 1, 2))
    [[[1. 0.]
      [2. 1.]]]
  """
  _check(table, height, width)
  # Each sum has one term: at full precision, it is exact.
  exact = jax.lax.Precision.HIGHEST
  rows = jax.nn.one_hot(_offsets(height), 2 * height - 1, dtype=table.dtype)
  columns = jax.nn.one_hot(_offsets(width), 2 * width - 1, dtype=table.dtype)
  half = jnp.einsum("kpq,ixp->kixq", table, rows, precision=exact)
  whole = jnp.einsum("kixq,jyq->kijxy", half, columns, precision=exact)
  n = height * width
  return whole.reshape(-1, n, n)


def resize(
    table: Float[Array, "*l p q"], height: int, width: int
) -> Float[Array, "*l r s"]:
  """Bilinearly resizes tables learned on one grid to another.

  Args:
    table: learned on a grid of (p + 1) / 2 rows and (q + 1) / 2 columns.
    height: h, rows of the new grid.
    width: w, columns of the new grid.

  Returns:
    `Float[*l 2h-1 2w-1]`, offset 0 in the middle as before; the very same
    array where the grid is the same.

  References:
    Dai et al., CoAtNet, 2021, appendix A.1. https://arxiv.org/abs/2106.04803
  """
  shape = (*table.shape[:-2], 2 * height - 1, 2 * width - 1)
  if table.shape == shape:
    return table
  # Without anti-aliasing, a halved grid would keep every other offset only.
  return jax.image.resize(table, shape, "bilinear", antialias=True)


def _offsets(length: int) -> Int[Array, "i x"]:
  """i - x + length - 1, where a table holds the offset i - x."""
  place = jnp.arange(length)
  return place[:, None] - place[None, :] + length - 1


def _check(table: Float[Array, "k p q"], height: int, width: int) -> None:
  wanted = (2 * height - 1, 2 * width - 1)
  if table.shape[1:] != wanted:
    raise ValueError(
        f"found a table of {table.shape[1]}x{table.shape[2]} offsets for a "
        f"grid of {height}x{width} places, expected {wanted[0]}x{wanted[1]}; "
        "use resize() first"
    )

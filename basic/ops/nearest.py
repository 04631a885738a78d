"""The nearest items of each query, among millions, without the matrix of scores.

Queries and items are cut into blocks. Of the scores of one block with another,
which are in memory at a time, only the best of each row are kept. Memory grows
with the rows and not with the pairs.

The order is total: higher scores first, and of equal scores the lower index.
Scores that are not numbers come last, so that a broken vector is nobody's
neighbour.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from basic.ops import precision
from basic.ops.pairwise import distributed, queries

_NONE = jnp.iinfo(jnp.int32).max  # index of no item; after all others


def top_k(
    x: Float[Array | np.ndarray, "n d"],
    y: Float[Array | np.ndarray, "m d"],
    k: int,
    *,
    block: int | None = None,
) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
  """Finds the k items with the highest inner product with each query.

      s_ij = <x_i, y_j>,   the k first of  sorted(range(m), key=(-s_ij, j))

  On a mesh in context, queries and items are split over its devices, and items
  travel around a ring; the result is the same, up to the rounding of products.
  Inner products of unit vectors are cosines: see `normalize.unit`.

  Args:
    x: queries, one vector per row; float64, float32 or bfloat16. With several
      processes, the whole array in host memory of each.
    y: items, likewise.
    k: how many to find. 1 to m.
    block: rows and columns of the scores in memory. Positive. None: 1,024 on
      CPUs, 4,096 elsewhere.

  Returns:
    (scores, indices int32), best first. Scores are float32 (float64 for
    float64); NaN where a score is not a number, or minus infinity.

  Raises:
    ValueError: if `k` is not in 1..m, there is no query, or `block` is below 1.

  Example:
    >>> items = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    >>> scores, indices = top_k(jnp.array([[1.0, 0.0]]), items, 3)
    >>> print(indices, scores)
    [[0 2 3]] [[1.  1.  0.6]]
  """
  if not 1 <= k <= y.shape[0]:
    raise ValueError(
        f"k is {k} where there are {y.shape[0]} items; expected 1 to "
        f"{y.shape[0]}."
    )
  if not x.shape[0]:
    raise ValueError("there are no queries; expected one or more rows of x.")
  if block is not None and block < 1:
    raise ValueError(f"block is {block}; expected 1 or more.")
  block = block or distributed.tile_rows()
  return _top_k(x, y, k=k, block=block)


@functools.partial(jax.jit, static_argnames=("k", "block"))
def _top_k(x, y, *, k, block):
  dtype, count = precision.accumulator(x.dtype), y.shape[0]

  def fold(x, y, first, state):
    return _merge(state, _of_share(x, y, first, count, k, block))

  keys, index = queries.around(fold, lambda n: _nothing(n, k, dtype), x, y)
  return jnp.where(keys == jnp.finfo(dtype).min, jnp.nan, keys), index


def _nothing(rows, k, dtype):
  """The state of queries that have met no item."""
  return (
      jnp.full((rows, k), -jnp.inf, dtype), jnp.full((rows, k), _NONE, jnp.int32)
  )


def _merge(a, b):
  """The k best of two lists of k, by score and then by index."""
  keys, index = (jnp.concatenate(pair, 1) for pair in zip(a, b, strict=True))
  keys, index = jax.lax.sort((-keys, index), dimension=1, num_keys=2)
  k = a[0].shape[1]
  return -keys[:, :k], index[:, :k]


def _of_share(x, y, first, count, k, block):
  """(keys, indices) [n k] among the items first, first + 1, ..."""
  n = x.shape[0]
  size, rows = queries.blocks(n, block)

  def of_rows(number, found):
    part = queries.span(number, size, n)
    best = _of_rows(part.cut(x), y, first, count, k, block)
    return jax.tree.map(part.put, found, best)

  nothing = _nothing(n, k, precision.accumulator(x.dtype))
  return jax.lax.fori_loop(0, rows, of_rows, nothing)


def _of_rows(x, y, first, count, k, block):
  """(keys, indices) of one block of queries among all items of a share."""
  width, columns = queries.blocks(y.shape[0], block)

  def add(number, best):
    part = queries.span(number, width, y.shape[0])
    index = first + part.numbers
    real = part.new & (index < count)
    keys = jnp.where(real[None], _keys(x, part.cut(y)), -jnp.inf)
    keys, column = jax.lax.top_k(keys, min(k, width))
    found = jnp.where(jnp.isneginf(keys), _NONE, index[column])
    # Both lists are in order, and indices rise from block to block, so of
    # equal keys the lower index is the earlier entry, which top_k prefers.
    keys = jnp.concatenate([best[0], keys], 1)
    index = jnp.concatenate([best[1], found], 1)
    keys, entry = jax.lax.top_k(keys, k)
    return keys, jnp.take_along_axis(index, entry, 1)

  nothing = _nothing(x.shape[0], k, precision.accumulator(x.dtype))
  return jax.lax.fori_loop(0, columns, add, nothing)


def _keys(x, y):
  """Scores without TF32 or bfloat16 rounding; the lowest number for NaN."""
  scores = jnp.einsum(
      "id,jd->ij", x, y,
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=precision.accumulator(x.dtype),
  )
  lowest = jnp.finfo(scores.dtype).min
  scores = jnp.where(scores == 0, 0.0, scores)  # -0.0 would come after 0.0.
  return jnp.where(jnp.isnan(scores), lowest, jnp.maximum(scores, lowest))

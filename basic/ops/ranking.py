"""Retrieval ranks without the matrix of scores.

A query's scores are its inner products with all items. Both sides are split
into blocks, and one tile of scores is in memory at a time, so memory grows with
the number of rows and not with the number of pairs.

The order is total: higher scores first, and of equal scores the lower index. A
score of NaN ranks before all others, so that a broken encoder pushes positives
down and cannot look good.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from basic.ops import precision


@functools.partial(jax.jit, static_argnames="block")
def ranks(
    queries: Float[Array, "i d"],
    items: Float[Array, "j d"],
    query_group: Int[Array, "i"],
    item_group: Int[Array, "j"],
    *,
    block: int = 1024,
) -> Int[Array, "i"]:
  """Counts the items that rank before each query's best positive.

  Item j is a positive of query i if their groups are equal. With p the first of
  the positives of i with the highest score,

      rank_i = #{j : s_ij > s_ip, or s_ij = s_ip and j < p},  s = x @ y.T

  so rank 0 is a hit at 1, and rank_i < k a hit at k.

  Args:
    queries: x, one vector per row.
    items: y, one vector per row.
    query_group: an integer per query.
    item_group: an integer per item.
    block: rows and columns of a tile. Positive.

  Returns:
    The rank of each query, int32 in 0..j. It is j, which is never a hit, if a
    query has no positive, or only positives with a score of NaN.

  Example:
    >>> x, y = jnp.eye(2), jnp.array([[1.0, 0.0], [0.0, 1.0], [0.5, 2.0]])
    >>> print(ranks(x, y, jnp.array([0, 1]), jnp.array([0, 1, 0])))
    [0 1]
  """
  total = items.shape[0]
  tiles = _blocks(items, block), _blocks(item_group, block), _numbers(total, block)

  def rank(block_of_queries):
    x, groups = block_of_queries
    score, index = _best_positive(x, groups, tiles, total)
    before = _count_before(x, groups, score, index, tiles, total)
    return jnp.where(index < total, before, total)

  by_block = jax.lax.map(
      rank, (_blocks(queries, block), _blocks(query_group, block))
  )
  return by_block.reshape(-1)[: queries.shape[0]]


def _best_positive(x, groups, tiles, total):
  """(score, index) of the first of the best positives; (-inf, total) if none."""

  def better(carry, tile):
    y, item_groups, numbers = tile
    scores = _scores(x, y)
    eligible = _positive(groups, item_groups, numbers, total) & ~jnp.isnan(scores)
    scores = jnp.where(eligible, scores, -jnp.inf)
    score = jnp.max(scores, axis=1)
    number = numbers[jnp.argmax(scores, axis=1)]  # the first among equals
    wins = score > carry[0]
    return (
        jnp.where(wins, score, carry[0]), jnp.where(wins, number, carry[1])
    ), None

  nothing = jnp.full(len(x), -jnp.inf, precision.accumulator(x.dtype))
  unset = jnp.full(len(x), total, jnp.int32)
  return jax.lax.scan(better, (nothing, unset), tiles)[0]


def _count_before(x, groups, score, index, tiles, total):
  """Number of items, positives excluded, that rank before (score, index)."""

  def count(before, tile):
    y, item_groups, numbers = tile
    scores = _scores(x, y)
    above = ~(scores <= score[:, None])  # and not `>`: NaN is above
    tied = scores == score[:, None]
    earlier = tied & (numbers[None, :] < index[:, None])
    # No positive ranks before the best one. They are excluded by their group
    # and not by their score, which this pass might round differently.
    others = ~_positive(groups, item_groups, numbers, total)
    others &= numbers[None, :] < total
    return before + jnp.sum((above | earlier) & others, axis=1, dtype=jnp.int32), None

  return jax.lax.scan(count, jnp.zeros(len(x), jnp.int32), tiles)[0]


def _scores(x, y):
  """One tile of inner products, without TF32 or bfloat16 rounding."""
  return jnp.einsum(
      "id,jd->ij", x, y,
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=precision.accumulator(x.dtype),
  )


def _positive(query_groups, item_groups, numbers, total):
  """Whether query and item have the same group, and the item is no padding."""
  same = query_groups[:, None] == item_groups[None, :]
  return same & (numbers[None, :] < total)


def _blocks(x, block):
  """Splits rows into [blocks, rows of a block, ...], padded with zeros."""
  block = min(block, x.shape[0])
  padding = [(0, -x.shape[0] % block)] + [(0, 0)] * (x.ndim - 1)
  return jnp.pad(x, padding).reshape(-1, block, *x.shape[1:])


def _numbers(total, block):
  """Indices of items in blocks; those of padding are `total` and above."""
  block = min(block, total)
  return jnp.arange(total + -total % block, dtype=jnp.int32).reshape(-1, block)

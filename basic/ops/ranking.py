"""Ranks by blocks: the score matrix never exists.

A query's scores are inner products with all items. Both sides are cut into
blocks, and only one tile of scores is alive at a time, so memory grows with
the number of rows and not with the number of pairs.

Order is total. A higher score comes first; of equal scores, the lower index.
A score that is NaN comes before all others, so that a broken encoder pushes
its positives down and cannot look good.
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
  """Counts the items that come before each query's best positive.

  Item j is a positive of query i where their groups are equal. With p the
  first of the best-scored positives of i,

      rank_i = #{j : s_ij > s_ip, or s_ij = s_ip and j < p},  s = x @ y.T

  so rank 0 is a hit at 1, and rank_i < k a hit at k.

  Args:
    queries: x, one vector a row.
    items: y, one vector a row.
    query_group: any integer a query.
    item_group: any integer an item.
    block: rows of a tile, on both sides. Positive.

  Returns:
    The rank of each query, int32 in 0..j. It is j, which is never a hit,
    where a query has no positive or only positives scored NaN.

  Example:
    >>> x, y = jnp.eye(2), jnp.array([[1.0, 0.0], [0.0, 1.0], [0.5, 2.0]])
    >>> print(ranks(x, y, jnp.array([0, 1]), jnp.array([0, 1, 0])))
    [0 1]
  """
  total = items.shape[0]
  tiles = _blocks(items, block), _blocks(item_group, block), _numbers(total, block)

  def rank(query):
    score, index = _best_positive(*query, tiles, total)
    before = _count_before(*query, score, index, tiles, total)
    return jnp.where(index < total, before, total)

  found = jax.lax.map(rank, (_blocks(queries, block), _blocks(query_group, block)))
  return found.reshape(-1)[: queries.shape[0]]


def _best_positive(x, groups, tiles, total):
  """(score, number) of the first of the best positives; (-inf, total) if none."""

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
  """How many items that are no positives come before (score, index)."""

  def count(before, tile):
    y, item_groups, numbers = tile
    scores = _scores(x, y)
    above = ~(scores <= score[:, None])  # and not `>`: NaN is above
    tied = scores == score[:, None]
    earlier = tied & (numbers[None, :] < index[:, None])
    # No positive precedes the best one. Leaving all of them out keeps that
    # true even if this pass were to round a score otherwise than the first.
    others = ~_positive(groups, item_groups, numbers, total)
    others &= numbers[None, :] < total
    return before + jnp.sum((above | earlier) & others, axis=1, dtype=jnp.int32), None

  return jax.lax.scan(count, jnp.zeros(len(x), jnp.int32), tiles)[0]


def _scores(x, y):
  """One tile of inner products; no rounding to the device's short floats."""
  return jnp.einsum(
      "id,jd->ij", x, y,
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=precision.accumulator(x.dtype),
  )


def _positive(query_groups, item_groups, numbers, total):
  """Where query and item belong together, and the item is not padding."""
  same = query_groups[:, None] == item_groups[None, :]
  return same & (numbers[None, :] < total)


def _blocks(x, block):
  """Cuts rows into [blocks, rows of a block, ...]; zeros fill the last."""
  block = min(block, x.shape[0])
  padding = [(0, -x.shape[0] % block)] + [(0, 0)] * (x.ndim - 1)
  return jnp.pad(x, padding).reshape(-1, block, *x.shape[1:])


def _numbers(total, block):
  """Item numbers in blocks; those of the padding are `total` and above."""
  block = min(block, total)
  return jnp.arange(total + -total % block, dtype=jnp.int32).reshape(-1, block)

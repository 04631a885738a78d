"""Ranks of matched pairs in both directions, without the matrix of scores.

Item j belongs to query owner(j), so there are as many matched pairs as items.
One pass over the scores, in blocks, counts for every pair what comes before it
among the items of its query and among the queries of its item.

The order is total: higher scores first, and of equal scores the lower index. A
score that is not a number comes before all others, so that a broken encoder
pushes matches down and cannot look good.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from basic.ops import precision
from basic.ops.pairwise import distributed, queries


class Ranks(NamedTuple):
  """Ranks from 0 of the pairs (owner(j), j), in the order of j.

  Attributes:
    of_item: what comes before item j for its query, among all items; m if the
      score of the pair is not a number.
    of_query: what comes before the query for item j, among all queries; n if
      the score is not a number.
    of_item_in_kind: as `of_item`, among the items of the kind of j.
  """

  of_item: Int[np.ndarray, "m"]
  of_query: Int[np.ndarray, "m"]
  of_item_in_kind: Int[np.ndarray, "m"]


def pair_ranks(
    x: Float[Array | np.ndarray, "n d"],
    y: Float[Array | np.ndarray, "m d"],
    owner: Int[np.ndarray, "m"],
    *,
    kind: Int[np.ndarray, "m"] | None = None,
    block: int | None = None,
) -> Ranks:
  """Counts what comes before each matched pair, in both directions.

  With s = x @ y.T, o = owner(j), and "before" in the order of this module,

      of_item_j          = #{l : l before j  in  s_o.}
      of_item_in_kind_j  = #{l : l before j  in  s_o.,  kind(l) = kind(j)}
      of_query_j         = #{i : i before o  in  s_.j}

  A pair is never before itself, and a pair of the same query whose score is not
  a number is before none. On a mesh in context the queries are split over its
  devices, each of which has all items; ranks are the same, up to the rounding
  of products.

  Args:
    x: queries, one vector per row; float64, float32 or bfloat16. With several
      processes, the whole array in host memory of each.
    y: items, likewise.
    owner: the query of each item, 0 to n - 1; cheapest in ascending order.
    kind: an integer per item; None: all are of one kind.
    block: rows and columns of the scores in memory. Positive. None: 1,024 on
      CPUs, 4,096 elsewhere.

  Returns:
    Ranks, int32, in host memory.

  Raises:
    ValueError: if there is no item, an owner is not a query, or `block` is
      below 1.

  References:
    The count is that of Karpathy and Fei-Fei, 2015, section 4.1, with ties.
    https://arxiv.org/abs/1412.2306

  Example:
    >>> x, y = np.eye(2), np.array([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    >>> ranks = pair_ranks(x, y, np.array([0, 0, 1]))
    >>> print(ranks.of_item, ranks.of_query)
    [0 2 1] [0 1 1]
  """
  n, m = x.shape[0], y.shape[0]
  if not m or owner.min() < 0 or owner.max() >= n:
    raise ValueError(
        f"found {m} items whose owners are {sorted(set(owner.tolist()))[:3]} ... "
        f"of {n} queries; expected at least one item, and owners from 0 to "
        f"{n - 1}."
    )
  if block is not None and block < 1:
    raise ValueError(f"block is {block}; expected 1 or more.")
  block = block or distributed.tile_rows()
  counts = np.bincount(owner, minlength=n)
  pairs = _Pairs(
      np.asarray(owner, np.int32),
      np.argsort(owner, kind="stable").astype(np.int32),
      np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
      None if kind is None else np.asarray(kind, np.int32),
  )
  found = _pair_ranks(x, y, pairs, slots=int(counts.max()), block=block)
  return Ranks(*(np.asarray(each) for each in found))


class _Pairs(NamedTuple):
  """Which items belong to which queries.

  Attributes:
    owner: int32 [m], the query of each item.
    order: int32 [m], items sorted by owner.
    first: int32 [n + 1]; the items of query i are order[first[i]:first[i + 1]].
    kind: int32 [m], or None if all are of one kind.
  """

  owner: Array
  order: Array
  first: Array
  kind: Array | None


@functools.partial(jax.jit, static_argnames=("slots", "block"))
def _pair_ranks(x, y, pairs, *, slots, block):
  n, m = x.shape[0], y.shape[0]
  score = queries.total(
      functools.partial(_own_scores, block=block), x, y, pairs.owner
  )
  of_item, in_kind, of_query = queries.total(
      functools.partial(_counts, slots=slots, block=block), x, y, pairs, score
  )
  broken = jnp.isnan(score)
  return (
      jnp.where(broken, m, of_item), jnp.where(broken, n, of_query),
      jnp.where(broken, m, in_kind),
  )


def _own_scores(x, first, y, owner, *, block):
  """Scores of the pairs whose queries these are, [m]; 0 for other pairs.

  They are taken from the same products as those that they are compared with:
  computed alone, a score might be rounded differently and no longer equal that
  of a copy of its item. Products without a pair are not computed.
  """
  size, rows = queries.blocks(x.shape[0], block)
  width, columns = queries.blocks(y.shape[0], block)

  def add(number, score):
    a = queries.span(number // columns, size, x.shape[0])
    b = queries.span(number % columns, width, y.shape[0])
    row = b.cut(owner) - first - a.start
    here = (row >= 0) & (row < size)

    def take():
      s = _scores(a.cut(x), b.cut(y))
      own = jnp.take_along_axis(s, jnp.clip(row, 0, size - 1)[None, :], 0)[0]
      return b.put(score, jnp.where(here, own, b.cut(score)))

    return jax.lax.cond(jnp.any(here), take, lambda: score)

  nothing = jnp.zeros(y.shape[0], precision.accumulator(x.dtype))
  return jax.lax.fori_loop(0, rows * columns, add, nothing)


def _counts(x, first, y, pairs, score, *, slots, block):
  """(of item, of item in kind, of query) [m], as far as these queries say."""
  n, m = pairs.first.shape[0] - 1, y.shape[0]
  size, rows = queries.blocks(x.shape[0], block)
  width, columns = queries.blocks(m, block)

  def of_rows(number, counts):
    of_item, in_kind, of_query = counts
    a = queries.span(number, size, x.shape[0])
    asking = _Asking(
        first + a.numbers, a.new & (first + a.numbers < n), a.cut(x), pairs
    )

    def of_tile(number, carry):
      of_query, by_slot = carry
      b = queries.span(number, width, m)
      s = _scores(asking.x, b.cut(y))
      before = _queries_before(s, asking, b, pairs.owner, score)
      of_query = b.put(of_query, b.cut(of_query) + before)
      return of_query, _items_before(s, asking, b, score, by_slot)

    of_query, by_slot = jax.lax.fori_loop(
        0, columns, of_tile,
        (of_query, jnp.zeros((slots, 2, size), jnp.int32)),
    )

    def write(slot, counts):
      item, (every, same) = asking.item(slot), by_slot[slot]
      return (
          counts[0].at[item].set(every, mode="drop"),
          counts[1].at[item].set(same, mode="drop"),
      )

    of_item, in_kind = jax.lax.fori_loop(
        0, asking.slots, write, (of_item, in_kind)
    )
    return of_item, in_kind, of_query

  return jax.lax.fori_loop(
      0, rows, of_rows, (jnp.zeros(m, jnp.int32),) * 3
  )


class _Asking(NamedTuple):
  """A block of queries, with what belongs to them."""

  numbers: Array  # int32 [size]
  valid: Array  # bool [size]: neither padding nor counted before
  x: Array
  pairs: _Pairs

  @property
  def _range(self):
    last = self.pairs.first.shape[0] - 1
    begin = self.pairs.first[jnp.minimum(self.numbers, last)]
    end = self.pairs.first[jnp.minimum(self.numbers + 1, last)]
    return begin, jnp.where(self.valid, end, begin)

  @property
  def slots(self) -> Array:
    """The most items that one of them has."""
    begin, end = self._range
    return jnp.max(end - begin)

  def item(self, slot: Array) -> Array:
    """The item number `slot` of each, int32 [size]; m where it has fewer."""
    begin, end = self._range
    count = self.pairs.order.shape[0]
    item = self.pairs.order[jnp.minimum(begin + slot, count - 1)]
    return jnp.where(begin + slot < end, item, count)


def _queries_before(s, asking, b, owner, score):
  """Number of these queries before the owner of each item, [width]."""
  number, own, t = asking.numbers[:, None], b.cut(owner)[None], b.cut(score)[None]
  # And not `s > t`: what is not a number is before.
  before = jnp.where(number < own, ~(s < t), ~(s <= t))
  before &= asking.valid[:, None] & (number != own) & b.new[None]
  return jnp.sum(before, 0, dtype=jnp.int32)


def _items_before(s, asking, b, score, by_slot):
  """Adds the items of a tile that are before those of each query."""
  pairs, number = asking.pairs, b.numbers[None]
  mine = b.cut(pairs.owner)[None] == asking.numbers[:, None]
  counted = b.new[None] & ~(mine & jnp.isnan(s))

  def add(slot, by_slot):
    item = asking.item(slot)[:, None]
    t = score.at[item].get(mode="fill", fill_value=jnp.inf)
    before = jnp.where(number < item, ~(s < t), ~(s <= t))
    before &= counted & (number != item)
    every = jnp.sum(before, 1, dtype=jnp.int32)
    same = every
    if pairs.kind is not None:
      of_item = pairs.kind.at[item].get(mode="fill", fill_value=0)
      before &= b.cut(pairs.kind)[None] == of_item
      same = jnp.sum(before, 1, dtype=jnp.int32)
    return by_slot.at[slot].add(jnp.stack([every, same]))

  return jax.lax.fori_loop(0, asking.slots, add, by_slot)


def _scores(x, y):
  """One tile of inner products, without TF32 or bfloat16 rounding."""
  return jnp.einsum(
      "id,jd->ij", x, y,
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=precision.accumulator(x.dtype),
  )

"""What is summed over pairs: one `tiles.Reduction` for each kind of sum."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from basic.ops.pairwise import tiles

# (row tags, column tags) -> what a tile [i j] needs: log-weights, or booleans.
OfPairs = Callable[[tiles.Tags, tiles.Tags], Any]


def diagonal(rows: tiles.Tags, cols: tiles.Tags) -> Any:
  """Whether a pair is a row with itself: row i of one side, i of the other."""
  return rows["index"] == cols["index"]


def _finite(maximum: Array) -> Array:
  """A maximum that can be subtracted: 0 where nothing has been seen."""
  return jnp.where(jnp.isneginf(maximum), 0, maximum)


# How far, in nats, a sum may lie from what all of a tile subtract. What float32
# then loses to underflow is exp(60 - 87), 2e-12 of a sum.
_REACH = 60.0


def _within(sums: Array) -> Array:
  """Whether sums of exponentials are all far from the ends of float32."""
  near = jnp.min(sums) >= math.exp(-_REACH)
  return near & (jnp.max(sums) <= math.exp(_REACH))


def _absorb(state, top, total):
  """A state with sums beside `top` in it."""
  old, sums = state
  new = jnp.maximum(old, top)
  safe = _finite(new)
  return new, sums * jnp.exp(old - safe) + total * jnp.exp(top - safe)


def _apart(state, logits, axis):
  """A state with logits in it, each row or column beside its own maximum."""
  top = jnp.max(logits, axis)
  beside = logits - jnp.expand_dims(_finite(top), axis)
  return _absorb(state, top, jnp.sum(jnp.exp(beside), axis))


def _corner(logits: Array) -> Array:
  """Near the sums of a tile: the largest logit of a row and of a column."""
  return jnp.maximum(jnp.max(logits[0]), jnp.max(logits[:, 0]))


def log_sum_exp(
    weight: OfPairs | None, near: Callable[[Array], Array] = _corner
) -> tiles.Reduction:
  """Sums exp(S_ij + weight_ij) over rows and over columns, in logarithms.

  The state is a number m, from -inf, and the sum l of the exponentials beside
  it. A tile with the reference c gives

      m' = max(m, c),   l' = l exp(m - m') + exp(c - m') sum_j exp(S_j - c).

  One c for a whole tile, so that rows and columns share its exponentials, which
  cost more than all else but the products. Where a sum lies too far from c for
  that, each row and column takes its own maximum.

  Args:
    weight: additive log-weight of a pair; -inf removes it; None weighs 0.
    near: logits [i j] -> c. Any number near the sums will do; that of a row
      and a column is the cheapest, the maximum of all the simplest.

  Returns:
    A reduction whose values are m + log l, in nats; -inf over no pairs.
  """

  def weighed(logits, rows, cols):
    return logits() if weight is None else logits() + weight(rows, cols)

  def fold(logits, rows, cols, row_state, col_state):
    weigh = functools.partial(weighed, logits, rows, cols)
    logits = weigh()
    c = _finite(near(logits))
    terms = jnp.exp(logits - c)
    by_row, by_col = jnp.sum(terms, 1), jnp.sum(terms, 0)
    return jax.lax.cond(
        _within(by_row) & _within(by_col),
        lambda: (_absorb(row_state, c, by_row), _absorb(col_state, c, by_col)),
        lambda: (_apart(row_state, weigh(), 1), _apart(col_state, weigh(), 0)),
    )

  def start(n, dtype):
    return jnp.full((n,), -jnp.inf, dtype), jnp.zeros((n,), dtype)

  def merge(states):
    top, total = states
    new = jnp.max(top, 0)
    return new, jnp.sum(total * jnp.exp(top - _finite(new)[None]), 0)

  def finish(row_state, col_state):
    return tuple(
        _finite(top) + jnp.log(total) for top, total in (row_state, col_state)
    )

  def slope(logits, rows, cols, row, col):
    weigh = functools.partial(weighed, logits, rows, cols)
    (row_value, row_bar), (col_value, col_bar) = row, col
    row_value, col_value = _finite(row_value), _finite(col_value)
    # No logit is above the sum it is in: nothing overflows.
    c = jnp.max(row_value)
    near = jnp.minimum(jnp.min(row_value), jnp.min(col_value)) >= c - _REACH

    def shared():
      by_row = row_bar * jnp.exp(c - row_value)
      by_col = col_bar * jnp.exp(c - col_value)
      return jnp.exp(weigh() - c) * (by_row[:, None] + by_col[None, :])

    def apart():
      logits = weigh()
      by_row = jnp.exp(logits - row_value[:, None])
      by_col = jnp.exp(logits - col_value[None, :])
      return row_bar[:, None] * by_row + col_bar[None, :] * by_col

    return jax.lax.cond(near, shared, apart)

  return tiles.Reduction(
      lambda n, m, dtype: (start(n, dtype), start(m, dtype)),
      fold, merge, finish, slope,
  )


def softplus(positive: OfPairs) -> tiles.Reduction:
  """Sums softplus(-z_ij S_ij) over rows, z = 1 where positive, -1 elsewhere.

  Args:
    positive: whether a pair is positive.

  Returns:
    A reduction whose row values are the sums, in nats; columns have none.
  """

  def sign(logits, rows, cols):
    # Where there is no pair, tags may agree all the same.
    matches = positive(rows, cols) & ~jnp.isneginf(logits)
    return jnp.where(matches, 1, -1).astype(logits.dtype)

  def fold(logits, rows, cols, row_state, col_state):
    logits = logits()
    signs = sign(logits, rows, cols)
    return row_state + jnp.sum(jax.nn.softplus(-signs * logits), 1), col_state

  def slope(logits, rows, cols, row, col):
    logits = logits()
    signs = sign(logits, rows, cols)
    _, row_bar = row
    return -row_bar[:, None] * signs * jax.nn.sigmoid(-signs * logits)

  return tiles.Reduction(
      start=lambda n, m, dtype: (jnp.zeros((n,), dtype), ()),
      fold=fold,
      merge=lambda states: jax.tree.map(lambda a: jnp.sum(a, 0), states),
      finish=lambda row_state, col_state: (row_state, col_state),
      slope=slope,
  )


def labels(values: Array) -> tiles.Tags:
  """Tags that `agree` compares: one integer, or several, a row.

  Args:
    values: integers [b] or [b k].

  Returns:
    Tags for `similarity.lse` and the like.
  """
  columns = values.reshape(values.shape[0], -1).T
  return {f"label {k}": column for k, column in enumerate(columns)}


def agree(rows: tiles.Tags, cols: tiles.Tags) -> Any:
  """Whether two rows have equal `labels`."""
  names = [name for name in rows if name.startswith("label ")]
  equal = [rows[name] == cols[name] for name in names]
  return functools.reduce(jnp.logical_and, equal)


def no_twins(rows: tiles.Tags, cols: tiles.Tags) -> Any:
  """Log-weights that remove pairs of different rows with equal `labels`."""
  return jnp.where(agree(rows, cols) & ~diagonal(rows, cols), -jnp.inf, 0.0)

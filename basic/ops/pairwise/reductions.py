"""What is summed over pairs: one `tiles.Reduction` for each kind of sum."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from basic.ops.pairwise import tiles

# (row tags, column tags) -> [i j] for a tile: log-weights, or booleans.
OfPairs = Callable[[tiles.Tags, tiles.Tags], Any]

# The tag of `labels`, which `same_labels` compares.
LABELS = "labels"


def diagonal(rows: tiles.Tags, cols: tiles.Tags) -> Any:
  """Whether a pair is on the diagonal: row i of one side and i of the other."""
  return rows["index"] == cols["index"]


def _finite(maximum: Array) -> Array:
  """A maximum that is safe to subtract: 0 where no pair has been seen.

  Otherwise -inf - -inf would make a NaN of a row without pairs.
  """
  return jnp.where(jnp.isneginf(maximum), 0, maximum)


# How far, in nats, a sum may lie from the reference that all of a tile subtract.
# float32 has exponents to -87 nats, so terms more than 87 nats below the
# reference underflow to 0: of a sum 60 nats below it, those are terms smaller
# than exp(60 - 87) = 2e-12 of it, which float32 does not resolve anyway.
_RANGE = 60.0


def _is_in_range(sums: Array) -> Array:
  """Whether sums of exponentials neither overflow nor lose terms."""
  above = jnp.min(sums) >= math.exp(-_RANGE)
  return above & (jnp.max(sums) <= math.exp(_RANGE))


def _add_sums(state, reference, sums):
  """Adds sums of exp(S - reference) to a state, as online softmax does."""
  old_maximum, total = state
  maximum = jnp.maximum(old_maximum, reference)
  # Both exponents are at most 0: one of the two is the new maximum.
  safe = _finite(maximum)
  return maximum, (
      total * jnp.exp(old_maximum - safe) + sums * jnp.exp(reference - safe)
  )


def _add_logits(state, logits, axis):
  """Adds logits to a state, with the maximum of each row or column of its own."""
  maximum = jnp.max(logits, axis)
  terms = jnp.exp(logits - jnp.expand_dims(_finite(maximum), axis))
  return _add_sums(state, maximum, jnp.sum(terms, axis))


def _first_row_and_column(logits: Array) -> Array:
  """A cheap estimate of a tile's maximum: that of its first row and column."""
  return jnp.maximum(jnp.max(logits[0]), jnp.max(logits[:, 0]))


def log_sum_exp(
    weight: OfPairs | None,
    reference: Callable[[Array], Array] = _first_row_and_column,
) -> tiles.Reduction:
  """Sums exp(S_ij + weight_ij) over rows and over columns, in logarithms.

  The state is a maximum m, from -inf, and the sum l of exp(S - m). A tile with
  the reference c updates it as online softmax does:

      m' = max(m, c),   l' = l exp(m - m') + exp(c - m') sum_j exp(S_j - c).

  All rows and columns of a tile have the same reference, so they share its
  exponentials, which cost more than anything but the products. Where a sum is
  too far from the reference for that, each row and column takes its own
  maximum, and the exponentials are computed twice.

  Args:
    weight: additive log-weight of a pair; -inf removes it; None weighs 0.
    reference: logits [i j] -> c. Any number near the sums will do: the maximum
      of one row and column is the cheapest, that of all logits the simplest.

  Returns:
    A reduction whose values are m + log l, in nats; -inf over no pairs.

  References:
    Milakov and Gimelshein, Online normalizer calculation for softmax, 2018.
    https://arxiv.org/abs/1805.02867
  """

  def weighted(logits, rows, cols):
    return logits() if weight is None else logits() + weight(rows, cols)

  def fold(logits, rows, cols, row_state, col_state):
    # The branch that is rarely taken recomputes the logits instead of keeping
    # them: stored for a `cond`, a tile could not be fused into its exponential.
    make = functools.partial(weighted, logits, rows, cols)
    tile = make()
    c = _finite(reference(tile))
    terms = jnp.exp(tile - c)
    by_row, by_col = jnp.sum(terms, 1), jnp.sum(terms, 0)
    return jax.lax.cond(
        _is_in_range(by_row) & _is_in_range(by_col),
        lambda: (
            _add_sums(row_state, c, by_row), _add_sums(col_state, c, by_col)
        ),
        lambda: (
            _add_logits(row_state, make(), 1), _add_logits(col_state, make(), 0)
        ),
    )

  def slope(logits, rows, cols, row, col):
    return _log_sum_exp_slope(
        functools.partial(weighted, logits, rows, cols), row, col
    )

  return tiles.Reduction(
      lambda n, m, dtype: (_start(n, dtype), _start(m, dtype)),
      fold, _merge, _finish, slope,
  )


def _start(n, dtype):
  return jnp.full((n,), -jnp.inf, dtype), jnp.zeros((n,), dtype)


def _merge(states):
  maxima, totals = states
  maximum = jnp.max(maxima, 0)
  return maximum, jnp.sum(totals * jnp.exp(maxima - _finite(maximum)[None]), 0)


def _finish(row_state, col_state):
  def log_of_sum(state):
    maximum, total = state
    return _finite(maximum) + jnp.log(total)

  return log_of_sum(row_state), log_of_sum(col_state)


def _log_sum_exp_slope(logits, row, col):
  """dL/dS of a tile from the values r, c and cotangents g, h of both sides.

      dL/dS_ij = g_i exp(S_ij - r_i) + h_j exp(S_ij - c_j)
  """
  (row_value, row_cotangent), (col_value, col_cotangent) = row, col
  row_value, col_value = _finite(row_value), _finite(col_value)
  # A logit is at most the log-sum-exp of its row, and so at most the largest of
  # these: with it as the reference, no exponential overflows. The factors
  # exp(reference - value) might, where a value is far below.
  reference = jnp.max(row_value)
  lowest = jnp.minimum(jnp.min(row_value), jnp.min(col_value))

  def with_shared_exponentials():
    by_row = row_cotangent * jnp.exp(reference - row_value)
    by_col = col_cotangent * jnp.exp(reference - col_value)
    return jnp.exp(logits() - reference) * (by_row[:, None] + by_col[None, :])

  def with_exponentials_of_each():
    tile = logits()
    by_row = jnp.exp(tile - row_value[:, None])
    by_col = jnp.exp(tile - col_value[None, :])
    return row_cotangent[:, None] * by_row + col_cotangent[None, :] * by_col

  return jax.lax.cond(
      lowest >= reference - _RANGE,
      with_shared_exponentials, with_exponentials_of_each,
  )


def softplus(positive: OfPairs) -> tiles.Reduction:
  """Sums softplus(-z_ij S_ij) over rows, z = 1 where positive, -1 elsewhere.

  Args:
    positive: whether a pair is positive.

  Returns:
    A reduction whose row values are the sums, in nats; columns have none.
  """

  def sign(logits, rows, cols):
    # Rows that a tile repeats have logits of -inf, and labels that may be equal
    # all the same: as positives they would add softplus(inf), as negatives 0.
    matches = positive(rows, cols) & ~jnp.isneginf(logits)
    return jnp.where(matches, 1, -1).astype(logits.dtype)

  def fold(logits, rows, cols, row_state, col_state):
    tile = logits()
    signs = sign(tile, rows, cols)
    return row_state + jnp.sum(jax.nn.softplus(-signs * tile), 1), col_state

  def slope(logits, rows, cols, row, col):
    tile = logits()
    signs = sign(tile, rows, cols)
    _, row_cotangent = row
    return -row_cotangent[:, None] * signs * jax.nn.sigmoid(-signs * tile)

  return tiles.Reduction(
      start=lambda n, m, dtype: (jnp.zeros((n,), dtype), ()),
      fold=fold,
      merge=lambda states: jax.tree.map(lambda a: jnp.sum(a, 0), states),
      finish=lambda row_state, col_state: (row_state, col_state),
      slope=slope,
  )


def labels(values: Array) -> tiles.Tags:
  """Tags for `same_labels`: one integer per row, or several.

  Args:
    values: integers [b] or [b k].

  Returns:
    Tags for `similarity.lse` and the like: one tag, of k vectors [b].
  """
  return {LABELS: tuple(values.reshape(values.shape[0], -1).T)}


def same_labels(rows: tiles.Tags, cols: tiles.Tags) -> Any:
  """Whether all `labels` of two rows are equal."""
  equal = [r == c for r, c in zip(rows[LABELS], cols[LABELS], strict=True)]
  return functools.reduce(jnp.logical_and, equal)


def no_duplicates(rows: tiles.Tags, cols: tiles.Tags) -> Any:
  """Log-weights that remove pairs of different rows with equal `labels`."""
  duplicates = same_labels(rows, cols) & ~diagonal(rows, cols)
  return jnp.where(duplicates, -jnp.inf, 0.0)

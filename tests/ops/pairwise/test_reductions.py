"""What is summed over pairs, tile by tile, and where there is no pair."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops.pairwise import reductions, tiles

LOGITS = np.random.default_rng(0).normal(size=(6, 4)) * 30 - 80
KINDS = {
    "log sum exp": lambda: reductions.log_sum_exp(None),
    "softplus": lambda: reductions.softplus(reductions.diagonal),
}


def oracle(kind, logits):
  """Values of rows and of columns; columns of softplus have none."""
  if kind == "log sum exp":
    return np.logaddexp.reduce(logits, 1), np.logaddexp.reduce(logits, 0)
  match = np.arange(6)[:, None] == np.arange(4)[None]
  return np.logaddexp(0, np.where(match, -logits, logits)).sum(1), ()


def fold(reduction, rows, col_state):
  """Absorbs the tile of some rows, which nobody has seen before."""
  return reduction.fold(
      lambda: jnp.asarray(LOGITS[rows]),
      {"index": jnp.arange(6)[rows, None]}, {"index": jnp.arange(4)[None]},
      reduction.start(len(LOGITS[rows]), 4, jnp.float64)[0], col_state,
  )


def check(kind, reduction, top, low, cols):
  rows = jax.tree.map(lambda *parts: jnp.concatenate(parts), top, low)
  found = reduction.finish(rows, cols)
  for a, b in zip(found, oracle(kind, LOGITS), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_in_turn_are_the_whole(double, kind):
  reduction = KINDS[kind]()
  _, cols = reduction.start(6, 4, jnp.float64)
  top, cols = fold(reduction, slice(0, 2), cols)
  low, cols = fold(reduction, slice(2, 6), cols)
  check(kind, reduction, top, low, cols)


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_parts_merge_to_the_whole(double, kind):
  reduction = KINDS[kind]()
  _, nothing = reduction.start(6, 4, jnp.float64)
  top, one = fold(reduction, slice(0, 2), nothing)
  low, two = fold(reduction, slice(2, 6), nothing)
  cols = jax.tree.map(lambda *parts: jnp.stack(parts), one, nothing, two)
  check(kind, reduction, top, low, reduction.merge(cols))


def test_logits_far_below_zero_keep_their_sums(double):
  # A maximum that began at 0 would leave exp(-1e4), which is nothing.
  reduction = reductions.log_sum_exp(None)
  index = {"index": jnp.arange(6)[:, None]}, {"index": jnp.arange(4)[None]}
  for shift in (-1e4, 1e4):
    found = reduction.finish(*reduction.fold(
        functools.partial(jnp.asarray, LOGITS + shift), *index,
        *reduction.start(6, 4, jnp.float64),
    ))
    for a, b in zip(found, oracle("log sum exp", LOGITS), strict=True):
      np.testing.assert_allclose(a, b + shift, rtol=1e-14)


# Rows and columns of one tile far from each other, which one reference for all
# of them would lose (-), or overflow by (+), and near, where it serves.
SPREADS = {
    "near": [0, 5, -20, 3, 9, 1],
    "rows far apart": [-150, 90, 0, -70, 60, 20],
    "first row low": [-150, 0, 0, 0, 0, 0],
    "first row high": [150, 0, 0, 0, 0, 0],
    "a row without pairs": [0, -np.inf, 4, -3, 0, 0],
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("spread", SPREADS)
def test_float32_sums_and_slopes_are_exact_however_rows_differ(spread, turned):
  logits = np.random.default_rng(1).normal(size=(6, 6)) * 3
  logits = (logits + np.array(SPREADS[spread])[:, None]).astype(np.float32)
  logits = logits.T if turned else logits
  wide = logits.astype(np.float64)
  index = {"index": jnp.arange(6)[:, None]}, {"index": jnp.arange(6)[None]}
  reduction = reductions.log_sum_exp(None)

  def made():
    return jnp.asarray(logits)

  found = reduction.finish(
      *reduction.fold(made, *index, *reduction.start(6, 6, jnp.float32))
  )
  expected = [np.logaddexp.reduce(wide, axis) for axis in (1, 0)]
  for a, b in zip(found, expected, strict=True):
    # Six terms, relative to the largest logit, and a logarithm of their sum.
    np.testing.assert_allclose(
        a, b, rtol=checks.rounding(10), atol=checks.rounding(10)
    )

  bars = np.linspace(0.1, 1, 6), np.linspace(-2, 1, 6)
  row, col = (
      (jnp.asarray(value, jnp.float32), jnp.asarray(bar, jnp.float32))
      for value, bar in zip(expected, bars, strict=True)
  )
  slope = reduction.slope(made, *index, row, col)
  with np.errstate(invalid="ignore"):
    by_row = np.nan_to_num(np.exp(wide - expected[0][:, None]))
    by_col = np.nan_to_num(np.exp(wide - expected[1][None]))
  np.testing.assert_allclose(
      slope, bars[0][:, None] * by_row + bars[1] * by_col, atol=2e-5
  )


def test_where_there_is_no_pair_nothing_is_added_whatever_agrees():
  none = jnp.full((3, 3), -jnp.inf)
  tags = {
      **reductions.labels(jnp.zeros(3, int)), "index": jnp.arange(3)
  }
  tags, other = tiles.along_rows(tags), tiles.along_columns(tags)
  kinds = (
      (reductions.softplus(reductions.same_labels), 0.0),
      (reductions.log_sum_exp(None), -jnp.inf),
  )
  for reduction, empty in kinds:
    states = reduction.fold(
        lambda: none, tags, other, *reduction.start(3, 3, jnp.float32)
    )
    rows, _ = reduction.finish(*states)
    np.testing.assert_array_equal(rows, empty)
    seen = (rows, jnp.ones(3))
    slope = reduction.slope(lambda: none, tags, other, seen, seen)
    np.testing.assert_array_equal(slope, 0.0)


def test_labels_agree_where_all_of_their_numbers_do():
  one = reductions.labels(jnp.array([1, 2, 1]))
  two = reductions.labels(jnp.array([[1, 5], [1, 6], [1, 5]]))
  for values, expected in (
      (one, [[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
      (two, [[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
  ):
    rows, cols = tiles.along_rows(values), tiles.along_columns(values)
    np.testing.assert_array_equal(reductions.same_labels(rows, cols), expected)
    rows["index"], cols["index"] = jnp.arange(3)[:, None], jnp.arange(3)[None]
    weight = np.where(np.array(expected) - np.eye(3), -np.inf, 0)
    np.testing.assert_array_equal(reductions.no_duplicates(rows, cols), weight)

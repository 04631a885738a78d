"""Rows and columns of squares."""

import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import factored


@pytest.mark.parametrize("shape, least, first, expected", [
    ((4, 5), 4, 0, (0, 1)),
    ((5, 4), 4, 0, (1, 0)),
    ((4, 5), 5, 0, None),
    ((5,), 1, 0, None),
    ((), 1, 0, None),
    ((5, 5), 1, 0, (0, 1)),
    ((3, 9, 7), 1, 0, (2, 1)),
    ((9, 3, 7), 1, 0, (2, 0)),
    ((9, 3, 7), 1, 1, (1, 2)),  # the first axis is a stack of layers
    ((9, 7), 1, 1, None),
])
def test_the_two_largest_axes_are_rows_and_columns(shape, least, first, expected):
  assert factored.axes(shape, least, first) == expected


@pytest.mark.parametrize("axes", [(1, 2), (2, 1), (2, 0)])
def test_squares_of_rank_one_come_back_exactly(axes, double):
  draw = np.random.default_rng(0)
  shape = (3, 5, 4)
  g = np.ones(shape)
  for axis in axes:  # a factor along each axis, another for each matrix
    other = tuple(n if a != axis else 1 for a, n in enumerate(shape))
    own = tuple(
        1 if a in axes and a != axis else n for a, n in enumerate(shape))
    assert other != own
    g = g * draw.standard_normal(own)
  rows, columns = factored.means(jnp.asarray(g**2), axes)
  v = factored.inverse_root(rows, columns, axes[0]) ** -2.
  np.testing.assert_allclose(v, g**2, rtol=1e-13)  # float64, ten operations


def test_the_estimate_has_the_means_it_was_made_from(double):
  squares = np.random.default_rng(0).random((2, 6, 5))
  rows, columns = factored.means(jnp.asarray(squares), (2, 1))
  assert rows.shape == (2, 1, 5) and columns.shape == (2, 6, 1)
  v = factored.inverse_root(rows, columns, 2) ** -2.
  np.testing.assert_allclose(v.mean(1), squares.mean(1), rtol=1e-13)
  np.testing.assert_allclose(v.mean(2), squares.mean(2), rtol=1e-13)


def test_squares_near_the_end_of_float32_keep_a_finite_root():
  squares = jnp.full((4, 4), 1e-30).at[0, 0].set(1e10)
  root = factored.inverse_root(*factored.means(squares, (0, 1)), 0)
  assert np.isfinite(root).all()
  tiny = factored.inverse_root(
      *factored.means(jnp.full((4, 4), 1e-30), (0, 1)), 0)
  np.testing.assert_allclose(tiny, 1e15, rtol=1e-6)  # float32, two roots

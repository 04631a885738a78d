"""Relative biases against loops over pairs of places."""

import itertools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import attention, relative_bias

GRIDS = [(1, 1), (1, 3), (2, 3), (4, 3)]
ways = pytest.mark.parametrize(
    "way", [relative_bias.gather, relative_bias.einsum]
)


def draw(height, width, heads=2):
  shape = (heads, 2 * height - 1, 2 * width - 1)
  draw = np.random.default_rng(0)
  return jnp.asarray(draw.normal(size=shape), jnp.float32)


@ways
@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_a_bias_is_the_table_at_the_offset(way, height, width):
  table = draw(height, width)
  found = way(table, height, width)
  places = list(itertools.product(range(height), range(width)))
  assert found.shape == (2, len(places), len(places))
  for (n, (i, j)), (m, (x, y)) in itertools.product(
      enumerate(places), enumerate(places)
  ):
    want = table[:, i - x + height - 1, j - y + width - 1]
    np.testing.assert_array_equal(found[:, n, m], want)


def test_the_two_ways_have_one_gradient():
  weight = jax.random.normal(jax.random.key(0), (2, 12, 12))

  def total(table, way):
    return jnp.sum(weight * way(table, 4, 3))

  one, two = (
      jax.grad(total)(draw(4, 3), way)
      for way in (relative_bias.gather, relative_bias.einsum)
  )
  np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)  # 12 terms


@ways
def test_pairs_at_the_same_offset_have_the_same_bias(way):
  bias = way(draw(4, 3), 4, 3).reshape(2, 4, 3, 4, 3)
  # Both places one row down, then both one column to the right.
  np.testing.assert_array_equal(bias[:, 1:, :, 1:], bias[:, :-1, :, :-1])
  np.testing.assert_array_equal(
      bias[:, :, 1:, :, 1:], bias[:, :, :-1, :, :-1]
  )
  assert len(np.unique(bias[0])) == 7 * 5


@ways
def test_a_table_of_zeros_is_plain_attention(way):
  q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 6, 2, 4))
  bias = way(jnp.zeros((2, 3, 5)), 2, 3)
  np.testing.assert_array_equal(
      attention.attend(q, k, v, bias=bias[None]), attention.attend(q, k, v)
  )


@ways
def test_a_table_of_another_grid_is_refused(way):
  with pytest.raises(ValueError, match=r"3x5.*grid of 3x3.*expected 5x5"):
    way(draw(2, 3), 3, 3)


def test_a_table_of_the_same_size_is_itself():
  table = draw(4, 3)
  assert relative_bias.resize(table, 4, 3) is table


def bilinear(line, size):
  """Values between the centres of cells, the outermost ones held."""
  centres = (np.arange(size) + 0.5) * len(line) / size - 0.5
  return np.interp(centres, np.arange(len(line)), line)


def test_a_larger_grid_reads_between_the_offsets():
  table = np.asarray(draw(2, 3), np.float64)
  rows = np.apply_along_axis(bilinear, 1, table, 2 * 4 - 1)
  want = np.apply_along_axis(bilinear, 2, rows, 2 * 7 - 1)
  found = relative_bias.resize(draw(2, 3), 4, 7)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.parametrize("size", [(2, 2), (4, 3), (7, 9)])
def test_offset_0_stays_in_the_middle(size):
  # A tent over the offsets, highest at 0.
  offset = jnp.abs(jnp.arange(-3.0, 4.0))
  table = -(offset[None, :, None] + offset[None, None, :])
  found = relative_bias.resize(table, *size)[0]
  height, width = size
  assert np.unravel_index(np.argmax(found), found.shape) == (
      height - 1, width - 1
  )
  np.testing.assert_allclose(found, found[::-1, ::-1], rtol=1e-5, atol=1e-6)


def test_stacked_tables_are_resized_one_by_one():
  stack = jnp.stack([draw(2, 3), 1 + draw(2, 3)])
  found = relative_bias.resize(stack, 3, 4)
  assert found.shape == (2, 2, 5, 7)
  for one, table in zip(found, stack, strict=True):
    np.testing.assert_allclose(
        one, relative_bias.resize(table, 3, 4), rtol=0,
        atol=checks.rounding(2 * 15),  # means of up to 3 x 5 entries of size 2
    )

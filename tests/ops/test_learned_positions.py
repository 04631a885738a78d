"""Learned positions keep what they learned at another size."""

import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import learned_positions, position_embeddings, relative_bias

GRID, TEXT = "image/encoder/positions", "text/encoder/positions"
OFFSETS = "image/encoder/stage3/blocks/attention/positions"


def drawn(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("path", "old", "new", "expected"), [
    (GRID, (3, 3, 8), (4, 5, 8), True),
    ("image/encoder/pool/positions", (3, 3, 8), (4, 4, 8), True),
    ("opt_state/0/mu/image/encoder/positions", (3, 3, 8), (4, 4, 8), True),
    (GRID, (3, 3, 8), (4, 4, 9), False),
    (GRID, (3, 3, 8), (9, 8), False),
    (TEXT, (8, 4), (12, 4), True), (TEXT, (8, 4), (8, 5), False),
    (OFFSETS, (2, 3, 3), (2, 5, 5), True),
    (OFFSETS, (6, 2, 3, 3), (6, 2, 5, 5), True),
    (OFFSETS, (2, 3, 3), (4, 5, 5), False),  # Another number of heads.
    ("image/encoder/patches/kernel", (4, 4, 8), (8, 8, 8), False),
    ("image/encoder/prepositions", (3, 3, 8), (4, 4, 8), False),
])
def test_only_the_sizes_of_learned_positions_can_change(path, old, new, expected):
  assert learned_positions.fits(path, old, new) == expected
  if not expected:
    with pytest.raises(ValueError, match="cannot be resized to"):
      learned_positions.resize(path, jnp.zeros(old), jnp.zeros(new))


def test_grids_and_offsets_are_resized_as_their_operations_resize_them():
  grid, table = drawn(3, 3, 8), drawn(2, 5, 5)
  np.testing.assert_array_equal(
      learned_positions.resize(GRID, grid, jnp.zeros((4, 5, 8))),
      position_embeddings.resize(grid, 4, 5),
  )
  np.testing.assert_array_equal(
      learned_positions.resize(OFFSETS, table, jnp.zeros((2, 7, 5))),
      relative_bias.resize(table, 4, 3),
  )


def test_positions_of_a_text_are_cut_or_continued_and_never_moved():
  old, new = drawn(6, 4), drawn(9, 4, seed=1)
  longer = learned_positions.resize(TEXT, old, new)
  np.testing.assert_array_equal(longer[:6], old)
  np.testing.assert_array_equal(longer[6:], new[6:])
  np.testing.assert_array_equal(
      learned_positions.resize(TEXT, old, new[:2]), old[:2]
  )


def test_second_moments_stay_positive_with_their_axes_of_means():
  squares = drawn(3, 3, 8) ** 2
  for shape, size in (((3, 3, 8), (5, 4, 8)), ((1, 3, 8), (1, 4, 8))):
    found = learned_positions.resize(
        GRID, squares[: shape[0]], jnp.zeros(size)
    )
    assert found.shape == size and (found > 0).all()

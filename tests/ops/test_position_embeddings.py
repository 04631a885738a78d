"""Positions against the equation, and what resizing keeps."""

import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import position_embeddings


def test_sincos_is_the_equation():
  found = position_embeddings.sincos(5, 8)
  for n in range(5):
    for i in range(4):
      angle = n * 10_000.0 ** (-2 * i / 8)
      # float32 angles below 5.
      assert found[n, i] == pytest.approx(np.sin(angle), abs=1e-6)
      assert found[n, 4 + i] == pytest.approx(np.cos(angle), abs=1e-6)


def test_a_grid_codes_its_column_then_its_row():
  found = position_embeddings.sincos_2d(2, 3, 8)
  line = position_embeddings.sincos(3, 4)
  for row, column in np.ndindex(2, 3):
    np.testing.assert_array_equal(found[row, column, :4], line[column])
    np.testing.assert_array_equal(found[row, column, 4:], line[row])


def test_places_are_told_apart():
  codes = position_embeddings.sincos_2d(6, 7, 8).reshape(42, 8)
  distance = jnp.linalg.norm(codes[:, None] - codes[None], axis=-1)
  assert (distance + jnp.eye(42)).min() > 0.1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (lambda: position_embeddings.sincos(3, 5), "even width, found 5"),
        (lambda: position_embeddings.sincos_2d(3, 3, 6), "multiple of 4, found 6"),
    ],
)
def test_a_width_that_does_not_split_is_refused(code, message):
  with pytest.raises(ValueError, match=message):
    code()


def test_resizing_to_the_same_grid_is_the_same_array():
  positions = jnp.arange(24.0).reshape(2, 3, 4)
  assert position_embeddings.resize(positions, 2, 3) is positions


def test_resizing_is_linear_between_places():
  ramp = jnp.arange(4.0)[:, None, None] * jnp.ones((4, 4, 2))
  found = np.asarray(position_embeddings.resize(ramp, 8, 8))
  assert found.shape == (8, 8, 2)
  # Places 2 to 5 of 8 lie between those of 4, at (n + 1/2) / 2 - 1/2.
  want = (np.arange(2, 6) + 0.5) / 2 - 0.5
  np.testing.assert_allclose(found[2:6, 3, 0], want, rtol=1e-6)


def test_shrinking_a_grid_averages_all_places_and_keeps_the_mean():
  # Plain bilinear interpolation of 8 places at 2 would read 4 of them.
  for place in range(8):
    positions = jnp.zeros((8, 1, 1)).at[place].set(1.0)
    assert float(position_embeddings.resize(positions, 2, 1).sum()) > 0.05
  flat = position_embeddings.resize(jnp.full((8, 8, 1), 3.0), 3, 5)
  np.testing.assert_allclose(flat, 3.0, rtol=1e-6)

"""Ridge regression against the normal equations."""

import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import ridge


@pytest.mark.parametrize("n", [3, 7, 40])  # fewer rows than features, and more
@pytest.mark.parametrize("l2", [1e-4, 1.0, 1e5])
def test_weights_solve_the_normal_equations(double, n, l2):
  del double
  rng = np.random.default_rng(n)
  x, y = rng.normal(size=(n, 7)), rng.normal(size=(n, 2))
  found = ridge.solve(ridge.decompose(jnp.asarray(x), jnp.asarray(y)), l2)
  expected = np.linalg.solve(x.T @ x + l2 * np.eye(7), x.T @ y)
  np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)


def test_features_of_zeros_have_weights_of_zero():
  found = ridge.solve(ridge.decompose(jnp.zeros((4, 3)), jnp.ones((4, 1))), 1.0)
  np.testing.assert_array_equal(found, np.zeros((3, 1)))

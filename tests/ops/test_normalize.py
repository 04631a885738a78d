"""Unit vectors against float64 NumPy, at every length."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import normalize


def oracle(x, cotangent):
  """u = x / |x| and the pulled-back (g - u <u, g>) / |x|, vector by vector."""
  u, gradient = np.zeros_like(x), np.zeros_like(x)
  for i, (v, g) in enumerate(zip(x, cotangent, strict=True)):
    length = np.sqrt(sum(entry * entry for entry in v))
    u[i] = v / length
    gradient[i] = (g - u[i] * np.dot(u[i], g)) / length
  return u, gradient


@jax.jit
def pull_back(x, cotangent):
  u, vjp = jax.vjp(normalize.unit, x)
  return u, vjp(cotangent)[0]


@pytest.fixture
def rows():
  rng = np.random.default_rng(0)
  return rng.normal(size=(5, 7)), rng.normal(size=(5, 7))


@pytest.mark.parametrize("length", [1.0, 1e20, 1e-20])
def test_value_and_gradient_match_the_equation_at_any_length(rows, length):
  x, cotangent = np.float32(rows[0] * length), np.float32(rows[1])
  u, gradient = pull_back(jnp.asarray(x), jnp.asarray(cotangent))
  expected = oracle(np.float64(x), np.float64(cotangent))
  limit = checks.rounding(2 * 7)  # sums of 7 terms, after each other
  np.testing.assert_allclose(u, expected[0], rtol=0, atol=limit)
  np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=limit / length)


def test_float64_stays_float64(rows, double):
  u, gradient = pull_back(*map(jnp.asarray, rows))
  expected = oracle(*rows)
  assert u.dtype == jnp.float64
  np.testing.assert_allclose(u, expected[0], rtol=1e-13)
  np.testing.assert_allclose(gradient, expected[1], rtol=1e-12, atol=1e-14)


def test_second_derivative_matches_finite_differences(rows, double):
  x = jnp.asarray(rows[0][0])
  gradient = jax.jit(jax.grad(lambda v: jnp.sum(normalize.unit(v) ** 3)))
  step = 1e-5 * jnp.asarray(rows[1][0])
  finite = (gradient(x + step) - gradient(x - step)) / 2
  exact = jax.jvp(gradient, (x,), (step,))[1]
  # central difference: error of order step^2 relative
  np.testing.assert_allclose(exact, finite, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_are_computed_in_float32(rows, dtype):
  checks.needs(dtype)
  x = jnp.asarray(rows[0], dtype)
  u = normalize.unit(x)
  assert u.dtype == jnp.float32
  expected, _ = oracle(np.float64(x), rows[1])
  # the input is exact in float64; in bfloat16 the error would be 4e-3
  np.testing.assert_allclose(u, expected, rtol=1e-6, atol=1e-6)


def test_zero_gives_zero_and_passes_no_gradient():
  x = jnp.asarray([[0.0, 0.0], [3.0, 4.0], [-0.0, 0.0]])
  u, gradient = pull_back(x, jnp.ones_like(x))
  np.testing.assert_array_equal(u[jnp.array([0, 2])], 0)
  np.testing.assert_array_equal(gradient[jnp.array([0, 2])], 0)
  # (1 - 0.6 * 1.4) / 5 and (1 - 0.8 * 1.4) / 5
  np.testing.assert_allclose(gradient[1], [0.032, -0.024], rtol=1e-5)


def test_epsilon_is_the_largest_entry_that_counts_as_zero():
  x = jnp.asarray([[0.25, 0.25], [0.25, 0.5]])
  u = normalize.unit(x, epsilon=0.25)
  np.testing.assert_array_equal(u[0], 0)
  np.testing.assert_allclose(jnp.linalg.norm(u[1]), 1, rtol=1e-6)


def test_not_a_number_is_not_hidden():
  x = jnp.asarray([[jnp.nan, 1.0], [jnp.inf, 1.0], [1.0, 0.0]])
  u = normalize.unit(x)
  assert jnp.isnan(u[:2]).any(axis=-1).all()
  np.testing.assert_array_equal(u[2], [1, 0])


def test_leading_axes_are_kept():
  x = jnp.arange(24.0).reshape(2, 3, 4)
  np.testing.assert_array_equal(
      normalize.unit(x).reshape(6, 4), normalize.unit(x.reshape(6, 4))
  )
  assert normalize.unit(x[0, 0]).shape == (4,)

"""L-BFGS against scipy's, and where it ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from basic.optim import lbfgs


def rosenbrock(x):
  return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_a_curved_valley_is_followed_to_its_end(double):
  del double
  start = np.linspace(-1.5, 1.5, 6)
  found = jax.jit(lambda x: lbfgs.minimize(rosenbrock, x, tolerance=1e-9))(start)
  theirs = optimize.minimize(
      rosenbrock, start, jac=jax.grad(rosenbrock), method="L-BFGS-B",
      options=dict(gtol=1e-9, ftol=0, maxiter=1000),
  )
  np.testing.assert_allclose(found.params, np.ones(6), atol=1e-6)
  assert float(found.slope) <= 1e-9
  assert int(found.steps) < 3 * theirs.nit


def test_it_ends_after_so_many_steps_with_the_lowest_value():
  found = lbfgs.minimize(rosenbrock, jnp.array([-1.0, 2.0, 0.0]), steps=3)
  assert int(found.steps) == 3 and float(found.slope) > 1e-3
  assert float(found.value) == pytest.approx(float(rosenbrock(found.params)), rel=1e-5)
  assert float(found.value) < float(rosenbrock(jnp.array([-1.0, 2.0, 0.0])))


def test_a_tree_that_is_at_its_minimum_is_returned_at_once():
  start = {"a": jnp.zeros(2), "b": jnp.ones(())}
  found = lbfgs.minimize(lambda p: jnp.sum(p["a"] ** 2) + (p["b"] - 1) ** 2, start)
  assert int(found.steps) == 0
  assert found.params.keys() == start.keys()


def test_it_ends_where_rounding_lets_it_come_no_lower():
  # The gradient cannot become as small as that in float32.
  scale = jnp.array([1e4, 1.0, 3e-3])
  found = lbfgs.minimize(
      lambda x: jnp.sum(scale * (x - 0.7) ** 2) + 1e3, jnp.zeros(3),
      tolerance=1e-30, steps=10_000)
  assert int(found.steps) < 200
  np.testing.assert_allclose(found.params[:2], 0.7, atol=2e-2)


def test_what_is_not_finite_ends_at_once():
  assert int(lbfgs.minimize(lambda x: jnp.sum(x * jnp.nan), jnp.ones(2)).steps) == 0

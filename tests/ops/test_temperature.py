"""The scale stops at its ceiling, and its gradient can lead back down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import temperature


@pytest.mark.parametrize(
    ("x", "bar", "expected"),
    [
        (1.0, 2.0, 2.0),  # below, either way
        (1.0, -2.0, -2.0),
        (5.0, 2.0, 2.0),  # above: down is allowed
        (5.0, -2.0, 0.0),  # and up is not
        (3.0, -2.0, 0.0),  # nor at the ceiling itself
        (3.0, 2.0, 2.0),
    ],
)
def test_the_ceiling_drops_only_what_would_go_further_up(x, bar, expected):
  value, pullback = jax.vjp(
      lambda x: temperature.ceiling(x, jnp.float32(3.0)), jnp.float32(x)
  )
  assert value == min(x, 3.0)
  assert pullback(jnp.float32(bar)) == (expected,)


def test_scale_is_the_exponential_below_the_ceiling():
  for log_scale in (-3.0, 0.0, 4.6):
    found = temperature.scale_of(jnp.float32(log_scale), 100.0)
    assert found.dtype == jnp.float32
    # float32: one logarithm and one exponential
    np.testing.assert_allclose(found, np.exp(log_scale), rtol=1e-6)
  for log_scale in (4.7, 50.0, 1e30):
    found = temperature.scale_of(jnp.float32(log_scale), 100.0)
    np.testing.assert_allclose(found, 100.0, rtol=1e-6)


def test_float64_stays_float64(double):
  found = temperature.scale_of(jnp.float64(1.0), 100.0)
  assert found.dtype == jnp.float64
  np.testing.assert_allclose(found, np.e, rtol=1e-15)

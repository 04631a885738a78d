"""The objective of logistic regression against scikit-learn's definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import logistic


@pytest.mark.parametrize("block", [1, 4, 11, 100])
def test_value_and_gradient_are_those_of_the_equation(double, block):
  del double
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(11, 3)), rng.integers(0, 4, 11)
  weights = rng.normal(size=(3, 4)), rng.normal(size=4)
  l2 = 0.7

  def plain(weights):
    loss = 0.0
    for row, label in zip(x, y, strict=True):
      z = row @ weights[0] + weights[1]
      loss += jnp.log(jnp.sum(jnp.exp(z))) - z[label]
    return (loss + l2 / 2 * jnp.sum(weights[0] ** 2)) / 11

  def blocked(weights):
    return logistic.objective(weights, jnp.asarray(x), jnp.asarray(y), l2, block=block)

  weights = jax.tree.map(jnp.asarray, weights)
  found, expected = (jax.value_and_grad(f)(weights) for f in (blocked, plain))
  assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-12)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
      found[1], expected[1],
  )


def test_scores_of_a_block_are_in_memory_and_not_those_of_all_rows():
  shapes = [(200_000, 8), (200_000,), (8, 100), (100,)]
  x, y, kernel, bias = (
      jax.ShapeDtypeStruct(s, jnp.int32 if n == 1 else jnp.float32)
      for n, s in enumerate(shapes)
  )
  gradient = jax.jit(jax.grad(logistic.objective))
  compiled = gradient.lower((kernel, bias), x, y, 1.0).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 40 * 2**20  # Not 80 MB.

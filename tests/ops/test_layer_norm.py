"""Layer normalisation and GELU, with derivatives, against float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import gelu, layer_norm


def cdf(z):
  return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def approximate(z):
  return 0.5 * z * (
      1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
  )


@pytest.mark.parametrize(
    "ours, oracle",
    [(gelu.exact, lambda z: z * cdf(z)), (gelu.tanh, approximate)],
    ids=["exact", "tanh"],
)
def test_gelu_and_its_slope_are_those_of_the_equation(ours, oracle):
  x = np.array([-1e4, -9.0, -3.0, -1.2, -0.1, 0.0, 0.3, 1.0, 4.0, 9.0, 1e4])
  y, pullback = jax.vjp(ours, jnp.asarray(x, "float32"))
  expected = np.array([oracle(z) for z in x])
  # Central differences of the oracle: their own error is 1e-10.
  step = 1e-5
  slope = [(oracle(z + step) - oracle(z - step)) / (2 * step) for z in x]
  # 1 + erf rounds to 6e-8, and a few such meet.
  np.testing.assert_allclose(y, expected, rtol=3e-7, atol=1e-6)
  np.testing.assert_allclose(
      pullback(jnp.ones(len(x)))[0], slope, rtol=1e-6, atol=1e-6
  )


@pytest.mark.parametrize("function", [gelu.exact, gelu.tanh])
def test_gelu_keeps_its_input_alone_for_the_backward_pass(function):
  x = jnp.ones((4, 8), jnp.bfloat16)
  pullback = jax.eval_shape(lambda x: jax.vjp(function, x)[1], x)
  kept = jax.tree.leaves(pullback)
  assert [(a.shape, a.dtype) for a in kept] == [((4, 8), jnp.bfloat16)]
  assert function(x).dtype == jnp.bfloat16


def normalised(x, scale, bias, epsilon):
  out = np.zeros_like(x)
  for row in np.ndindex(x.shape[:-1]):
    z = x[row] - x[row].mean()
    out[row] = scale * z / np.sqrt((z**2).mean() + epsilon) + bias
  return out


def test_layer_norm_and_its_gradient_are_those_of_the_equation():
  rng = np.random.default_rng(0)
  x, dy = rng.normal(size=(2, 2, 3, 6))
  scale, bias = rng.normal(size=(2, 6))
  arguments = (x, scale, bias)
  y, pullback = jax.vjp(
      lambda *a: layer_norm.layer_norm(*a, 1e-2),
      *(jnp.asarray(a, "float32") for a in arguments),
  )
  np.testing.assert_allclose(
      y, normalised(*arguments, 1e-2), rtol=1e-5, atol=1e-6
  )
  found = pullback(jnp.asarray(dy, "float32"))
  for n, argument in enumerate(arguments):
    expected = np.zeros_like(argument)
    for index in np.ndindex(argument.shape):
      ends = []
      for step in (1e-6, -1e-6):
        moved = [a.copy() for a in arguments]
        moved[n][index] += step
        ends.append((normalised(*moved, 1e-2) * dy).sum())
      expected[index] = (ends[0] - ends[1]) / 2e-6
    # Sums over 6 entries or 6 vectors, in float32; differences err by 1e-9.
    np.testing.assert_allclose(found[n], expected, rtol=1e-5, atol=1e-5)


def test_a_constant_vector_gives_the_bias():
  x = jnp.full((2, 8), 1e3)
  y = layer_norm.layer_norm(x, jnp.ones(8), jnp.full(8, 0.5), 1e-6)
  np.testing.assert_array_equal(y, 0.5)


def test_layer_norm_keeps_no_second_array_of_the_size_of_its_input():
  x = jnp.ones((4, 5, 8), jnp.bfloat16)
  pullback = jax.eval_shape(
      lambda *a: jax.vjp(lambda *a: layer_norm.layer_norm(*a, 1e-6), *a)[1],
      x, jnp.ones(8), jnp.zeros(8),
  )
  large = [a for a in jax.tree.leaves(pullback) if a.size >= x.size]
  assert [(a.shape, a.dtype) for a in large] == [(x.shape, jnp.bfloat16)]

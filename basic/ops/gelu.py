"""GELU that keeps its input alone for the backward pass.

Differentiated by JAX, it keeps up to four arrays of the width of an MLP, which
are most of what a transformer block stores.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_CUBIC = 0.044715


@jax.custom_vjp
def exact(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """x Phi(x), Phi the distribution function of a standard normal variable.

      Phi(x) = (1 + erf(x / sqrt 2)) / 2,    dy = (Phi(x) + x phi(x)) dx

  Computed in at least float32. Reverse mode only: `jax.jvp` refuses it.

  Args:
    x: any shape and float precision.

  Returns:
    The same shape and dtype.

  References:
    Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
    https://arxiv.org/abs/1606.08415

  Example:
    >>> print(exact(jnp.array([0.0, 1.0])).round(3))
    [0.    0.841]
  """
  z = _wide(x)
  return (z * _normal_cdf(z)).astype(x.dtype)


def _wide(x):
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _normal_cdf(z):
  return 0.5 * (1 + jax.lax.erf(z * math.sqrt(0.5)))


def _exact_backward(x, cotangent):
  z = _wide(x)
  density = jnp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
  slope = _normal_cdf(z) + z * density
  return ((slope * _wide(cotangent)).astype(x.dtype),)


exact.defvjp(lambda x: (exact(x), x), _exact_backward)


@jax.custom_vjp
def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """The approximation of GELU by a hyperbolic tangent.

      y = x (1 + tanh(u)) / 2,    u = sqrt(2 / pi) (x + 0.044715 x^3)

  Computed in at least float32. Reverse mode only: `jax.jvp` refuses it.

  Args:
    x: any shape and float precision.

  Returns:
    The same shape and dtype.

  References:
    Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, section 2.
    https://arxiv.org/abs/1606.08415

  Example:
    >>> print(tanh(jnp.array([0.0, 1.0])).round(3))
    [0.    0.841]
  """
  z = _wide(x)
  return (0.5 * z * (1 + jnp.tanh(_inner(z)))).astype(x.dtype)


def _inner(z):
  return math.sqrt(2 / math.pi) * (z + _CUBIC * z * z * z)


def _tanh_backward(x, cotangent):
  z = _wide(x)
  t = jnp.tanh(_inner(z))
  of_inner = math.sqrt(2 / math.pi) * (1 + 3 * _CUBIC * z * z)
  slope = 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * of_inner
  return ((slope * _wide(cotangent)).astype(x.dtype),)


tanh.defvjp(lambda x: (tanh(x), x), _tanh_backward)

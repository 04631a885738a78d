"""Layer normalisation that keeps its input and two numbers a vector."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*b d"],
    scale: Float[Array, "d"],
    bias: Float[Array, "d"],
    epsilon: float,
) -> Float[Array, "*b d"]:
  """Normalises each vector of the last axis to mean 0 and variance 1.

      y = s (x - mean) r + b,    r = 1 / sqrt(variance + epsilon)
      dx = r (g - mean(g) - h mean(g h)),    g = s dy,    h = (x - mean) r

  with means over the last axis, in at least float32. Reverse mode only:
  `jax.jvp` refuses it.

  Args:
    x: vectors along the last axis.
    scale: s.
    bias: b.
    epsilon: added to the variance; positive.

  Returns:
    The shape and dtype of `x`.

  References:
    Ba et al., Layer Normalization, 2016. https://arxiv.org/abs/1607.06450

  Example:
    >>> x = jnp.array([[1.0, 3.0]])
    >>> print(layer_norm(x, jnp.ones(2), jnp.zeros(2), 1e-6).round(3))
    [[-1.  1.]]
  """
  return _forward(x, scale, bias, epsilon)[0]


def _wide(x):
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _along(v, x):
  """A vector over the last axis, shaped to meet `x`."""
  return _wide(v).reshape((1,) * (x.ndim - 1) + (-1,))


def _forward(x, scale, bias, epsilon):
  z = _wide(x)
  mean = jnp.mean(z, -1, keepdims=True)
  square = jnp.mean(z * z, -1, keepdims=True)
  # Rounding may leave a constant vector less than no variance.
  variance = jnp.maximum(square - mean * mean, 0)
  inverse = jax.lax.rsqrt(variance + epsilon)
  y = (z - mean) * (inverse * _along(scale, z)) + _along(bias, z)
  return y.astype(x.dtype), (x, scale, bias, mean, inverse)


def _backward(epsilon, saved, cotangent):
  del epsilon  # Within `inverse`.
  x, scale, bias, mean, inverse = saved
  dy = _wide(cotangent)
  h = (_wide(x) - mean) * inverse
  g = dy * _along(scale, dy)
  along = jnp.mean(g * h, -1, keepdims=True)
  dx = inverse * (g - jnp.mean(g, -1, keepdims=True) - h * along)
  rows = tuple(range(x.ndim - 1))
  of_scale, of_bias = jnp.sum(dy * h, rows), jnp.sum(dy, rows)
  return (
      dx.astype(x.dtype), of_scale.astype(scale.dtype),
      of_bias.astype(bias.dtype),
  )


layer_norm.defvjp(_forward, _backward)

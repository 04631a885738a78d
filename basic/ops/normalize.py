"""L2 normalisation that is finite at zero and computed in at least float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from basic.ops import precision


def unit(
    x: Float[Array, "... d"], epsilon: float = 1e-30
) -> Float[Array, "... d"]:
  """Scales each vector of the last axis to length one.

      u = x / |x|,        du = (dx - u <u, dx>) / |x|

  Vectors are first divided by their largest entry, so that no square overflows or
  underflows at entries of 1e20 or 1e-20 in float32. A vector of zeros gives
  zeros and has zero gradient. Entries that are not finite give NaN.

  Args:
    x: vectors along the last axis, at any length and float precision.
    epsilon: a vector with no entry above it, in absolute value, counts as
      zero. Positive; its inverse bounds the gradient.

  Returns:
    Vectors of length one or zero: float64 where `x` is, float32 otherwise.

  Example:
    >>> print(unit(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
    [[0.6 0.8]
     [0.  0. ]]
  """
  x = precision.at_least_float32(x)
  # u does not depend on this scale, so neither does its derivative.
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
  is_zero = largest <= epsilon
  scaled = x / jnp.where(is_zero, 1.0, largest)
  square = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
  # Both branches of a `where` are differentiated, and sqrt has no slope at 0.
  length = jnp.sqrt(jnp.where(is_zero, 1.0, square))
  return jnp.where(is_zero, 0.0, scaled / length)

"""At least float32: the precision in which sums and statistics are kept.

bfloat16 and float16 have 8 and 11 significant bits: a sum of a few hundred
terms would stop growing. float64 stays float64, so that laws can be tested to
1e-12.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact


def accumulator(dtype: jax.typing.DTypeLike) -> jnp.dtype:
  """The dtype in which values of a floating-point dtype are accumulated.

  Args:
    dtype: of the values; anything that `jnp.dtype` accepts.

  Returns:
    float64 for float64, and float32 for every narrower dtype.

  Example:
    >>> [accumulator(kind).name for kind in (jnp.bfloat16, jnp.float32)]
    ['float32', 'float32']
  """
  return jnp.promote_types(dtype, jnp.float32)


def at_least_float32(x: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
  """Casts an array to `accumulator` of its dtype.

  Args:
    x: floating-point values.

  Returns:
    float64 if `x` is float64, float32 otherwise.
  """
  return x.astype(accumulator(x.dtype))

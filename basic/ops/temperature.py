"""The learned inverse temperature of a contrastive loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def ceiling(x: Float[Array, ""], limit: Float[Array, ""]) -> Float[Array, ""]:
  """The smaller of `x` and `limit`, with a gradient that can lead back down.

  A plain minimum has no gradient above the limit, so a parameter that crossed
  it would stay there forever. Here only gradients that would push it further up
  are set to zero.

  Args:
    x: a scalar parameter.
    limit: its upper bound; a constant.

  Returns:
    min(x, limit).
  """
  return jnp.minimum(x, limit)


def _ceiling_forward(x, limit):
  return ceiling(x, limit), x >= limit


def _ceiling_backward(above, cotangent):
  # Gradient descent raises x further where the gradient is negative.
  return jnp.where(above & (cotangent < 0), 0, cotangent), None


ceiling.defvjp(_ceiling_forward, _ceiling_backward)


def scale_of(
    log_scale: Float[Array, ""], max_scale: float
) -> Float[Array, ""]:
  """The scale t = exp(min(log t, log max)), in float32 or wider.

  Args:
    log_scale: the learned parameter log t.
    max_scale: upper bound of t; CLIP uses 100.

  Returns:
    t, a scalar.
  """
  return jnp.exp(ceiling(log_scale, jnp.log(jnp.asarray(
      max_scale, log_scale.dtype))))

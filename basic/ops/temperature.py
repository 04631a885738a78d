"""The learned inverse temperature of a contrastive loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def ceiling(x: Float[Array, ""], limit: Float[Array, ""]) -> Float[Array, ""]:
  """The smaller of `x` and `limit`, whose gradient can still lead back down.

  A plain minimum has no gradient above the limit, so a parameter that crossed
  it would stay there for ever. Here only the gradient that would push further
  up is dropped.

  Args:
    x: a scalar parameter.
    limit: where it stops; a constant.

  Returns:
    min(x, limit).
  """
  return jnp.minimum(x, limit)


def _ceiling_forward(x, limit):
  return ceiling(x, limit), x >= limit


def _ceiling_backward(above, bar):
  # Descent goes against the gradient: a negative one would raise x further.
  return jnp.where(above & (bar < 0), 0, bar), None


ceiling.defvjp(_ceiling_forward, _ceiling_backward)


def scale_of(
    log_scale: Float[Array, ""], max_scale: float
) -> Float[Array, ""]:
  """The scale t = exp(min(log t, log max)), in float32 or wider.

  Args:
    log_scale: the learned parameter log t.
    max_scale: the largest t; CLIP's 100 keeps float16 logits finite.

  Returns:
    t, a scalar.
  """
  return jnp.exp(ceiling(log_scale, jnp.log(jnp.asarray(
      max_scale, log_scale.dtype))))

"""Masked pooling of tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from basic.ops import precision


def mean(
    tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"] | None = None
) -> Float[Array, "b d"]:
  """Averages the real tokens of each row.

      z = sum_n m_n x_n / max(1, sum_n m_n)

  Args:
    tokens: one vector a token.
    mask: True where a token is real; None where all are.

  Returns:
    `Float[b d]`, float32 or better; zeros for a row without real tokens.
  """
  tokens = precision.at_least_float32(tokens)
  if mask is None:
    return tokens.mean(axis=1)
  # `where`, not a product: a NaN in a masked token must not propagate.
  total = jnp.where(mask[..., None], tokens, 0).sum(axis=1)
  count = mask.sum(axis=1, keepdims=True).astype(total.dtype)
  return total / jnp.maximum(count, 1)


def last(
    tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"] | None = None
) -> Float[Array, "b d"]:
  """Takes the last real token of each row; the first where none is real.

  Args:
    tokens: one vector a token.
    mask: True where a token is real; None where all are.

  Returns:
    `Float[b d]`, in the dtype of `tokens`.
  """
  if mask is None:
    return tokens[:, -1]
  place = jnp.arange(tokens.shape[1])[None]
  index = jnp.where(mask, place, 0).max(axis=1)
  return jnp.take_along_axis(tokens, index[:, None, None], axis=1)[:, 0]

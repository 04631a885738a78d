"""Noise with one key for each row: dropout, stochastic depth, token dropping.

The noise of a row does not depend on its position in the batch or on how the
batch is split into chunks. This holds for JAX's default generator, threefry; the
"rbg" generators do not guarantee it under `vmap`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def fold(
    keys: Key[Array, "b"], number: int | Int[Array, ""]
) -> Key[Array, "b"]:
  """Derives new keys, one for each row, by folding in a number.

  Args:
    keys: one key a row.
    number: of the layer, or of the use within a layer. Not negative.
  """
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def dropout(
    x: Float[Array, "b ..."], keys: Key[Array, "b"], rate: float
) -> Float[Array, "b ..."]:
  """Dropout: zeroes entries at random and keeps the expectation.

  Args:
    x: [b ...], one row for each key.
    keys: one key a row.
    rate: probability that an entry is dropped, in [0, 1).

  Returns:
    x / (1 - rate) where kept, else 0.

  References:
    Srivastava et al., Dropout, 2014.
    https://jmlr.org/papers/v15/srivastava14a.html
  """
  if not rate:
    return x
  keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, x.shape[1:]))(keys)
  return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def stochastic_depth(
    x: Float[Array, "b ..."],
    keys: Key[Array, "b"],
    rate: float | Float[Array, ""],
) -> Float[Array, "b ..."]:
  """Drops a residual branch from whole rows and keeps the expectation.

  Args:
    x: the branch, before it is added.
    keys: one key a row.
    rate: probability that a row skips the branch, in [0, 1).

  Returns:
    x / (1 - rate) in rows that keep the branch, else 0.

  References:
    Huang et al., Deep Networks with Stochastic Depth, 2016.
    https://arxiv.org/abs/1603.09382
  """
  share = jnp.asarray(1 - rate, jnp.float32)
  keep = jax.vmap(lambda k: jax.random.bernoulli(k, share))(keys)
  keep = keep.reshape((-1,) + (1,) * (x.ndim - 1))
  return jnp.where(keep, x / share.astype(x.dtype), 0).astype(x.dtype)


def drop_tokens(
    x: Float[Array, "b n d"], keys: Key[Array, "b"], rate: float
) -> Float[Array, "b m d"]:
  """Keeps a random subset of each row's tokens, in their order.

  Every row keeps max(1, round((1 - rate) n)) tokens, so the shape is static
  and the work shrinks with the rate.

  Args:
    x: one vector a token, positions already added.
    keys: one key a row.
    rate: share of the tokens to drop, in [0, 1).

  Returns:
    `Float[b m d]`, the remaining tokens.

  References:
    Li et al., Scaling Language-Image Pre-training via Masking, 2022.
    https://arxiv.org/abs/2212.00794
  """
  n = x.shape[1]
  keep = max(1, round((1 - rate) * n))
  draws = jax.vmap(lambda k: jax.random.uniform(k, (n,)))(keys)
  index = jnp.sort(jnp.argsort(draws, axis=1)[:, :keep], axis=1)
  return jnp.take_along_axis(x, index[..., None], axis=1)

"""Position embeddings: fixed sines and cosines, and learned ones resized."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sincos(
    length: int, width: int, *, period: float = 10_000.0
) -> Float[Array, "n d"]:
  """Fixed embeddings of positions in a sequence.

      p(n) = [sin(n w_0) ... sin(n w_{d/2-1})  cos(n w_0) ... cos(n w_{d/2-1})],
      w_i = period^(-2i/d)

  Args:
    length: n, the number of positions, at least 1.
    width: d, even.
    period: sets the slowest frequency. Positive.

  Returns:
    `Float[n d]`, float32 in [-1, 1].

  Raises:
    ValueError: if `width` is odd.

  References:
    Vaswani et al., Attention Is All You Need, 2017, section 3.5, with the
    sines and the cosines apart. https://arxiv.org/abs/1706.03762
  """
  if width % 2:
    raise ValueError(
        f"sine-cosine positions need an even width, found {width}: half is "
        "sines, half cosines"
    )
  index = jnp.arange(width // 2, dtype=jnp.float32)
  frequency = period ** (-2.0 * index / width)
  place = jnp.arange(length, dtype=jnp.float32)
  angle = place[:, None] * frequency[None, :]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


def sincos_2d(
    height: int, width: int, features: int, *, period: float = 10_000.0
) -> Float[Array, "h w d"]:
  """Fixed embeddings of positions on a grid: half the features for x, half for y.

  Args:
    height: rows of the grid.
    width: columns of the grid.
    features: d, a multiple of 4.
    period: as in `sincos`.

  Returns:
    `Float[h w d]`, float32 in [-1, 1]; the column's embedding comes first.

  Raises:
    ValueError: if `features` is not a multiple of 4.

  References:
    Chen et al., An Empirical Study of Training Self-Supervised Vision
    Transformers, 2021. https://arxiv.org/abs/2104.02057
  """
  if features % 4:
    raise ValueError(
        "sine-cosine positions on a grid need a width that is a multiple of 4, "
        f"found {features}: sines and cosines for x and for y"
    )
  column = sincos(width, features // 2, period=period)[None, :]
  row = sincos(height, features // 2, period=period)[:, None]
  shape = (height, width, features // 2)
  return jnp.concatenate(
      [jnp.broadcast_to(column, shape), jnp.broadcast_to(row, shape)], axis=-1
  )


def resize(
    positions: Float[Array, "h w d"], height: int, width: int
) -> Float[Array, "i j d"]:
  """Bilinearly resizes position embeddings learned on one grid to another.

  Args:
    positions: learned on an h x w grid.
    height: rows of the new grid.
    width: columns of the new grid.

  Returns:
    `Float[height width d]`; the very same array where the size is the same.
  """
  if positions.shape[:2] == (height, width):
    return positions
  shape = (height, width, positions.shape[2])
  # Without anti-aliasing, a halved grid would keep every other embedding only.
  return jax.image.resize(positions, shape, "bilinear", antialias=True)

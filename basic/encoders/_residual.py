"""Parts of a residual block: pooled input, shortcut, stochastic depth."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from basic import types
from basic.encoders import _linear, _linen
from basic.ops import noise


def pool(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b i j c"]:
  """Max pooling with window and stride `stride`; odd sizes are rounded up."""
  if stride == 1:
    return x
  return nn.max_pool(x, (stride,) * 2, (stride,) * 2, "SAME")


def shortcut(
    x: Float[Array, "b h w c"],
    width: int,
    stride: int,
    dtype: _linen.Precision,
) -> Float[Array, "b i j d"]:
  """Proj(Pool(x)) where a block changes the shape, else x.

  Call it within a compact method; its parameters are named "shortcut".
  """
  if stride == 1 and x.shape[-1] == width:
    return x
  return _linear.Linear((width,), dtype, name="shortcut")(pool(x, stride))


def drop_path(
    y: Float[Array, "b ..."],
    layer: Int[Array, ""],
    keys: types.RowKeys | None,
    *,
    branch: int,
    depth: int,
    rate: float,
) -> Float[Array, "b ..."]:
  """Stochastic depth (drop path), at a rate that grows linearly with depth.

  Args:
    y: the branch, before it is added.
    layer: number of the block, from 0.
    keys: one key a row, or None for no noise.
    branch: number of the branch within its block, from 0.
    depth: blocks of the whole tower.
    rate: drop rate of the last block.
  """
  if keys is None or not rate:
    return y
  keys = noise.fold(noise.fold(keys, layer), branch)
  share = jnp.float32(rate) * layer / max(depth - 1, 1)
  return noise.stochastic_depth(y, keys, share)

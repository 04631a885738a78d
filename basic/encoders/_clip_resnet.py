"""Parts of CLIP's residual network: stem, bottleneck block, attention pooling."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from basic import types
from basic.encoders import _linear, _linen, _mbconv, _residual
from basic.ops import attention, pooling
from basic.sharding import row_sharding


def convolve(
    x: Float[Array, "b h w c"],
    width: int,
    size: int,
    name: str,
    stride: int = 1,
) -> Float[Array, "b i j d"]:
  """A convolution without bias and with symmetric padding.

  Call it within a compact method, as the functions below.
  """
  convolution = nn.Conv(
      width, (size,) * 2, (stride,) * 2, [(size // 2, size // 2)] * 2,
      use_bias=False, dtype=x.dtype, name=name,
  )
  return convolution(x)


def average(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b i j c"]:
  """Average pooling with window and stride `stride`; an odd last row is dropped."""
  return nn.avg_pool(x, (stride,) * 2, (stride,) * 2) if stride > 1 else x


def norm(x: Float[Array, "b h w c"], name: str) -> Float[Array, "b h w c"]:
  """Batch normalisation with stored statistics."""
  return _mbconv.FrozenBatchNorm(name=name)(x)


class Stem(nn.Module):
  """Three 3 x 3 convolutions, the first with stride 2, then average pooling."""

  width: int
  dtype: _linen.Precision

  @nn.compact
  def __call__(
      self, images: Float[Array, "b h w c"]
  ) -> Float[Array, "b i j d"]:
    shape = images.shape[-1:]
    mean = self.param("mean", nn.initializers.zeros, shape)
    mean = jax.lax.stop_gradient(mean).reshape(1, 1, 1, -1)
    x = (images.astype(jnp.float32) - mean).astype(self.dtype)
    half = self.width // 2
    plan = ((half, 2), (half, 1), (self.width, 1))
    for n, (width, stride) in enumerate(plan, start=1):
      x = convolve(x, width, 3, f"convolution{n}", stride)
      x = nn.relu(norm(x, f"norm{n}"))
    return average(x, 2)


class Bottleneck(nn.Module):
  """A bottleneck: 1x1, 3x3, average pooling, 1x1, then relu(x + branch)."""

  channels: int
  stride: int
  depth: int
  stochastic_depth: float
  dtype: _linen.Precision

  @nn.compact
  def __call__(
      self,
      x: Float[Array, "b h w c"],
      layer: Int[Array, ""],
      keys: types.RowKeys | None,
  ) -> tuple[Float[Array, "b i j d"], None]:
    narrow, wide = self.channels, 4 * self.channels
    y = nn.relu(norm(convolve(x, narrow, 1, "convolution1"), "norm1"))
    y = nn.relu(norm(convolve(y, narrow, 3, "convolution2"), "norm2"))
    y = average(y, self.stride)
    y = norm(convolve(y, wide, 1, "convolution3"), "norm3")
    y = _residual.drop_path(
        y, layer, keys, branch=0, depth=self.depth, rate=self.stochastic_depth
    )
    if x.shape[-1] != wide or self.stride != 1:
      x = convolve(average(x, self.stride), wide, 1, "shortcut")
      x = norm(x, "shortcut_norm")
    return row_sharding.keep_rows(nn.relu(x + y)), None


class MeanPool(nn.Module):
  """Attention pooling of a grid: its mean is the query of all positions."""

  heads: int
  features: int
  dtype: _linen.Precision

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
    b, height, width, c = x.shape
    draw = nn.initializers.normal(c**-0.5)
    embeddings = self.param("positions", draw, (height, width, c))
    token = self.param("token", draw, (c,))
    x = x.reshape(b, height * width, c)
    first = (pooling.mean(x) + token[None]).astype(x.dtype)
    x = x + embeddings.reshape(1, -1, c).astype(x.dtype)
    x = jnp.concatenate([first[:, None], x], axis=1)
    return Attention(self.heads, self.features, self.dtype, name="attention")(x)


class Attention(nn.Module):
  """Attention with the first token as query, projected to another width."""

  heads: int
  features: int
  dtype: _linen.Precision

  @nn.compact
  def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b d"]:
    linear = functools.partial(
        _linear.Linear, dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
    )
    shape = (self.heads, x.shape[-1] // self.heads)
    mixed = attention.attend(
        linear(shape, name="query")(x[:, :1]),
        linear(shape, name="key")(x),
        linear(shape, name="value")(x),
    )
    return linear((self.features,), contracted=2, name="out")(mixed)[:, 0]

"""A residual network without batch statistics (BiT)."""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from basic import types
from basic.encoders import _linen
from basic.ops import noise
from basic.sharding import row_sharding

AXES: types.AxisTable = (
    ("root/kernel", ("height", "width", "channels", "embed")),
    ("stage[1-4]/first/(convolution[1-3]|shortcut)/kernel",
     ("height", "width", "channels", "embed")),
    ("stage[1-4]/first/norm[1-3]/(scale|bias)", ("embed",)),
    ("stage[1-4]/blocks/convolution[1-3]/kernel",
     ("layers", "height", "width", "channels", "embed")),
    ("stage[1-4]/blocks/norm[1-3]/(scale|bias)", ("layers", "embed")),
    ("norm/(scale|bias)", ("embed",)),
)

STAGES = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def resnet(
    *,
    depth: Literal[26, 50, 101, 152] = 50,
    width: float = 1.0,
    groups: int = 32,
    epsilon: float = 1e-8,
    stochastic_depth: float = 0.0,
    dtype: _linen.Precision = "bfloat16",
    remat: _linen.Remat = "none",
) -> types.Encoder:
  """Encodes an image by a pre-activation ResNet without batch statistics.

  Group normalisation and weight standardisation replace batch normalisation, so
  that rows stay independent.

  Args:
    depth: layers with parameters.
    width: multiplies all channels: 64 after the root, 2048 at the end.
    groups: number of groups of group normalisation; where it does not divide
      the channels, or leaves fewer than two in a group, the largest smaller
      number that does.
    epsilon: added to the variance of a kernel that is standardised; positive.
      1e-10 in the original networks, 1e-8 in common reimplementations.
    stochastic_depth: drop rate of the last block, in [0, 1); it grows linearly
      with depth from 0 at the first block.
    dtype: to compute in; parameters, norms and standardisation are float32.
    remat: what a block keeps for its backward pass: all that it needs
      ("none"), its input ("full"), or the results of convolutions
      ("products"), so that norms and activations alone are computed again.

  Returns:
    An encoder from `Float[b h w c]` in [-1, 1] to `Float32[b 2048 width]`.

  Raises:
    ValueError: if `width` leaves fewer than 4 channels, `groups` is less than
      1, `epsilon` is not positive, the rate is not in [0, 1), or (when applied)
      images are not floating point [b h w c].

  References:
    Kolesnikov et al., Big Transfer, 2019. https://arxiv.org/abs/1912.11370
    Qiao et al., Weight Standardization, 2019. https://arxiv.org/abs/1903.10520

  Example:
    >>> encoder = resnet(depth=26, width=0.25)
    >>> image = jnp.zeros((1, 32, 32, 3))
    >>> params = jax.eval_shape(encoder.init, jax.random.key(0), image)
    >>> jax.eval_shape(encoder.apply, params, image, None).pooled.shape
    (1, 512)
  """
  _linen.check_rate("stochastic_depth", stochastic_depth)
  channels = round(64 * width)
  if channels < 4 or groups < 1 or not epsilon > 0:
    raise ValueError(
        f"found width={width}, groups={groups}, epsilon={epsilon}; expected at "
        "least 1/16 (4 channels after the root), 1 group, and more than 0"
    )
  module = ResNet(
      STAGES[depth], channels, groups, epsilon, stochastic_depth, dtype, remat
  )
  return types.Encoder(*_linen.pair(module, jnp.float32), AXES)


def standardize(
    kernel: Float[Array, "h w c d"], epsilon: float
) -> Float[Array, "h w c d"]:
  """Standardises the weights of each output channel to mean 0, deviation 1.

      w' = (w - mean(w)) / sqrt(variance(w) + epsilon)

  References:
    Qiao et al., Weight Standardization, 2019, eq. 5; without its scale, which
    the normalisation that follows would undo.
    https://arxiv.org/abs/1903.10520
  """
  axes = (0, 1, 2)
  centred = kernel - kernel.mean(axes, keepdims=True)
  variance = jnp.square(centred).mean(axes, keepdims=True)
  return centred * jax.lax.rsqrt(variance + epsilon)


def group_count(channels: int, groups: int) -> int:
  """The largest number of groups, up to `groups`, with two channels or more each.

  A group of one channel would be normalised over its pixels alone, which erases
  it where a single pixel is left.
  """
  most = max(1, min(groups, channels // 2))
  return next(n for n in range(most, 0, -1) if channels % n == 0)


class Convolution(nn.Module):
  """A convolution with weight standardisation and symmetric padding."""

  features: int
  size: int
  stride: int
  epsilon: float
  dtype: _linen.Precision

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    return jax.lax.conv_general_dilated(
        x,
        standardize(kernel, self.epsilon).astype(self.dtype),
        (self.stride,) * 2,
        [(self.size // 2, self.size // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class Bottleneck(nn.Module):
  """x + 1x1, 3x3, 1x1 convolutions, each after group normalisation and a ReLU."""

  depth: int
  channels: int
  stride: int
  groups: int
  epsilon: float
  stochastic_depth: float
  dtype: _linen.Precision

  @nn.compact
  def __call__(
      self,
      x: Float[Array, "b h w c"],
      layer: Int[Array, ""],
      keys: types.RowKeys | None,
  ) -> tuple[Float[Array, "b i j d"], None]:
    convolve = functools.partial(
        Convolution, epsilon=self.epsilon, dtype=self.dtype
    )
    narrow, wide = self.channels, 4 * self.channels
    y = activate(x, self.groups, "norm1")
    if x.shape[-1] != wide or self.stride != 1:
      x = convolve(wide, 1, self.stride, name="shortcut")(y)
    y = convolve(narrow, 1, 1, name="convolution1")(y)
    y = activate(y, self.groups, "norm2")
    y = convolve(narrow, 3, self.stride, name="convolution2")(y)
    y = activate(y, self.groups, "norm3")
    y = convolve(wide, 1, 1, name="convolution3")(y)
    if keys is not None and self.stochastic_depth:
      rate = jnp.float32(self.stochastic_depth) * layer / (self.depth - 1)
      y = noise.stochastic_depth(y, noise.fold(keys, layer), rate)
    return row_sharding.keep_rows(x + y), None


class ResNet(nn.Module):
  """The tower: root convolution, four stages, a norm, average pooling."""

  stages: tuple[int, ...]
  channels: int
  groups: int
  epsilon: float
  stochastic_depth: float
  dtype: _linen.Precision
  remat: _linen.Remat

  @nn.compact
  def __call__(
      self, images: Any, keys: types.RowKeys | None
  ) -> types.Features:
    _linen.check_images(images)
    x = images.astype(self.dtype)
    root = Convolution(
        self.channels, 7, 2, self.epsilon, self.dtype, name="root"
    )
    x = root(x)
    # The max pooling pads with zeros, not -inf, as in the published network.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = row_sharding.keep_rows(nn.max_pool(x, (3, 3), (2, 2)))
    same = dict(
        depth=sum(self.stages), groups=self.groups, epsilon=self.epsilon,
        stochastic_depth=self.stochastic_depth, dtype=self.dtype,
    )
    for n, length in enumerate(self.stages):
      block = dict(same, channels=self.channels * 2**n)
      stride, start = 2 if n else 1, sum(self.stages[:n])
      name = f"stage{n + 1}"
      stage = _linen.Stage(
          Bottleneck, start, length, stride, self.remat, block, name=name
      )
      x = stage(x, keys)
    x = activate(x, self.groups, "norm")
    return types.Features(x.astype(jnp.float32).mean((1, 2)))


def activate(
    x: Float[Array, "b h w c"], groups: int, name: str
) -> Float[Array, "b h w c"]:
  """relu(GroupNorm(x)), the norm in float32."""
  count = group_count(x.shape[-1], groups)
  norm = nn.GroupNorm(count, epsilon=1e-5, dtype=jnp.float32, name=name)
  return nn.relu(norm(x)).astype(x.dtype)

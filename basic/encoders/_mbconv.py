"""The inverted bottleneck with squeeze-excitation, and its norms."""

from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from basic import types
from basic.encoders import _linear, _linen, _residual, _transformer
from basic.ops import gelu
from basic.sharding import row_sharding

Norm: TypeAlias = Literal["layer", "frozen_batch"]
Downsample: TypeAlias = Literal["expansion", "depthwise"]

EXPANSION = 4  # hidden channels to output channels
SQUEEZE = 4  # input channels to channels of the squeeze

# Paths within one block; stacked blocks have an additional leading axis.
AXES: types.AxisTable = (
    ("norm1/(scale|bias|mean|variance)", ("embed",)),
    ("norm[23]/(scale|bias|mean|variance)", ("mlp",)),
    ("expand/kernel", ("embed", "mlp")),
    ("(expand|depthwise)/bias", ("mlp",)),
    ("depthwise/kernel", ("height", "width", "channels", "mlp")),
    ("excitation/squeeze/kernel", ("mlp", "squeeze")),
    ("excitation/squeeze/bias", ("squeeze",)),
    ("excitation/gate/kernel", ("squeeze", "mlp")),
    ("excitation/gate/bias", ("mlp",)),
    ("project/kernel", ("mlp", "embed")),
    ("project/bias", ("embed",)),
)


class FrozenBatchNorm(nn.Module):
  """Batch normalisation with stored statistics, which is an affine map.

      y = (x - mean) / sqrt(variance + 1e-5) scale + bias

  For weights pretrained with batch statistics. `mean` and `variance` have no
  gradient; `scale` and `bias` are trained as usual. It is initialised to the
  identity, and its statistics are never updated.
  """

  @nn.compact
  def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    shape = x.shape[-1:]
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    mean = jax.lax.stop_gradient(self.param("mean", zeros, shape))
    variance = jax.lax.stop_gradient(self.param("variance", ones, shape))
    scale = self.param("scale", ones, shape)
    slope = scale * jax.lax.rsqrt(variance + 1e-5)
    offset = self.param("bias", zeros, shape) - mean * slope
    # Folded in float32, so that large means cancel before any rounding.
    one = (1,) * (x.ndim - 1) + shape
    y = x.astype(jnp.float32) * slope.reshape(one) + offset.reshape(one)
    return y.astype(x.dtype)


def normalize(
    x: Float[Array, "*b c"], kind: Norm, name: str
) -> Float[Array, "*b c"]:
  """LayerNorm over the channels of each pixel, or a frozen batch norm."""
  if kind == "frozen_batch":
    return FrozenBatchNorm(name=name)(x)
  return _transformer.norm(x, name)


class Excitation(nn.Module):
  """x sigmoid(gate(gelu(squeeze(mean of x)))): channel attention.

  References:
    Hu et al., Squeeze-and-Excitation Networks, 2017, eq. 3.
    https://arxiv.org/abs/1709.01507
  """

  hidden: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    # float32: a mean over all pixels.
    z = x.astype(jnp.float32).mean((1, 2)).astype(self.dtype)
    z = gelu.tanh(_linear.Linear((self.hidden,), self.dtype, name="squeeze")(z))
    z = _linear.Linear(x.shape[-1:], self.dtype, name="gate")(z)
    return x * nn.sigmoid(z)[:, None, None, :]


class MbConv(nn.Module):
  """x + project(excite(depthwise(expand(norm(x))))), equation 5 where it
  changes the shape.

  1x1 convolutions are written as dense layers.

  References:
    Sandler et al., MobileNetV2, 2018. https://arxiv.org/abs/1801.04381
    Dai et al., CoAtNet, 2021, appendix A.1. https://arxiv.org/abs/2106.04803
  """

  width: int
  stride: int
  downsample: Downsample
  norm: Norm
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
    hidden = EXPANSION * self.width
    early = self.stride if self.downsample == "expansion" else 1
    late = self.stride // early
    # The norm is per pixel: pixels that the stride skips need none.
    y = normalize(x[:, ::early, ::early], self.norm, "norm1")
    y = _linear.Linear((hidden,), self.dtype, name="expand")(y)
    y = gelu.tanh(normalize(y, self.norm, "norm2"))
    y = nn.Conv(
        hidden, (3, 3), (late, late), feature_group_count=hidden,
        dtype=self.dtype, name="depthwise",
    )(y)
    y = gelu.tanh(normalize(y, self.norm, "norm3"))
    squeeze = max(1, x.shape[-1] // SQUEEZE)
    y = Excitation(squeeze, self.dtype, name="excitation")(y)
    y = _linear.Linear((self.width,), self.dtype, name="project")(y)
    y = _residual.drop_path(
        y, layer, keys, branch=0, depth=self.depth, rate=self.stochastic_depth
    )
    x = _residual.shortcut(x, self.width, self.stride, self.dtype)
    return row_sharding.keep_rows(x + y), None

"""A transformer block with relative position bias."""

import functools
from typing import Any, Literal, TypeAlias

import flax.linen as nn
from jaxtyping import Array, Float, Int

from basic import types
from basic.encoders import _linear, _linen, _residual, _transformer
from basic.ops import attention, relative_bias
from basic.sharding import row_sharding

Lookup: TypeAlias = Literal["einsum", "gather"]

# Paths within one block; stacked blocks have an additional leading axis.
AXES: types.AxisTable = (
    ("(attention|mlp)_norm/(scale|bias)", ("embed",)),
    ("attention/(query|key|value)/kernel", ("embed", "heads", "head")),
    ("attention/(query|key|value)/bias", ("heads", "head")),
    ("attention/positions", ("heads", "height", "width")),
    ("attention/out/kernel", ("heads", "head", "embed")),
    ("mlp/in/kernel", ("embed", "mlp")),
    ("mlp/in/bias", ("mlp",)),
    ("mlp/out/kernel", ("mlp", "embed")),
    ("(attention|mlp)/out/bias", ("embed",)),
)


class Attention(nn.Module):
  """Attention over a grid, with a learned relative position bias.

      a_ij = softmax_j(<q_i, k_j> / sqrt(d) + P[i - j])

  `positions` is P, float32 [k 2h-1 2w-1], one number for each head and
  offset; layers do not share it.
  """

  width: int
  head: int
  grid: tuple[int, int]
  lookup: Lookup
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n d"]:
    heads = self.width // self.head
    linear = functools.partial(
        _linear.Linear, dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
    )
    shape = (heads, *(2 * side - 1 for side in self.grid))
    table = self.param("positions", nn.initializers.normal(0.02), shape)
    mixed = attention.attend(
        linear((heads, self.head), name="query")(x),
        linear((heads, self.head), name="key")(x),
        linear((heads, self.head), name="value")(x),
        bias=getattr(relative_bias, self.lookup)(table, *self.grid)[None],
    )
    return linear((self.width,), contracted=2, name="out")(mixed)


class RelativeBlock(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x)); equation 4 where it
  changes the shape.

  References:
    Dai et al., CoAtNet, 2021, appendix A.1. https://arxiv.org/abs/2106.04803
  """

  width: int
  stride: int
  head: int
  lookup: Lookup
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
    drop_path = functools.partial(
        _residual.drop_path, layer=layer, keys=keys, depth=self.depth,
        rate=self.stochastic_depth,
    )
    y = _residual.pool(_transformer.norm(x, "attention_norm"), self.stride)
    b, height, width, c = y.shape
    attend = Attention(
        self.width, self.head, (height, width), self.lookup, self.dtype,
        name="attention",
    )
    y = attend(y.reshape(b, height * width, c))
    x = _residual.shortcut(x, self.width, self.stride, self.dtype)
    x = x.reshape(y.shape) + drop_path(y, branch=0)
    y = _transformer.norm(x, "mlp_norm")
    y = _transformer.Mlp(4 * self.width, self.dtype, name="mlp")(y)
    x = row_sharding.keep_rows(x + drop_path(y, branch=1))
    return x.reshape(b, height, width, self.width), None

"""The transformer blocks of image and text towers, and their pooling head."""

import functools
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from basic import types
from basic.encoders import _linear, _linen
from basic.ops import attention, gelu, layer_norm, noise
from basic.sharding import row_sharding

# The nonlinearity of the MLPs. Weights trained with one do not fit another:
# outputs differ by a percent, and accuracy by more.
Activation: TypeAlias = Literal["gelu", "gelu_tanh", "quick_gelu"]

# Suffixes of parameter paths; one row for each rank.
AXES: types.AxisTable = (
    ("blocks/(attention|mlp)_norm/(scale|bias)", ("layers", "embed")),
    ("blocks/attention/(query|key|value)/kernel",
     ("layers", "embed", "heads", "head")),
    ("blocks/attention/(query|key|value)/bias", ("layers", "heads", "head")),
    ("blocks/attention/out/kernel", ("layers", "heads", "head", "embed")),
    ("blocks/mlp/in/kernel", ("layers", "embed", "mlp")),
    ("blocks/mlp/in/bias", ("layers", "mlp")),
    ("blocks/mlp/out/kernel", ("layers", "mlp", "embed")),
    ("blocks/(attention|mlp)/out/bias", ("layers", "embed")),
    ("norm/(scale|bias)", ("embed",)),
)

HEAD_AXES: types.AxisTable = (
    ("pool/probe", ("embed",)),
    ("pool/mlp_norm/(scale|bias)", ("embed",)),
    ("pool/attention/(query|key|value)/kernel", ("embed", "heads", "head")),
    ("pool/attention/(query|key|value)/bias", ("heads", "head")),
    ("pool/attention/out/kernel", ("heads", "head", "embed")),
    ("pool/mlp/in/kernel", ("embed", "mlp")),
    ("pool/mlp/in/bias", ("mlp",)),
    ("pool/mlp/out/kernel", ("mlp", "embed")),
    ("pool/(attention|mlp)/out/bias", ("embed",)),
)


class LayerNorm(nn.Module):
  """`ops.layer_norm` with its scale and bias."""

  epsilon: float

  @nn.compact
  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    shape = x.shape[-1:]
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    return layer_norm.layer_norm(x, scale, bias, self.epsilon)


def norm(
    x: Float[Array, "..."], name: str, epsilon: float = 1e-6
) -> Float[Array, "..."]:
  """LayerNorm in float32, returned in the dtype of `x`."""
  return LayerNorm(epsilon, name=name)(x)


def activate(x: Float[Array, "..."], kind: Activation) -> Float[Array, "..."]:
  """x P(N < x) for a normal N, or one of its approximations.

      gelu: exact;   gelu_tanh: by a tanh;   quick_gelu: x sigma(1.702 x)
  """
  if kind == "quick_gelu":
    return x * jax.nn.sigmoid(1.702 * x)
  return gelu.tanh(x) if kind == "gelu_tanh" else gelu.exact(x)


class Attention(nn.Module):
  """Multi-head attention from `x` to `y`; the heads share the width."""

  heads: int
  dtype: Any

  @nn.compact
  def __call__(
      self,
      x: Float[Array, "b n d"],
      y: Float[Array, "b m d"],
      mask: Bool[Array, "#b #n m"] | None = None,
  ) -> Float[Array, "b n d"]:
    width = x.shape[-1]
    linear = functools.partial(
        _linear.Linear, dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
    )
    shape = (self.heads, width // self.heads)
    mixed = attention.attend(
        linear(shape, name="query")(x),
        linear(shape, name="key")(y),
        linear(shape, name="value")(y),
        mask=mask,
    )
    return linear((width,), contracted=2, name="out")(mixed)


class Mlp(nn.Module):
  """out(activate(in(x))), token by token."""

  hidden: int
  dtype: Any
  activation: Activation = "gelu_tanh"

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    linear = functools.partial(
        _linear.Linear, dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
    )
    hidden = activate(linear((self.hidden,), name="in")(x), self.activation)
    return linear((x.shape[-1],), name="out")(hidden)


class Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x)): a pre-norm layer."""

  depth: int
  heads: int
  mlp: int
  dropout: float
  stochastic_depth: float
  dtype: Any
  activation: Activation = "gelu_tanh"
  epsilon: float = 1e-6

  @nn.compact
  def __call__(
      self,
      x: Float[Array, "b n d"],
      layer: Int[Array, ""],
      mask: Bool[Array, "#b #n n"] | None,
      keys: types.RowKeys | None,
  ) -> tuple[Float[Array, "b n d"], None]:
    if keys is not None:
      keys = noise.fold(keys, layer)
    y = norm(x, "attention_norm", self.epsilon)
    y = Attention(self.heads, self.dtype, name="attention")(y, y, mask)
    x = x + self._drop(y, layer, keys, 0)
    y = norm(x, "mlp_norm", self.epsilon)
    y = Mlp(self.mlp, self.dtype, self.activation, name="mlp")(y)
    return row_sharding.keep_rows(x + self._drop(y, layer, keys, 2)), None

  def _drop(self, y, layer, keys, draw):
    """Dropout and stochastic depth of a branch, at a rate that grows with depth."""
    if keys is None:
      return y
    if self.dropout:
      y = noise.dropout(y, noise.fold(keys, draw), self.dropout)
    if self.stochastic_depth:
      rate = self.stochastic_depth * layer / max(self.depth - 1, 1)
      y = noise.stochastic_depth(y, noise.fold(keys, draw + 1), rate)
    return y


class AttentionPool(nn.Module):
  """One learned query over all tokens, then a residual MLP.

  References:
    Zhai et al., Scaling Vision Transformers, 2021, section 3.2.
    https://arxiv.org/abs/2106.04560
  """

  heads: int
  mlp: int
  dtype: Any
  activation: Activation = "gelu_tanh"
  epsilon: float = 1e-6

  @nn.compact
  def __call__(
      self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"] | None = None
  ) -> Float[Array, "b d"]:
    width = x.shape[-1]
    probe = self.param("probe", nn.initializers.normal(width**-0.5), (width,))
    probe = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, width))
    seen = None if mask is None else mask[:, None]
    z = Attention(self.heads, self.dtype, name="attention")(probe, x, seen)
    y = norm(z, "mlp_norm", self.epsilon)
    y = Mlp(self.mlp, self.dtype, self.activation, name="mlp")(y)
    return (z + y)[:, 0]


def stack(
    x: Float[Array, "b n d"],
    mask: Bool[Array, "#b #n n"] | None,
    keys: types.RowKeys | None,
    *,
    depth: int,
    remat: _linen.Remat,
    epsilon: float = 1e-6,
    **settings: Any,
) -> Float[Array, "b n d"]:
  """`depth` blocks as one scan, parameters under "blocks", and a final norm.

  Call it within a compact method.

  Args:
    x: tokens, in the precision to compute in.
    mask: True where a token may see another.
    keys: one key a row, or None for no noise.
    depth: blocks, at least 1.
    remat: what each block keeps for its backward pass.
    epsilon: added to the variance in every norm.
    **settings: the remaining fields of `Block`.
  """
  block = _linen.scan(Block, remat, length=depth, same=2)
  blocks = block(
      depth=depth, dtype=x.dtype, epsilon=epsilon, name="blocks", **settings
  )
  x, _ = blocks(row_sharding.keep_rows(x), jnp.arange(depth), mask, keys)
  return norm(x, "norm", epsilon)


def check_width(width: int, depth: int, heads: int) -> None:
  """Raises ValueError for sizes that no block can have."""
  if depth < 1 or heads < 1 or width % heads:
    raise ValueError(
        f"found width={width}, depth={depth}, heads={heads}; expected at "
        "least one block, and a width that the heads divide"
    )

"""CoAtNet: convolutional stages followed by relative attention."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from basic import paths, types
from basic.encoders import _linear, _linen, _mbconv, _relative, _transformer
from basic.ops import gelu, pooling, relative_bias
from basic.sharding import row_sharding


def _stages(name: str, block: types.AxisTable) -> types.AxisTable:
  """The axes of a block, for the first of a stage and for the stacked others."""
  alone = tuple((f"{name}/first/{path}", axes) for path, axes in block)
  stacked = tuple(
      (f"{name}/blocks/{path}", ("layers", *axes)) for path, axes in block
  )
  return alone + stacked


_SHORTCUT: types.AxisTable = (
    ("shortcut/kernel", ("embed", "features")),
    ("shortcut/bias", ("features",)),
)

AXES: types.AxisTable = (
    ("stem/convolution[1-9]/kernel", ("height", "width", "channels", "embed")),
    ("stem/(convolution|norm)[1-9]/(scale|bias|mean|variance)", ("embed",)),
    *_stages("(stage[12]|split)", _mbconv.AXES + _SHORTCUT),
    *_stages("stage[34]", _relative.AXES + _SHORTCUT),
    ("norm/(scale|bias)", ("embed",)),
    ("pre_logits/kernel", ("embed", "features")),
    ("pre_logits/bias", ("features",)),
)

# depths and widths of stages 0 to 4, head, split. Dai et al., tables 3 and 12.
VARIANTS = {
    "0": ((2, 2, 3, 5, 2), (64, 96, 192, 384, 768), 32, ()),
    "1": ((2, 2, 6, 14, 2), (64, 96, 192, 384, 768), 32, ()),
    "2": ((2, 2, 6, 14, 2), (128, 128, 256, 512, 1024), 32, ()),
    "3": ((2, 2, 6, 14, 2), (192, 192, 384, 768, 1536), 32, ()),
    "4": ((2, 2, 12, 28, 2), (192, 192, 384, 768, 1536), 32, ()),
    "5": ((2, 2, 12, 28, 2), (192, 256, 512, 1280, 2048), 64, ()),
    "6": ((2, 2, 4, 42, 2), (192, 192, 384, 1536, 2048), 128, (8, 768)),
    "7": ((2, 2, 4, 42, 2), (192, 256, 512, 2048, 3072), 128, (8, 1024)),
}


def coatnet(
    *,
    variant: str | None = None,
    depths: Sequence[int] | None = None,
    widths: Sequence[int] | None = None,
    head: int | None = None,
    split: Sequence[int] | None = None,
    downsample: _mbconv.Downsample = "expansion",
    norm: _mbconv.Norm = "layer",
    lookup: _relative.Lookup = "einsum",
    pre_logits: bool = False,
    stochastic_depth: float = 0.0,
    dtype: _linen.Precision = "bfloat16",
    remat: _linen.Remat = "none",
    keep_tokens: bool = False,
) -> types.Encoder:
  """Encodes an image by convolutions at high resolution, then by attention.

  Five stages, each at half the resolution of the one before: convolutions;
  inverted bottlenecks with squeeze-excitation, twice; transformer blocks with
  relative attention, twice; and the mean over the last grid. In -6 and -7 the
  third stage begins with bottlenecks of its own, the `split`.

      x <- Proj(Pool(x)) + Attention(Pool(Norm(x)))               (4)
      x <- Proj(Pool(x)) + Conv(DepthConv(Conv(Norm(x), stride 2)))  (5)

  begin a stage; other blocks are x <- x + Module(Norm(x)). Images may have any
  size: relative position biases learned on the grid of one size are resized,
  bilinearly, to that of another.

  Args:
    variant: "0" to "7": it determines depths, widths, head and split, which may
      not be given too.
    depths: layers of stages 0 to 4, each at least 1; those of "0".
    widths: channels of stages 0 to 4; the last is that of the pooled vector.
    head: channels of an attention head; divides the last two widths; 32.
    split: (depth, width) of bottlenecks that begin stage 3; () for none.
    downsample: which convolution of (5) has the stride: the expansion, or the
      depthwise one, which is slower and better in small networks.
    norm: of the convolutional stages: LayerNorm over the channels of a pixel,
      or batch normalisation with stored statistics, for imported weights. Its
      `mean` and `variance` have no gradient and, with the default `no_decay`
      of the optimizers, no weight decay, so they keep their imported values.
      With another `no_decay`, freeze them: frozen=(".*/norm[1-9]/(mean|variance)",).
    lookup: how biases are looked up: by one-hot products, or by indexing. The
      results are equal.
    pre_logits: whether a dense layer and a tanh, of the same width, follow the
      mean, as in the published classifiers.
    stochastic_depth: drop rate of the last block (drop path), in [0, 1); it
      grows linearly with depth from 0 at the first block.
    dtype: to compute in; parameters, norms and softmax are float32.
    remat: what a block keeps for its backward pass: all that it needs
      ("none"), its input ("full"), or the results of products and
      convolutions ("products"), so that norms and activations alone are
      computed again.
    keep_tokens: whether features carry the last grid, in `dtype`, row by row.

  Returns:
    An encoder from `Float[b h w c]` in [-1, 1] to `Float32[b widths[4]]`.

  Raises:
    ValueError: for an unknown variant, a variant together with a size that it
      determines, impossible sizes, a rate not in [0, 1), and (when applied)
      images that are not floating point [b h w c].

  References:
    Dai et al., CoAtNet, 2021. https://arxiv.org/abs/2106.04803

  Example:
    >>> encoder = coatnet(variant="0")
    >>> image = jnp.zeros((1, 64, 64, 3))
    >>> params = jax.eval_shape(encoder.init, jax.random.key(0), image)
    >>> jax.eval_shape(encoder.apply, params, image, None).pooled.shape
    (1, 768)
  """
  given = dict(depths=depths, widths=widths, head=head, split=split)
  shape = _shape(variant, given)
  _linen.check_rate("stochastic_depth", stochastic_depth)
  depth = sum(shape["depths"][1:]) + sum(shape["split"][:1])
  same = dict(depth=depth, stochastic_depth=stochastic_depth, dtype=dtype)
  module = CoAtNet(
      shape["depths"], shape["widths"], shape["split"],
      dict(same, downsample=downsample, norm=norm),
      dict(same, head=shape["head"], lookup=lookup),
      pre_logits, keep_tokens, remat,
  )
  init, apply = _linen.pair(module, jnp.float32)

  def resized(params, images, keys=None):
    return apply(_fit(params, images), images, keys)

  return types.Encoder(init, resized, AXES)


def _shape(variant: str | None, given: dict[str, Any]) -> dict[str, Any]:
  """Sizes by name; ValueError if they are impossible."""
  shape = _linen.sizes(variant, given, VARIANTS, "0")
  sizes = (*shape["depths"], *shape["widths"], *shape["split"], shape["head"])
  if (
      len(shape["depths"]) != 5 or len(shape["widths"]) != 5
      or len(shape["split"]) not in (0, 2) or min(sizes) < 1
      or any(width % shape["head"] for width in shape["widths"][3:])
  ):
    raise ValueError(
        f"found {shape}; expected 5 depths and 5 widths, a split of 2 numbers "
        "or none, all at least 1, and a head that divides the last two widths"
    )
  return shape


def _fit(params: types.Params, images: Any) -> types.Params:
  """Relative position biases, resized to these images."""
  _linen.check_images(images)

  def fit(path, leaf):
    if not path.endswith("/positions"):
      return leaf
    # Stage n halves n + 1 times, and an odd side rounds up.
    reduction = 2 ** (int(path.removeprefix("stage")[0]) + 1)
    sides = (-(-side // reduction) for side in images.shape[1:3])
    return relative_bias.resize(leaf, *sides)

  return paths.map_paths(fit, params)


class Stem(nn.Module):
  """3 x 3 convolutions, the first with stride 2, a norm and a GELU between."""

  depth: int
  width: int
  norm: _mbconv.Norm
  dtype: _linen.Precision

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
    for n in range(1, self.depth + 1):
      if n > 1:
        x = gelu.tanh(_mbconv.normalize(x, self.norm, f"norm{n - 1}"))
      x = nn.Conv(
          self.width, (3, 3), (2, 2) if n == 1 else (1, 1), dtype=self.dtype,
          name=f"convolution{n}",
      )(x)
    return x


class CoAtNet(nn.Module):
  """The tower; `convolution` and `attention` are settings of its blocks."""

  depths: tuple[int, ...]
  widths: tuple[int, ...]
  bottlenecks: tuple[int, ...]
  convolution: Any
  attention: Any
  dense: bool
  keep_tokens: bool
  remat: _linen.Remat

  @nn.compact
  def __call__(
      self, images: Any, keys: types.RowKeys | None
  ) -> types.Features:
    dtype = self.convolution["dtype"]
    x = images.astype(dtype)
    norm = self.convolution["norm"]
    stem = Stem(self.depths[0], self.widths[0], norm, dtype, name="stem")
    x = row_sharding.keep_rows(stem(x))
    start = 0
    for name, length, width, stride, block, settings in self._plan():
      settings = dict(settings, width=width)
      stage = _linen.Stage(
          block, start, length, stride, self.remat, settings, name=name
      )
      x, start = stage(x, keys), start + length
    tokens = _transformer.norm(x.reshape(x.shape[0], -1, x.shape[-1]), "norm")
    pooled = pooling.mean(tokens)
    if self.dense:
      dense = _linear.Linear(pooled.shape[-1:], dtype, name="pre_logits")
      pooled = jnp.tanh(dense(pooled).astype(jnp.float32))
    return types.Features(pooled, tokens if self.keep_tokens else None)

  def _plan(self):
    """Stages 1 to 4: name, length, width, stride, block, settings."""
    mbconv = (_mbconv.MbConv, self.convolution)
    relative = (_relative.RelativeBlock, self.attention)
    _, *lengths = self.depths
    _, *widths = self.widths
    plan = [
        ("stage1", lengths[0], widths[0], 2, *mbconv),
        ("stage2", lengths[1], widths[1], 2, *mbconv),
        ("stage3", lengths[2], widths[2], 2, *relative),
        ("stage4", lengths[3], widths[3], 2, *relative),
    ]
    if self.bottlenecks:  # They halve for stage 3, which only widens then.
      plan[2] = ("stage3", lengths[2], widths[2], 1, *relative)
      plan.insert(2, ("split", *self.bottlenecks, 2, *mbconv))
    return plan

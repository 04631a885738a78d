"""The residual network of CLIP, with frozen batch normalisation."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from basic import types
from basic.encoders import _clip_resnet, _linen
from basic.ops import position_embeddings
from basic.sharding import row_sharding

_KERNEL = ("height", "width", "channels", "embed")
_NUMBERS = "(scale|bias|mean|variance)"

AXES: types.AxisTable = (
    ("stem/mean", ("channels",)),
    ("stem/convolution[1-3]/kernel", _KERNEL),
    (f"stem/norm[1-3]/{_NUMBERS}", ("embed",)),
    ("stage[1-4]/first/(convolution[1-3]|shortcut)/kernel", _KERNEL),
    (f"stage[1-4]/first/(norm[1-3]|shortcut_norm)/{_NUMBERS}", ("embed",)),
    ("stage[1-4]/blocks/convolution[1-3]/kernel", ("layers", *_KERNEL)),
    (f"stage[1-4]/blocks/norm[1-3]/{_NUMBERS}", ("layers", "embed")),
    ("pool/positions", ("height", "width", "embed")),
    ("pool/token", ("embed",)),
    ("pool/attention/(query|key|value)/kernel", ("embed", "heads", "head")),
    ("pool/attention/(query|key|value)/bias", ("heads", "head")),
    ("pool/attention/out/kernel", ("heads", "head", "features")),
    ("pool/attention/out/bias", ("features",)),
)

# depths, width, heads, features. Radford et al., 2021, table 19.
VARIANTS = {
    "RN50": ((3, 4, 6, 3), 64, 32, 1024),
    "RN101": ((3, 4, 23, 3), 64, 32, 512),
    "RN50x4": ((4, 6, 10, 6), 80, 40, 640),
    "RN50x16": ((6, 8, 18, 8), 96, 48, 768),
    "RN50x64": ((3, 15, 36, 10), 128, 64, 1024),
}


def clip_resnet(
    *,
    variant: str | None = None,
    depths: Sequence[int] | None = None,
    width: int | None = None,
    heads: int | None = None,
    features: int | None = None,
    stochastic_depth: float = 0.0,
    dtype: _linen.Precision = "bfloat16",
    remat: _linen.Remat = "none",
    keep_tokens: bool = False,
) -> types.Encoder:
  """Encodes an image by convolutions, then pools the last grid by attention.

  The ResNet of CLIP: its stem has three convolutions, it downsamples by average
  pooling in place of strided convolutions, and the last grid x_1 .. x_n
  is pooled by attention, whose query is its own mean:

      t_0 = mean(x) + p_0,  t_i = x_i + p_i,  z = Attention(t_0; t_0 .. t_n)

  Batch normalisation uses stored statistics, so that rows stay independent: use
  this tower for pretrained weights, and `resnet` to train from scratch. The
  statistics have no gradient, nor has `stem/mean`, the mean colour that is
  subtracted before zero padding.
  frozen=(".*/(mean|variance)",) saves their optimizer state. Images may have
  any size from 31 pixels: position embeddings learned on the grid of one size
  are resized, bilinearly, to that of another.

  Args:
    variant: "RN50", "RN101", "RN50x4", "RN50x16" or "RN50x64": it
      determines depths, width, heads and features, which may not be given too.
    depths: blocks of the four stages, each at least 1; those of "RN50".
    width: channels after the stem, at least 2; the last grid has 32 times as
      many. 64.
    heads: of the attention that pools; divide 32 * width; width / 2.
    features: of the pooled vector: CLIP's embedding, as no projection follows;
      1024.
    stochastic_depth: drop rate of the last block, in [0, 1); it grows linearly
      with depth from 0 at the first block.
    dtype: to compute in; parameters, norms and softmax are float32.
    remat: what a block keeps for its backward pass: all that it needs
      ("none"), its input ("full"), the results of convolutions ("products").
    keep_tokens: whether features carry the last grid, in `dtype`, row by row.

  Returns:
    An encoder from `Float[b h w c]` in [-1, 1] to `Float32[b features]`.

  Raises:
    ValueError: for an unknown variant, a variant together with a size that it
      determines, impossible sizes, a rate not in [0, 1), and (when applied)
      images that are not floating point [b h w c] or too small.

  References:
    Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, 2021, section 2.4. https://arxiv.org/abs/2103.00020

  Example:
    >>> encoder = clip_resnet(variant="RN50")
    >>> image = jnp.zeros((1, 64, 64, 3))
    >>> params = jax.eval_shape(encoder.init, jax.random.key(0), image)
    >>> jax.eval_shape(encoder.apply, params, image, None).pooled.shape
    (1, 1024)
  """
  given = dict(depths=depths, width=width, heads=heads, features=features)
  shape = _shape(variant, given)
  _linen.check_rate("stochastic_depth", stochastic_depth)
  block = dict(
      depth=sum(shape["depths"]), stochastic_depth=stochastic_depth, dtype=dtype
  )
  module = ClipResNet(
      **shape, block=block, keep_tokens=keep_tokens, remat=remat
  )
  init, apply = _linen.pair(module, jnp.float32)

  def resized(params, images, keys=None):
    return apply(_fit(params, images), images, keys)

  return types.Encoder(init, resized, AXES)


def _shape(variant: str | None, given: dict[str, Any]) -> dict[str, Any]:
  """Sizes by name, `heads` by `width` where only that was given."""
  shape = _linen.sizes(variant, given, VARIANTS, "RN50")
  if given["width"] is not None and given["heads"] is None:
    shape["heads"] = shape["width"] // 2
  sizes = (*shape["depths"], shape["heads"], shape["features"])
  if (
      len(shape["depths"]) != 4 or min(sizes) < 1 or shape["width"] < 2
      or 32 * shape["width"] % shape["heads"]
  ):
    raise ValueError(
        f"found {shape}; expected 4 depths and features of at least 1, a width "
        "of at least 2, and heads that divide 32 * width"
    )
  return shape


def _grid(images: Any) -> tuple[int, int]:
  """Height and width of the last grid: halved, rounded up at first, then down."""
  _linen.check_images(images)
  height, width = ((side + 1) // 2 // 16 for side in images.shape[1:3])
  if not height or not width:
    raise ValueError(
        f"found images of {images.shape[1]}x{images.shape[2]} pixels, expected "
        "sides of at least 31: they are halved five times"
    )
  return height, width


def _fit(params: types.Params, images: Any) -> types.Params:
  """Learned position embeddings, resized to these images."""
  positions = params["pool"]["positions"]
  embeddings = position_embeddings.resize(positions, *_grid(images))
  return {**params, "pool": {**params["pool"], "positions": embeddings}}


class ClipResNet(nn.Module):
  """The tower; `block` are settings that all blocks share."""

  depths: tuple[int, ...]
  width: int
  heads: int
  features: int
  block: Any
  keep_tokens: bool
  remat: _linen.Remat

  @nn.compact
  def __call__(
      self, images: Any, keys: types.RowKeys | None
  ) -> types.Features:
    dtype = self.block["dtype"]
    stem = _clip_resnet.Stem(self.width, dtype, name="stem")
    x = row_sharding.keep_rows(stem(images))
    for n, length in enumerate(self.depths):
      block = dict(self.block, channels=self.width * 2**n)
      stride, start = 2 if n else 1, sum(self.depths[:n])
      name = f"stage{n + 1}"
      stage = _linen.Stage(
          _clip_resnet.Bottleneck, start, length, stride, self.remat, block,
          name=name,
      )
      x = stage(x, keys)
    pool = _clip_resnet.MeanPool(
        self.heads, self.features, dtype, name="pool"
    )
    pooled = pool(x).astype(jnp.float32)
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    return types.Features(pooled, tokens if self.keep_tokens else None)

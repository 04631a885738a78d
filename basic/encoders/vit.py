"""A vision transformer."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from basic import types
from basic.encoders import _linen, _transformer
from basic.ops import gelu, noise, patches, pooling, position_embeddings

AXES: types.AxisTable = (
    ("stem/(kernel|convolution[1-9]/kernel|out/kernel)",
     ("height", "width", "channels", "embed")),
    ("stem/(bias|convolution[1-9]/bias|out/bias)", ("embed",)),
    ("stem/norm[1-9]/(scale|bias)", ("embed",)),
    ("positions", ("height", "width", "embed")),
    ("token", ("embed",)),
    ("entry_norm/(scale|bias)", ("embed",)),
    *_transformer.AXES,
    *_transformer.HEAD_AXES,
)

# width, depth, heads, mlp. Zhai et al., 2021, table 2, and Alabdulmohsin et
# al., 2023 (https://arxiv.org/abs/2305.13035), for the shape-optimised So400m.
VARIANTS = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "M": (512, 12, 8, 2048),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "So400m": (1152, 27, 16, 4304),
    "H": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
    "G": (1664, 48, 16, 8192),
}


def vit(
    *,
    variant: str | None = None,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    patch: int | None = None,
    mlp: int | None = None,
    stem: Literal["patch", "convolution"] = "patch",
    positions: Literal["learned", "sincos"] = "learned",
    pool: Literal["mean", "token", "attention"] = "mean",
    entry_norm: bool = False,
    activation: _transformer.Activation = "gelu_tanh",
    epsilon: float = 1e-6,
    drop_patches: float = 0.0,
    stochastic_depth: float = 0.0,
    dropout: float = 0.0,
    dtype: _linen.Precision = "bfloat16",
    remat: _linen.Remat = "none",
    keep_tokens: bool = False,
) -> types.Encoder:
  """Encodes an image as a sequence of patches by a pre-norm transformer.

  The grid follows the size of the images; position embeddings learned at one
  size are resized, bilinearly, to another.

  Args:
    variant: "B/16", "L/14", "Ti", ...: determines width, depth, heads, mlp and,
      after the slash, patch, which may not be given too.
    width: of a token, and of the pooled vector. A multiple of `heads`; 768.
    depth: blocks, at least 1; 12.
    heads: of attention; 12.
    patch: side of a patch in pixels; 16.
    mlp: hidden width of the blocks' MLP; 4 * width.
    stem: one convolution of the patch's size and stride, or one of size 3 and
      stride 2 for each halving, which learns far better from little data and
      needs a patch that is a power of two.
    positions: learned position embeddings, or fixed sines and cosines.
    pool: mean of the tokens, a class token, or a learned query over them.
    entry_norm: whether tokens are normalised before the first block too, as
      in CLIP.
    activation: of the MLPs: exact GELU, or approximated by a tanh or by a
      sigmoid ("quick_gelu", CLIP's).
    epsilon: added to the variance in the norms of the transformer; positive.
    drop_patches: share of the patches of each image to drop, in [0, 1); nothing
      is dropped without a key.
    stochastic_depth: drop rate of the last block (drop path), in [0, 1); it
      grows linearly with depth from 0 at the first block.
    dropout: rate of dropout on the residual branches, in [0, 1).
    dtype: to compute in; parameters, norms and softmax are float32.
    remat: what a block keeps for its backward pass: all that it needs
      ("none"), its input ("full"), or the results of products ("products"),
      so that norms and activations alone are computed again.
    keep_tokens: whether features carry the patches' tokens, in `dtype`.

  Returns:
    An encoder from `Float[b h w c]` in [-1, 1] to `Float32[b width]`.

  Raises:
    ValueError: for an unknown variant, a variant together with a size that it
      determines, impossible sizes, a rate not in [0, 1), and (when applied)
      images that are not floating point [b h w c], are smaller than a patch,
      or, with the convolutional stem, have sides that the patch does not
      divide. Otherwise pixels beyond the last whole patch are dropped.

  References:
    Dosovitskiy et al., An Image is Worth 16x16 Words, 2020.
    https://arxiv.org/abs/2010.11929
    Xiao et al., Early Convolutions Help Transformers See Better, 2021.
    https://arxiv.org/abs/2106.14881

  Example:
    >>> encoder = vit(variant="Ti/16")
    >>> image = jnp.zeros((1, 32, 32, 3))
    >>> params = jax.eval_shape(encoder.init, jax.random.key(0), image)
    >>> jax.eval_shape(encoder.apply, params, image, None).pooled.shape
    (1, 192)
  """
  given = dict(width=width, depth=depth, heads=heads, mlp=mlp, patch=patch)
  shape = _shape(variant, given)
  _transformer.check_width(shape["width"], shape["depth"], shape["heads"])
  rates = dict(dropout=dropout, stochastic_depth=stochastic_depth)
  for name, rate in (*rates.items(), ("drop_patches", drop_patches)):
    _linen.check_rate(name, rate)
  width, patch = shape.pop("width"), shape.pop("patch")
  if stem == "convolution" and (patch < 2 or patch & (patch - 1)):
    raise ValueError(
        f"found patch={patch} with stem='convolution', which halves the image "
        "again and again: expected 2, 4, 8, 16, ..."
    )
  module = Vit(
      width, patch, stem, positions, pool, entry_norm, drop_patches,
      keep_tokens, dtype,
      dict(
          **shape, **rates, remat=remat, activation=activation, epsilon=epsilon
      ),
  )
  init, apply = _linen.pair(module, jnp.float32)

  def resized(params, images, keys=None):
    return apply(_fit(params, images, patch, stem), images, keys)

  return types.Encoder(init, resized, AXES)


def _shape(
    variant: str | None, given: dict[str, int | None]
) -> dict[str, int]:
  """The sizes of a variant, those that were given, and those of B/16."""
  chosen = {name: x for name, x in given.items() if x is not None}
  letters, slash, patch = (variant or "").partition("/")
  known: dict[str, int] = {}
  if variant is not None:
    if letters not in VARIANTS or (slash and not patch.isdecimal()):
      raise ValueError(
          f"found variant={variant!r}, expected one of {', '.join(VARIANTS)}, "
          "alone or with a patch size, such as 'B/16'"
      )
    names = ("width", "depth", "heads", "mlp")
    known.update(zip(names, VARIANTS[letters], strict=True))
    if slash:
      known["patch"] = int(patch)
  if twice := sorted(known.keys() & chosen.keys()):
    raise ValueError(
        f"variant={variant!r} stands for {', '.join(twice)}, which was given "
        "too; leave one of them out"
    )
  shape = dict(width=768, depth=12, heads=12, patch=16) | known | chosen
  shape.setdefault("mlp", 4 * shape["width"])
  if min(shape.values()) < 1:
    raise ValueError(f"found {shape}, expected sizes of at least 1")
  return shape


def _grid(images: Any, patch: int, stem: str) -> tuple[int, int]:
  """Rows and columns of whole patches."""
  _linen.check_images(images)
  height, width = images.shape[1:3]
  if min(height, width) < patch:
    raise ValueError(
        f"found images of {height}x{width} pixels, expected sides of at least "
        f"patch={patch}; resize them or choose another patch"
    )
  # Strides of 2 pad odd sizes, so the grid would not be that of whole patches.
  if stem == "convolution" and (height % patch or width % patch):
    raise ValueError(
        f"found images of {height}x{width} pixels, expected sides that are "
        f"multiples of patch={patch}; resize them or choose another patch"
    )
  return height // patch, width // patch


def _fit(
    params: types.Params, images: Any, patch: int, stem: str
) -> types.Params:
  """Learned position embeddings, resized to these images."""
  height, width = _grid(images, patch, stem)
  if "positions" not in params:
    return params
  embeddings = position_embeddings.resize(params["positions"], height, width)
  return {**params, "positions": embeddings}


class Vit(nn.Module):
  """The tower; `blocks` are the settings of `_transformer.stack`."""

  width: int
  patch: int
  stem: str
  positions: str
  pool: str
  entry_norm: bool
  drop_patches: float
  keep_tokens: bool
  dtype: _linen.Precision
  blocks: Any

  @nn.compact
  def __call__(
      self, images: Any, keys: types.RowKeys | None
  ) -> types.Features:
    x = self._patches(images)
    if keys is not None and self.drop_patches:
      x = noise.drop_tokens(x, noise.fold(keys, 0), self.drop_patches)
    if self.pool == "token":
      token = self.param("token", nn.initializers.zeros, (self.width,))
      shape = (x.shape[0], 1, self.width)
      token = jnp.broadcast_to(token.astype(x.dtype), shape)
      x = jnp.concatenate([token, x], axis=1)
    if self.entry_norm:
      x = _transformer.norm(x, "entry_norm", self.blocks["epsilon"])
    # A number of its own, so that no two uses share a draw.
    keys = None if keys is None else noise.fold(keys, 1)
    x = _transformer.stack(x, None, keys, **self.blocks)
    kept = x[:, 1:] if self.pool == "token" else x
    pooled = self._pool(x).astype(jnp.float32)
    return types.Features(pooled, kept if self.keep_tokens else None)

  def _patches(self, images) -> Float[Array, "b n d"]:
    """Patch embeddings with position embeddings added."""
    height, width = _grid(images, self.patch, self.stem)
    x = images.astype(self.dtype)
    if self.stem == "convolution":
      x = Stem(self.width, self.patch, self.dtype, name="stem")(x)
    else:
      x = x[:, : height * self.patch, : width * self.patch]
      x = PatchEmbedding(self.width, self.patch, self.dtype, name="stem")(x)
    if self.positions == "learned":
      draw = nn.initializers.normal(self.width**-0.5)
      embeddings = self.param("positions", draw, (height, width, self.width))
    else:
      embeddings = position_embeddings.sincos_2d(height, width, self.width)
    x = x + embeddings.astype(x.dtype)[None]
    return x.reshape(x.shape[0], height * width, self.width)

  def _pool(self, x):
    if self.pool == "mean":
      return pooling.mean(x)
    if self.pool == "token":
      return x[:, 0]
    head = _transformer.AttentionPool(
        self.blocks["heads"], self.blocks["mlp"], x.dtype,
        self.blocks["activation"], self.blocks["epsilon"], name="pool",
    )
    return head(x)


class PatchEmbedding(nn.Module):
  """Patch embedding: a linear layer over the pixels of a patch."""

  width: int
  patch: int
  dtype: _linen.Precision

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
    shape = (self.patch, self.patch, x.shape[-1], self.width)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    y = patches.embed(x, kernel.astype(self.dtype))
    return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class Stem(nn.Module):
  """Halves the image until a pixel is a patch, doubling the channels."""

  width: int
  patch: int
  dtype: _linen.Precision

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
    halvings = self.patch.bit_length() - 1
    for n in range(1, halvings + 1):
      channels = max(8, self.width >> (halvings - n))
      x = nn.Conv(
          channels, (3, 3), (2, 2), dtype=self.dtype, name=f"convolution{n}"
      )(x)
      x = gelu.tanh(_transformer.norm(x, f"norm{n}"))
    return nn.Conv(self.width, (1, 1), dtype=self.dtype, name="out")(x)

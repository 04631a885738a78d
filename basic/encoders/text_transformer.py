"""A text transformer whose output does not depend on padding."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from basic import types
from basic.encoders import _linen, _transformer
from basic.ops import pooling, position_embeddings

AXES: types.AxisTable = (
    ("vocabulary", ("vocab", "embed")),
    ("positions", ("length", "embed")),
    *_transformer.AXES,
    *_transformer.HEAD_AXES,
)


def text_transformer(
    *,
    vocab: int = 32_000,
    length: int = 64,
    width: int = 512,
    depth: int = 12,
    heads: int = 8,
    mlp: int | None = None,
    causal: bool = False,
    pool: Literal["mean", "first", "last", "eos", "attention"] = "mean",
    padding: Literal["masked", "read"] = "masked",
    eos: int = 3,
    activation: _transformer.Activation = "gelu_tanh",
    epsilon: float = 1e-6,
    positions: Literal["learned", "sincos"] = "learned",
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    dtype: _linen.Precision = "bfloat16",
    remat: _linen.Remat = "none",
    keep_tokens: bool = False,
) -> types.Encoder:
  """Encodes a text by a pre-norm transformer and pooling.

  Padding, id 0, is masked out of attention and pooling, so its amount changes
  nothing. A text of padding alone gives a finite vector. Towers trained without
  a padding mask (SigLIP), or where 0 is an ordinary token (CLIP), take
  padding="read".

  Args:
    vocab: size of the vocabulary; an id of `vocab` or more gives NaN.
    length: the maximum number of ids of a text.
    width: of a token, and of the pooled vector. A multiple of `heads`.
    depth: blocks, at least 1.
    heads: of attention.
    mlp: hidden width of the blocks' MLP; None is 4 * width.
    causal: whether a token attends only to itself and those before it.
    pool: mean of the real tokens, the first, the last real one, the first
      whose id is `eos`, or a learned query over them.
    padding: "masked" hides id 0; with "read" every id is a token, and texts
      must come at the length that the tower was trained on.
    eos: the id that pool="eos" looks for; a text without one gives its first
      token. 3 is our tokenizer's.
    activation: of the MLPs: exact GELU, or approximated by a tanh or by a
      sigmoid ("quick_gelu", CLIP's).
    epsilon: added to the variance in every norm; positive.
    positions: position embeddings, learned or fixed sines and cosines.
    dropout: rate of dropout on the residual branches, in [0, 1).
    stochastic_depth: drop rate of the last block (drop path), in [0, 1); it
      grows linearly with depth from 0 at the first block.
    dtype: to compute in; parameters, norms and softmax are float32.
    remat: what a block keeps for its backward pass: all that it needs
      ("none"), its input ("full"), or the results of products ("products"),
      so that norms and activations alone are computed again.
    keep_tokens: whether features carry the tokens, in `dtype`, and their mask.

  Returns:
    An encoder from `Int[b t]` ids to `Float32[b width]`.

  Raises:
    ValueError: if the heads do not divide the width, a rate is not in [0, 1),
      a causal text is pooled at its first token, which has seen nothing else,
      or (when applied) the ids are not integers [b t] or longer than `length`.

  References:
    Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, 2021, section 2.4. https://arxiv.org/abs/2103.00020

  Example:
    >>> encoder = text_transformer(vocab=50, width=8, depth=1, heads=2)
    >>> text = jnp.array([[7, 3, 0], [5, 0, 0]])
    >>> params = jax.eval_shape(encoder.init, jax.random.key(0), text)
    >>> jax.eval_shape(encoder.apply, params, text, None).pooled.shape
    (2, 8)
  """
  _transformer.check_width(width, depth, heads)
  _linen.check_rate("dropout", dropout)
  _linen.check_rate("stochastic_depth", stochastic_depth)
  if causal and pool == "first":
    raise ValueError(
        "found causal=True with pool='first': the first token of a causal "
        "text has seen nothing but itself; pool 'last', 'mean' or 'attention'"
    )
  module = TextTransformer(
      vocab, length, width, causal, pool, padding, eos, positions,
      keep_tokens, dtype,
      dict(
          depth=depth, heads=heads, mlp=mlp or 4 * width, dropout=dropout,
          stochastic_depth=stochastic_depth, remat=remat,
          activation=activation, epsilon=epsilon,
      ),
  )
  return types.Encoder(*_linen.pair(module, jnp.int32), AXES)


class TextTransformer(nn.Module):
  """The tower; `blocks` are the settings of `_transformer.stack`."""

  vocab: int
  length: int
  width: int
  causal: bool
  pool: str
  padding: str
  eos: int
  positions: str
  keep_tokens: bool
  dtype: _linen.Precision
  blocks: Any

  @nn.compact
  def __call__(
      self, ids: Any, keys: types.RowKeys | None
  ) -> types.Features:
    self._check(ids)
    # Without a padding mask, every token counts.
    mask = ids != 0 if self.padding == "masked" else jnp.ones_like(ids, bool)
    x = self._embed(ids).astype(self.dtype)
    x = _transformer.stack(x, self._visible(mask), keys, **self.blocks)
    return types.Features(
        self._pool(x, mask, ids).astype(jnp.float32),
        x if self.keep_tokens else None,
        mask if self.keep_tokens else None,
    )

  def _check(self, ids):
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
      raise ValueError(
          f"found text {ids.dtype}{list(ids.shape)}, expected integer ids "
          "[b t], padded with 0"
      )
    if ids.shape[1] > self.length:
      raise ValueError(
          f"found texts of {ids.shape[1]} ids, this encoder reads at most "
          f"length={self.length}; raise `length`, or make ids with a vocabulary "
          "of that length"
      )

  def _embed(self, ids: Int[Array, "b t"]):
    """Token and position embeddings, added, float32."""
    draw = nn.initializers.normal(self.width**-0.5)
    table = self.param("vocabulary", draw, (self.vocab, self.width))
    if self.positions == "learned":
      embeddings = self.param("positions", draw, (self.length, self.width))
    else:
      embeddings = position_embeddings.sincos(self.length, self.width)
    # Gathered before any cast: the table is far larger than a batch of text.
    return jnp.take(table, ids, axis=0) + embeddings[None, : ids.shape[1]]

  def _visible(self, mask: Bool[Array, "b t"]) -> Bool[Array, "b _ t"]:
    visible = mask[:, None]
    if self.causal:
      index = jnp.arange(mask.shape[1])
      visible = visible & (index[None, None, :] <= index[None, :, None])
    return visible

  def _pool(self, x, mask, ids):
    if self.pool == "attention":
      head = _transformer.AttentionPool(
          self.blocks["heads"], self.blocks["mlp"], x.dtype,
          self.blocks["activation"], self.blocks["epsilon"], name="pool",
      )
      return head(x, mask)
    if self.pool == "eos":
      index = jnp.argmax(ids == self.eos, axis=1)
      return jnp.take_along_axis(x, index[:, None, None], axis=1)[:, 0]
    if self.pool == "first":
      return x[:, 0]
    return {"mean": pooling.mean, "last": pooling.last}[self.pool](x, mask)

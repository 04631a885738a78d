"""Symmetric InfoNCE (CLIP): softmax cross-entropy over rows and over columns."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from basic import types
from basic.ops import normalize, temperature
from basic.ops.pairwise import reductions, similarity


def softmax(
    *,
    scale: float = 1 / 0.07,
    max_scale: float = 100.0,
    smoothing: float = 0.0,
    distinct: str | None = None,
    views: tuple[str, str] = ("image", "text"),
    dtype: str = "float32",
    method: str = "auto",
    tile: int | None = None,
    kernel: str = "xla",
) -> types.Objective:
  """Trains each view to identify its pair among all rows of the other.

  With unit embeddings x, y, similarities s_ij = t <x_i, y_j>,

      L = (1/2b) sum_i (log sum_j exp s_ij - q_i)
        + (1/2b) sum_j (log sum_i exp s_ij - q_j),

  where q is s_ii, or with smoothing e its mixture (1 - e) s_ii + e mean_j s_ij.
  It is exact over the global batch; no b x b matrix is stored.

  Args:
    scale: initial t, the inverse temperature, learned as log t. Positive.
    max_scale: upper bound of t, by clipping. At least `scale`.
    smoothing: e of label smoothing, in [0, 1). ALIGN uses 0.1.
    distinct: a field of the batch, integers [b] or [b k]. Different rows with
      equal values are no negatives of each other: these pairs are left out of
      both sums and of the smoothing. "caption_id" does so for duplicate captions
      within the batch.
    views: the two views that are compared: rows, then columns.
    dtype: of the factors of the inner products, "float32" or "bfloat16"; sums
      are float32 either way.
    method: how rows meet columns on a mesh: "auto", "gather" or "ring"
      (`ops/pairwise/similarity.py`).
    tile: logits are computed in squares of this many rows and columns, one in
      memory at a time. None: 1,024 on CPUs, 4,096 elsewhere.
    kernel: implementation of a tile: "xla", or "pallas", a fused kernel for GPUs
      (`ops/pairwise/pallas_kernel.py`), whose speed was not measured.

  Returns:
    An objective over `Features.pooled`, which it normalises; value in nats per
    row. Learns `log_scale`, a float32 scalar. Metrics: `scale`, and the two
    halves of the loss, `rows` and `columns`.

  Raises:
    ValueError: if `scale`, `max_scale` or `smoothing` is out of range, or (on
      use) the batch has no field `distinct`, or as for `similarity.lse`.

  References:
    Pham et al., Combined Scaling for Zero-shot Transfer Learning, 2021,
    section 3. https://arxiv.org/abs/2111.10050
    Radford et al., CLIP, 2021, figure 3. https://arxiv.org/abs/2103.00020

  Example:
    >>> import jax
    >>> objective = softmax(smoothing=0.1)
    >>> params, memory = objective.init(jax.random.key(0), None)
    >>> sorted(params)
    ['log_scale']
  """
  if not 0 < scale <= max_scale:
    raise ValueError(
        f"scale is {scale} and max_scale {max_scale}; softmax() takes "
        "0 < scale <= max_scale."
    )
  if not 0 <= smoothing < 1:
    raise ValueError(f"smoothing is {smoothing}; softmax() takes [0, 1).")

  def init(rng, shapes):
    del rng, shapes  # One scalar, whatever the shapes of the embeddings.
    return {"log_scale": jnp.asarray(math.log(scale), jnp.float32)}

  def loss(params, embedded, rng):
    del rng  # The loss is deterministic.
    x, y = (normalize.unit(embedded.views[v].pooled) for v in views)
    t = temperature.scale_of(params["log_scale"], max_scale)
    same = None if distinct is None else embedded.field(distinct)
    tags = {} if same is None else reductions.labels(same)
    row, col = similarity.lse(
        x, y, t, row_tags=tags, col_tags=tags,
        weight=None if same is None else reductions.no_duplicates,
        dtype=dtype, method=method, tile=tile, kernel=kernel,
    )
    match = t * jnp.sum(x * y, -1)

    def target(x, y):
      if not smoothing:
        return match
      mean = _mean_similarity(x, y, t, same)
      return (1 - smoothing) * match + smoothing * mean

    rows = jnp.mean(row - target(x, y))
    columns = jnp.mean(col - target(y, x))
    return (rows + columns) / 2, {
        "scale": t, "rows": rows, "columns": columns
    }

  def logits(params):
    return types.Logits(temperature.scale_of(params["log_scale"], max_scale))

  return types.stateless(
      init, loss, axes=(("log_scale", ()),), logits=logits
  )


def _mean_similarity(
    x: Float[Array, "b d"],
    y: Float[Array, "b d"],
    t: Float[Array, ""],
    same: Int[Array, "b ..."] | None,
) -> Float[Array, "b"]:
  """mean_j t <x_i, y_j> over the columns in the sum of row i.

  From sums of the columns: the mean needs no product of all pairs.
  """
  total, count = jnp.sum(y, 0, keepdims=True), y.shape[0]
  if same is not None:
    duplicates, duplicate_count = _group_sums(y, same)
    total = total - duplicates + y  # The row's own column stays.
    count = count - duplicate_count + 1
  return t * jnp.sum(x * total, -1) / count


def _group_sums(y, same):
  """Sum of y, and number of rows, over the rows with the same values as each.

  Sorted, equal rows are neighbours: a group begins where a row differs from the
  one before. That takes b log b steps, and no comparison of all pairs.
  """
  same = same.reshape(same.shape[0], -1)
  order = jnp.lexsort(same.T)
  ordered = same[order]
  begins = jnp.any(ordered[1:] != ordered[:-1], -1)
  group = jnp.concatenate([jnp.zeros((1,), jnp.int32), jnp.cumsum(begins)])
  group = jnp.zeros_like(group).at[order].set(group)

  def over_group(a):
    return jax.ops.segment_sum(a, group, same.shape[0])[group]

  return over_group(y), over_group(jnp.ones(y.shape[0], y.dtype))

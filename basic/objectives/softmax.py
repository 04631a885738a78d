"""Symmetric InfoNCE: each image picks its text among all, and the reverse."""

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
  """Trains both views to pick each other out of the whole batch.

  With unit embeddings x, y, similarities s_ij = t <x_i, y_j>,

      L = (1/2b) sum_i (log sum_j exp s_ij - q_i)
        + (1/2b) sum_j (log sum_i exp s_ij - q_j),

  where q is s_ii, or with smoothing e its mixture (1 - e) s_ii + e mean_j s_ij.
  Exact over the global batch; no b x b matrix is held.

  Args:
    scale: initial t, the inverse temperature, learned as log t. Positive.
    max_scale: the largest t that is used. At least `scale`.
    smoothing: e, the share of the target spread evenly over the batch, in
      [0, 1). ALIGN uses 0.1.
    distinct: a leaf of the batch, integers [b] or [b k]. Pairs of different
      rows that agree in it are not negatives: they leave both sums, and the
      smoothing. "caption_id" masks captions that repeat within the batch.
    views: the two views that are compared: rows, then columns.
    dtype: type of the factors of the products, "float32" or "bfloat16"; sums
      are float32 either way.
    method: how columns meet rows on a mesh: "auto", "gather" or "ring".
    tile: side of the square of similarities that is alive at any time. None:
      1,024 on CPUs, 4,096 elsewhere.
    kernel: who makes and uses those similarities: "xla", or "pallas", a fused
      kernel for GPUs in `ops/pairwise/pallas_kernel.py`, whose speed was not measured.

  Returns:
    An objective over `Features.pooled`, which it normalises; value in nats per
    row. Learns `log_scale`, a float32 scalar. Metrics: `scale`, and the two
    halves of the loss, `rows` and `columns`.

  Raises:
    ValueError: if `scale`, `max_scale` or `smoothing` is out of range, or (on
      use) the batch has no leaf `distinct`, or as `similarity.lse`.

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
    del rng, shapes  # One number, whatever the embeddings.
    return {"log_scale": jnp.asarray(math.log(scale), jnp.float32)}

  def loss(params, embedded, rng):
    del rng  # Nothing is drawn.
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

  return types.stateless(init, loss)


def _mean_similarity(
    x: Float[Array, "b d"],
    y: Float[Array, "b d"],
    t: Float[Array, ""],
    same: Int[Array, "b ..."] | None,
) -> Float[Array, "b"]:
  """mean_j t <x_i, y_j> over the columns that row i may see."""
  total, count = jnp.sum(y, 0, keepdims=True), y.shape[0]
  if same is not None:
    twins, twin_count = _group_sums(y, same)
    total = total - twins + y  # A row sees itself, but not its twins.
    count = count - twin_count + 1
  return t * jnp.sum(x * total, -1) / count


def _group_sums(y, same):
  """Sum of y, and number of rows, over the rows that agree with each row."""
  same = same.reshape(same.shape[0], -1)
  order = jnp.lexsort(same.T)
  ranked = same[order]
  new = jnp.any(ranked[1:] != ranked[:-1], -1)
  group = jnp.concatenate([jnp.zeros((1,), jnp.int32), jnp.cumsum(new)])
  group = jnp.zeros_like(group).at[order].set(group)

  def over_group(a):
    return jax.ops.segment_sum(a, group, same.shape[0])[group]

  return over_group(y), over_group(jnp.ones(y.shape[0], y.dtype))

"""Sigmoid loss: each pair is judged on its own, match or not."""

import math

import jax.numpy as jnp

from basic import types
from basic.ops import normalize
from basic.ops.pairwise import reductions, similarity


def sigmoid(
    *,
    scale: float = 10.0,
    bias: float = -10.0,
    same: str | None = None,
    views: tuple[str, str] = ("image", "text"),
    dtype: str = "float32",
    method: str = "auto",
    tile: int | None = None,
    kernel: str = "xla",
) -> types.Objective:
  """Judges every image-text pair on its own: match or not.

  Unlike a softmax, no pair waits for the others:

      L = -(1/b) sum_ij log sigma(z_ij (t <x_i, y_j> + c)),
      z_ii = +1 and z_ij = -1 otherwise.

  Args:
    scale: initial t, the inverse temperature, learned as log t. Positive.
    bias: initial c. About -log(b) balances b - 1 negatives per positive.
    same: a leaf of the batch, integers [b] or [b k]. Rows that agree in it
      are positive pairs too: z_ij = +1.
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
    row. Learns `log_scale`, `bias`, float32 scalars. Metrics: `scale`, `bias`.

  Raises:
    ValueError: if `scale` is not positive, or (on use) the batch has no leaf
      `same`, or as `similarity.softplus_sums`.

  References:
    Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, eq. 1.
    https://arxiv.org/abs/2303.15343

  Example:
    >>> import jax
    >>> objective = sigmoid(bias=-5.)
    >>> params, memory = objective.init(jax.random.key(0), None)
    >>> float(params["bias"])
    -5.0
  """
  if scale <= 0:
    raise ValueError(f"scale is {scale}; sigmoid() takes a positive scale.")

  def init(rng, shapes):
    del rng, shapes  # Two numbers, whatever the embeddings.
    return {
        "log_scale": jnp.asarray(math.log(scale), jnp.float32),
        "bias": jnp.asarray(bias, jnp.float32),
    }

  def loss(params, embedded, rng):
    del rng  # Nothing is drawn.
    x, y = (normalize.unit(embedded.views[v].pooled) for v in views)
    t, c = jnp.exp(params["log_scale"]), params["bias"]
    tags = {} if same is None else reductions.labels(embedded.field(same))
    rows = similarity.softplus_sums(
        x, y, t, c, row_tags=tags, col_tags=tags,
        positive=None if same is None else _twins,
        dtype=dtype, method=method, tile=tile, kernel=kernel,
    )
    return jnp.mean(rows), {"scale": t, "bias": c}

  return types.stateless(init, loss)


def _twins(rows, cols):
  return reductions.same_labels(rows, cols) | reductions.diagonal(rows, cols)

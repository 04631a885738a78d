"""Sigmoid loss (SigLIP): binary cross-entropy of every pair, match or not."""

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
  """Classifies every image-text pair on its own: match or not.

  Unlike in a softmax, the terms of different pairs are independent:

      L = -(1/b) sum_ij log sigma(z_ij (t <x_i, y_j> + c)),
      z_ii = +1 and z_ij = -1 otherwise.

  Args:
    scale: initial t, the inverse temperature, learned as log t. Positive.
    bias: initial c. About -log(b) balances b - 1 negatives per positive.
    same: a field of the batch, integers [b] or [b k]. Rows with equal values
      are positive pairs too: z_ij = +1.
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
    row. Learns `log_scale`, `bias`, float32 scalars. Metrics: `scale`, `bias`.

  Raises:
    ValueError: if `scale` is not positive, or (on use) the batch has no field
      `same`, or as for `similarity.softplus_sums`.

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
    del rng, shapes  # Two scalars, whatever the shapes of the embeddings.
    return {
        "log_scale": jnp.asarray(math.log(scale), jnp.float32),
        "bias": jnp.asarray(bias, jnp.float32),
    }

  def loss(params, embedded, rng):
    del rng  # The loss is deterministic.
    x, y = (normalize.unit(embedded.views[v].pooled) for v in views)
    t, c = jnp.exp(params["log_scale"]), params["bias"]
    tags = {} if same is None else reductions.labels(embedded.field(same))
    rows = similarity.softplus_sums(
        x, y, t, c, row_tags=tags, col_tags=tags,
        positive=None if same is None else _same_or_diagonal,
        dtype=dtype, method=method, tile=tile, kernel=kernel,
    )
    return jnp.mean(rows), {"scale": t, "bias": c}

  def logits(params):
    return types.Logits(jnp.exp(params["log_scale"]), params["bias"])

  return types.stateless(
      init, loss, axes=(("log_scale", ()), ("bias", ())), logits=logits
  )


def _same_or_diagonal(rows, cols):
  return reductions.same_labels(rows, cols) | reductions.diagonal(rows, cols)

"""All-pairs reductions of two batches of embeddings, on any mesh.

`lse` (softmax losses) and `softplus_sums` (sigmoid losses) reduce the logits
S_ij = t <x_i, y_j> + c without storing S, in value and in gradient, on one
device or on all devices of the mesh in context.

On a mesh, rows are split over all of its axes. There are two methods, with the
same result (`distributed` implements them):

- "gather": each device all-gathers all columns and reduces its own rows. Fewest
  transfers; memory grows with the whole batch (one side and its gradient).
- "ring": columns travel from device to device, with their sums. Memory depends
  on the rows of one device, not on the number of devices.
- "auto": gather while one gathered side and its gradient take at most 1 GiB.

On one device, with or without a mesh in context, nothing is transferred and the
method makes no difference.

Tags and weights are constants: no gradient flows into them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from basic.ops import precision
from basic.ops.pairwise import distributed, reductions, tiles


def lse(
    x: Inexact[Array, "i d"],
    y: Inexact[Array, "j d"],
    scale: jax.typing.ArrayLike,
    *,
    row_tags: tiles.Tags | None = None,
    col_tags: tiles.Tags | None = None,
    weight: reductions.OfPairs | None = None,
    dtype: str = "float32",
    method: str = "auto",
    tile: int | None = None,
    kernel: str = "xla",
) -> tuple[Float[Array, "i"], Float[Array, "j"]]:
  """Log-sum-exp over every row and every column of the logits, in one pass.

      row_i = log sum_j w_ij exp(t <x_i, y_j>)
      col_j = log sum_i w_ij exp(t <x_i, y_j>)

  Args:
    x: rows, usually unit vectors; float64, float32 or bfloat16.
    y: columns, of the same type.
    scale: t, the inverse temperature.
    row_tags: vectors [i] by name for `weight` to read; "index" is added.
    col_tags: the same for columns [j].
    weight: (row tags [i 1], column tags [1 j]) -> log w_ij of a tile. None: all
      weights are 1. The diagonal is where tags["index"] of both are equal.
    dtype: of the factors of the inner products, "float32" or "bfloat16"; sums
      are float32. float64 inputs stay float64.
    method: how rows meet columns on a mesh: "auto", "gather" or "ring".
    tile: logits are computed in squares of this many rows and columns, one in
      memory at a time. None: 1,024 on CPUs, 4,096 elsewhere.
    kernel: implementation of a tile: "xla", or "pallas", a fused kernel for
      GPUs that never writes logits to memory (interpreted on CPUs; float32 and
      bfloat16; `weight` may read nothing but tags). Its speed was not measured.

  Returns:
    (row [i], col [j]), in nats, float32 (float64 for float64 inputs); -inf
    where all weights are 0.

  Raises:
    ValueError: if the devices do not divide a number of rows, if the method or
      the kernel is unknown, or if the kernel does not support the dtype of `x`
      or the backend.

  References:
    Rabe and Staats, Self-attention does not need O(n^2) memory, 2021.
    https://arxiv.org/abs/2112.05682
  """
  if kernel == "pallas":  # Triton cannot take one row or column of a block.
    reduction = reductions.log_sum_exp(weight, reference=jnp.max)
  else:
    reduction = reductions.log_sum_exp(weight)
  x, y = _cast(x, dtype), _cast(y, dtype)
  return distributed.reduce_pairs(
      reduction, distributed.plan(method, tile, kernel, x, y),
      _side(x, row_tags), _side(y, col_tags), _scale_and_bias(x, scale, 0.0),
  )


def softplus_sums(
    x: Inexact[Array, "i d"],
    y: Inexact[Array, "j d"],
    scale: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike,
    *,
    row_tags: tiles.Tags | None = None,
    col_tags: tiles.Tags | None = None,
    positive: reductions.OfPairs | None = None,
    dtype: str = "float32",
    method: str = "auto",
    tile: int | None = None,
    kernel: str = "xla",
) -> Float[Array, "i"]:
  """Row sums of the binary cross-entropy of every pair, match or not.

      row_i = sum_j softplus(-z_ij (t <x_i, y_j> + c)),
      z_ij = +1 for a positive pair and -1 otherwise.

  Args:
    x: rows, usually unit vectors; float64, float32 or bfloat16.
    y: columns, of the same type.
    scale: t, the inverse temperature.
    bias: c.
    row_tags: vectors [i] by name for `positive` to read; "index" is added.
    col_tags: the same for columns [j].
    positive: (row tags [i 1], column tags [1 j]) -> whether a pair is positive.
      None: the diagonal is.
    dtype: as for `lse`.
    method: as for `lse`.
    tile: as for `lse`.
    kernel: as for `lse`.

  Returns:
    Sums [i] in nats, float32 (float64 for float64 inputs).

  Raises:
    ValueError: as `lse`.

  References:
    Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, eq. 1.
    https://arxiv.org/abs/2303.15343
  """
  reduction = reductions.softplus(positive or reductions.diagonal)
  x, y = _cast(x, dtype), _cast(y, dtype)
  sums: Any = distributed.reduce_pairs(
      reduction, distributed.plan(method, tile, kernel, x, y),
      _side(x, row_tags), _side(y, col_tags), _scale_and_bias(x, scale, bias),
  )
  return sums[0]


def _cast(z: Array, dtype: str) -> Array:
  return z if z.dtype == jnp.float64 else z.astype(dtype)


def _side(z: Array, tags: tiles.Tags | None) -> tiles.Side:
  index = jnp.arange(z.shape[0], dtype=jnp.int32)
  return tiles.Side(z, {**(tags or {}), "index": index})


def _scale_and_bias(x: Array, scale: Any, bias: Any) -> tuple[Array, Array]:
  dtype = precision.accumulator(x.dtype)
  return jnp.asarray(scale, dtype), jnp.asarray(bias, dtype)

"""Gradient accumulation in the optimizer's moments (its "slots").

The gradient of a batch is the sum of the contributions c_i of K chunks, and c_i
is the sum of the parts p_ir of R replicas, before their all-reduce:

    g = sum_i c_i,    c_i = sum_r p_ir

A buffer for g is as large as the parameters. The first moment is linear in g, so
each c_i can be added to it at once, exactly. The second moment is not; what can
be summed is c_i^2, which is too large by the variance between chunks. The
differences between replicas estimate that variance, and it is subtracted:

    g^2 ~ sum_i [ K c_i^2 - (K - 1) R/(R - 1) (sum_r p_ir^2 - c_i^2/R) ]

which is unbiased if rows are assigned to chunks and replicas at random: with
h_i = K c_i the mean of h_i^2 is g^2 + (1 - 1/K) S, where S is the variance of
h_i among chunks drawn from many, and K^2 R/(R - 1) (sum_r p_ir^2 - c_i^2/R) is
an unbiased estimate of S. (Chunks of one batch are drawn without replacement;
without the factor 1 - 1/K, too much would be subtracted, and most of the rest
would be wrong.)

The estimate is noisy: in any one step a third or more of its entries are
negative, and so are means of few entries. It is used for means over many entries
and many steps only, the rows and columns of Adafactor, which are clamped after
averaging; a parameter too small to be factored is small enough for a buffer.
Clipping needs the norm of g, which is unknown before the last chunk, so the two
cannot be combined.

References:
  Pham et al., Combined Scaling for Zero-shot Transfer Learning, 2021, section
  4.2. https://arxiv.org/abs/2111.10050 (the factor 1 - 1/K and
  the floor of `clamp` are derived here)
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def first_moment(
    slot: Float[Array, "*shape"],
    c: Float[Array, "*shape"],
    i: int | Int[Array, ""],
    b1: float | Float[Array, ""],
) -> Float[Array, "*shape"]:
  """Adds a chunk to the first moment.

      m <- k_i m + (1 - b1) c_i,    k_0 = b1 and k_i = 1 after

  so that after K chunks it is b1 m + (1 - b1) g. Keep m in float32 during the
  chunks: bfloat16 would round it K times per step.

  Args:
    slot: m.
    c: contribution of the chunk; contributions sum to the gradient.
    i: index of the chunk, from 0.
    b1: decay rate of the first moment, in [0, 1).

  Returns:
    The new m.
  """
  return jnp.where(i == 0, b1, 1.) * slot + (1. - b1) * c


def square(
    squares: Float[Array, "..."],
    parts: Float[Array, "..."],
    *,
    chunks: int,
    replicas: int,
) -> Float[Array, "..."]:
  """The term of a chunk in the estimate of the squared gradient.

      K c^2 - (K - 1) R/(R - 1) (parts - c^2/R)

  It is linear in both squares, so it also takes their means along an axis.

  Args:
    squares: c^2, of the contribution of the chunk.
    parts: sum_r p_r^2, the summed squares of the replicas' parts of c.
    chunks: K, at least 1. With one chunk the square is exact.
    replicas: R; at least 2 if there are several chunks.

  Returns:
    The term of the chunk; the terms of all chunks sum to the estimate. Entries
    may be negative.

  Raises:
    ValueError: if there are several chunks and fewer than two replicas.
  """
  if chunks == 1:
    return squares
  if replicas < 2:
    raise ValueError(
        f"{replicas} replica shows no variance, which {chunks} chunks need; use "
        "a mesh of 2 devices or more along data and of none along other axes, "
        "or accumulate the gradient and square it once"
    )
  variance = (parts - squares / replicas) * (replicas / (replicas - 1))
  return chunks * squares - (chunks - 1) * variance


def second_moment(
    slot: Float[Array, "..."],
    squares: Float[Array, "..."],
    parts: Float[Array, "..."],
    i: int | Int[Array, ""],
    b2: float | Float[Array, ""],
    *,
    chunks: int,
    replicas: int,
) -> Float[Array, "..."]:
  """Adds a chunk to the second moment, or to its mean along an axis.

      v <- k_i v + (1 - b2) square(c_i),    k_0 = b2 and k_i = 1 after

  Args:
    slot: v.
    squares, parts, chunks, replicas: as in `square`, in the shape of `slot`.
    i: index of the chunk, from 0.
    b2: decay rate of the second moment in this step, in [0, 1).

  Returns:
    The new v. It may be negative: `clamp` after the last chunk, and only then.

  Raises:
    ValueError: as `square` does.
  """
  term = square(squares, parts, chunks=chunks, replicas=replicas)
  return first_moment(slot, term, i, b2)


def clamp(
    slot: Float[Array, "..."], floor: Float[Array, "..."]
) -> Float[Array, "..."]:
  """Clamps an estimated second moment from below, for use in the update.

      v <- max(v, mean(sum_i c_i^2))

  Chunks are equal in distribution, so over batches E g^2 = sum_i E c_i^2 +
  K (K - 1) (E c)^2: the sum of squares is a lower bound of the second moment.
  Zero is one too, but the update is divided by the root of the result.

  Clamp after averaging and after the last chunk: of terms clamped one by one,
  negative ones would no longer cancel positive ones. For the same reason,
  accumulate v itself and not the clamped value. The floor decays at the rate of
  v, since a first moment outlasts the gradients that it is an average of.

  Args:
    slot: v, after the last chunk.
    floor: the same means, over entries and steps, of the sum over chunks of
      c_i^2. Not negative.

  Returns:
    The second moment to divide the update by.
  """
  return jnp.maximum(slot, floor)

"""Moments of a gradient that arrives in chunks, kept in the slots themselves.

A gradient over a batch is a sum of contributions c_i of K chunks, and c_i is
itself a sum of parts p_ir of R replicas, as they are before these are summed:

    g = sum_i c_i,    c_i = sum_r p_ir

A buffer for g is as large as the weights. The mean is linear in g, so each c_i
can go into its slot at once, exactly. The mean square is not; what can be
summed is c_i^2, which is too large by the variance between chunks. Replicas
show that variance, so what they show is taken off again:

    g^2 ~ sum_i [ K c_i^2 - (K - 1) R/(R - 1) (sum_r p_ir^2 - c_i^2/R) ]

which is unbiased when rows are dealt to chunks and replicas at random: with
h_i = K c_i the mean of h_i^2 is g^2 + (1 - 1/K) S, where S is the variance of
h_i among chunks drawn from many, and K^2 R/(R - 1) (sum_r p_ir^2 - c_i^2/R) is
an unbiased estimate of S. (Chunks of one batch are drawn without replacement;
leaving out the 1 - 1/K takes off too much, and most of what is left is wrong.)

It is an estimate: in any one step a third or more of its entries are negative,
and so are means of few. It serves statistics that are means over many entries
and many steps, AdaFactor's rows and columns, which are clamped after averaging;
a weight too small to be factored is small enough for a buffer. Clipping needs
the norm of g, which nobody knows before the last chunk: it cannot be had
together with this.

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
  """Adds a chunk to the mean gradient.

      m <- k_i m + (1 - b1) c_i,    k_0 = b1 and k_i = 1 after

  so that K chunks make b1 m + (1 - b1) g. Keep m in float32 during the chunks:
  bfloat16 would round it K times a step.

  Args:
    slot: m.
    c: contribution of the chunk; contributions add up to the gradient.
    i: number of the chunk, from 0.
    b1: memory of the mean, at least 0 and less than 1.

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
  """What a chunk adds to an estimate of the gradient's square.

      K c^2 - (K - 1) R/(R - 1) (parts - c^2/R)

  Linear in both squares: of means along an axis it makes the mean.

  Args:
    squares: c^2, of the contribution of the chunk.
    parts: sum_r p_r^2, the squares of the replicas' parts of c.
    chunks: K, at least 1. With one chunk the square is exact.
    replicas: R; at least 2 where there are several chunks.

  Returns:
    The chunk's term; the terms of all chunks add up to the estimate. Entries
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
  spread = (parts - squares / replicas) * (replicas / (replicas - 1))
  return chunks * squares - (chunks - 1) * spread


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
  """Adds a chunk to the mean square, or to its mean along an axis.

      v <- k_i v + (1 - b2) square(c_i),    k_0 = b2 and k_i = 1 after

  Args:
    slot: v.
    squares, parts, chunks, replicas: as in `square`, in the shape of `slot`.
    i: number of the chunk, from 0.
    b2: memory of the mean square in this step, at least 0 and less than 1.

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
  """Lifts a statistic, for use, to what mere noise would have left in it.

      v <- max(v, mean(sum_i c_i^2))

  Chunks are alike, so over batches E g^2 = sum_i E c_i^2 + K (K - 1) (E c)^2:
  the sum of squares is a floor under the mean square. Zero is one too, but a
  step is divided by the root of what is found here.

  After averaging and after the last chunk: lifted one by one, negative terms
  would no longer cancel the positive ones. For that reason too, go on with the
  slot as it was and not with this. The floor remembers as v does, for a mean
  may outlive the gradients that it is of.

  Args:
    slot: v, after the last chunk.
    floor: the same means, over entries and steps, of the sum over chunks of
      c_i^2. Not negative.

  Returns:
    What stands for v in the step.
  """
  return jnp.maximum(slot, floor)

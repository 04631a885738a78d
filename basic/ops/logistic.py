"""Multinomial logistic regression: its objective, in blocks of rows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from basic.ops import precision


def scores(
    weights: tuple[Float[Array, "d c"], Float[Array, "c"]], x: Float[Array, "n d"]
) -> Float[Array, "n c"]:
  """x @ W + b, without TF32 or bfloat16 rounding."""
  kernel, bias = weights
  z = jnp.einsum(
      "nd,dc->nc", x, kernel, precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=precision.accumulator(x.dtype),
  )
  return z + bias[None, :]


def objective(
    weights: tuple[Float[Array, "d c"], Float[Array, "c"]],
    x: Float[Array, "n d"],
    labels: Int[Array, "n"],
    l2: jax.typing.ArrayLike,
    *,
    block: int = 8192,
) -> Float[Array, ""]:
  """The mean of the loss that is minimised, with an intercept not regularised.

      L(W, b) = 1/n (sum_i [log sum_c exp z_ic - z_i,y(i)] + l2/2 |W|^2)
      z = x @ W + b

  n L is the objective of scikit-learn's LogisticRegression with C = 1 / l2. (For
  two classes that has a single vector w = W_1 - W_0 in place of W, at the optimum
  of which |w|^2 = 2 |W|^2, so that its C is 2 / l2.)

  Args:
    weights: (W, b).
    x: features.
    labels: classes from 0.
    l2: the strength of the regularisation. Not negative.
    block: rows whose scores are in memory at a time; their gradient computes
      them again.

  Returns:
    L, in nats a row.
  """
  n = x.shape[0]
  size = min(block, n)
  blocks = -(-n // size)
  pad = blocks * size - n

  @jax.checkpoint
  def total(x, labels, counts):
    z = scores(weights, x)
    own = jnp.take_along_axis(z, labels[:, None], axis=1)[:, 0]
    return jnp.sum(counts * (jax.nn.logsumexp(z, axis=1) - own))

  def add(sum_so_far, part):
    return sum_so_far + total(*part), None

  counts = jnp.pad(jnp.ones(n, precision.accumulator(x.dtype)), (0, pad))
  parts = (
      jnp.pad(x, ((0, pad), (0, 0))).reshape(blocks, size, -1),
      jnp.pad(labels, (0, pad)).reshape(blocks, size),
      counts.reshape(blocks, size),
  )
  loss, _ = jax.lax.scan(add, jnp.zeros((), counts.dtype), parts)
  return (loss + l2 / 2 * jnp.sum(weights[0] ** 2)) / n

"""Adam with decoupled weight decay."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import optax

from basic.optim import _chain, schedules


def adamw(
    *,
    steps: int,
    peak: float = 1e-3,
    schedule: schedules.Shape = "cosine",
    warmup: int = 0,
    end: float = 0.,
    timescale: int = 10_000,
    b1: float = .9,
    b2: float = .95,
    eps: float = 1e-8,
    decay: float = 1e-4,
    no_decay: Sequence[str] = _chain.NO_DECAY,
    clip: float | None = 1.,
    rates: Sequence[Sequence[Any]] = (),
    mu_dtype: Literal["float32", "bfloat16"] = "float32",
    average: float | None = None,
) -> _chain.Optimizer:
  """Steps by the mean gradient over its own root mean square.

  With g the gradient, clipped to a global norm, n = 1, 2, ..., r the rate of
  the step and k the multiplier of the path:

      m <- b1 m + (1 - b1) g
      v <- b2 v + (1 - b2) g^2
      u  = (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps)
      W <- W - r k (u + decay W)

  Args:
    steps: length of the run, in steps.
    peak: the highest rate.
    schedule: how the rate moves; `schedules.schedule` explains this, `warmup`,
      `end` and `timescale`.
    warmup: length of the rise, in steps.
    end: what is left of the rate at the last step, as a fraction of `peak`.
    timescale: of rsqrt, in steps.
    b1: memory of the mean, at least 0 and less than 1.
    b2: memory of the mean square, at least 0 and less than 1.
    eps: keeps the quotient finite; in units of the gradient. Positive.
    decay: fraction of a weight that a step at rate 1 takes away. Decoupled: it
      does not pass through the moments, nor is it clipped. Not negative.
    no_decay: patterns of the paths that do not decay.
    clip: largest global norm of the gradient; None leaves it as it is.
    rates: (pattern, multiplier) rows; the first pattern that matches a path
      multiplies its rate, decay included. A path that none matches keeps 1.
    mu_dtype: type in which m is kept; bfloat16 halves that slot. The update of
      m and the step are computed in float32.
    average: memory of a moving average of the weights, which evaluations then
      use in their place (`with_average`); None keeps none.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: if a number is out of its range; and from `tx.init`, if a
      pattern of `rates`, or one of `no_decay` that is not a default, matches
      no parameter.

  References:
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, alg. 2.
    https://arxiv.org/abs/1711.05101

  Example:
    >>> params = {"image": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    >>> tx, rate = adamw(steps=10, peak=.5, decay=.1, schedule="constant")
    >>> zero = jax.tree.map(jnp.zeros_like, params)
    >>> updates, _ = tx.update(zero, tx.init(params), params)
    >>> print(updates["image"]["kernel"] + 0, updates["image"]["bias"] + 0)
    [-0.05 -0.05] [0. 0.]
  """
  _chain.check_memory(b1=b1, b2=b2)
  _chain.check_positive(eps=eps)
  rate = schedules.schedule(
      name=schedule, peak=peak, steps=steps, warmup=warmup, end=end,
      timescale=timescale,
  )
  return _chain.optimizer(
      rate, average,
      _chain.clipped(clip),
      optax.scale_by_adam(b1, b2, eps, mu_dtype=jnp.dtype(mu_dtype)),
      _chain.decayed(decay, no_decay),
      _chain.multiplied(rates),
      optax.scale_by_learning_rate(rate),
  )

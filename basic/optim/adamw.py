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
    lr_multipliers: Sequence[Sequence[Any]] = (),
    mu_dtype: Literal["float32", "bfloat16"] = "float32",
    ema_decay: float | None = None,
) -> _chain.Optimizer:
  """Divides the first moment of the gradient by the root of the second.

  With g the gradient, clipped to a global norm, n = 1, 2, ... the update, r the
  learning rate and k the learning rate multiplier of the path:

      m <- b1 m + (1 - b1) g
      v <- b2 v + (1 - b2) g^2
      u  = (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps)
      W <- W - r k (u + decay W)

  Args:
    steps: length of the learning rate schedule, in steps.
    peak: peak learning rate.
    schedule: shape of the schedule after the warm-up. `schedules.schedule` has
      the equations, also of `warmup`, `end` and `timescale`.
    warmup: length of the linear warm-up, in steps.
    end: learning rate at the last step, as a fraction of `peak`.
    timescale: of rsqrt, in steps.
    b1: decay rate of the first moment, at least 0 and less than 1.
    b2: decay rate of the second moment, at least 0 and less than 1.
    eps: added to the denominator, in units of the gradient. Positive.
    decay: weight decay, the fraction of a weight that one step at learning rate
      1 takes away. Decoupled: it neither enters the moments nor is clipped. Not
      negative.
    no_decay: patterns of the paths without weight decay.
    clip: largest global norm of the gradient; None does not clip.
    lr_multipliers: (pattern, multiplier) rows. The first pattern that matches a
      path multiplies its learning rate, and so its weight decay; the multiplier
      of other paths is 1.
    mu_dtype: dtype in which the first moment is stored; bfloat16 halves its
      memory. Updates are computed in float32.
    ema_decay: decay rate of an exponential moving average of the parameters,
      which evaluations then use (`with_ema`); None keeps none.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: if a number is out of its range; and from `tx.init`, if a
      pattern of `lr_multipliers`, or one of `no_decay` that is not a default,
      matches no parameter.

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
  _chain.check_decay_rates(b1=b1, b2=b2)
  _chain.check_positive(eps=eps)
  return _chain.optimizer(
      optax.scale_by_adam(b1, b2, eps, mu_dtype=jnp.dtype(mu_dtype)),
      rate=schedules.schedule(peak, steps, schedule, warmup, end, timescale),
      clip=clip, decay=decay, no_decay=no_decay, lr_multipliers=lr_multipliers,
      ema_decay=ema_decay,
  )

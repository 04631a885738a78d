"""Lion: the sign of a momentum."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import optax

from basic.optim import _chain, schedules


def lion(
    *,
    steps: int,
    peak: float = 1e-4,
    schedule: schedules.Shape = "cosine",
    warmup: int = 0,
    end: float = 0.,
    timescale: int = 10_000,
    b1: float = .9,
    b2: float = .99,
    decay: float = 1e-3,
    no_decay: Sequence[str] = _chain.NO_DECAY,
    clip: float | None = 1.,
    lr_multipliers: Sequence[Sequence[Any]] = (),
    mu_dtype: Literal["float32", "bfloat16"] = "float32",
    ema_decay: float | None = None,
) -> _chain.Optimizer:
  """Updates by the sign of a momentum; its state is one moment.

  With g the gradient, r the learning rate and k its multiplier,

      u  = sign(b1 m + (1 - b1) g)
      m <- b2 m + (1 - b2) g
      W <- W - r k (u + decay W)

  Its updates are larger than Adam's: use a learning rate three to ten times
  smaller and a weight decay larger by the same factor.

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`.
    b1: weight of the first moment in the update, at least 0 and less than 1.
    b2: decay rate of the first moment, at least 0 and less than 1.
    decay, no_decay, clip, lr_multipliers, mu_dtype, ema_decay: as in `adamw`.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: as `adamw` does.

  References:
    Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, alg. 2.
    https://arxiv.org/abs/2302.06675
  """
  _chain.check_decay_rates(b1=b1, b2=b2)
  return _chain.optimizer(
      optax.scale_by_lion(b1, b2, mu_dtype=jnp.dtype(mu_dtype)),
      rate=schedules.schedule(peak, steps, schedule, warmup, end, timescale),
      clip=clip, decay=decay, no_decay=no_decay, lr_multipliers=lr_multipliers,
      ema_decay=ema_decay,
  )

"""Stochastic gradient descent with momentum."""

from collections.abc import Sequence
from typing import Any

import optax

from basic.optim import _chain, schedules


def sgd(
    *,
    steps: int,
    peak: float = .1,
    schedule: schedules.Shape = "cosine",
    warmup: int = 0,
    end: float = 0.,
    timescale: int = 10_000,
    momentum: float = .9,
    decay: float = 0.,
    no_decay: Sequence[str] = _chain.NO_DECAY,
    clip: float | None = None,
    lr_multipliers: Sequence[Sequence[Any]] = (),
    ema_decay: float | None = None,
) -> _chain.Optimizer:
  """Gradient descent with momentum and decoupled weight decay.

  With g the gradient, r the learning rate and k its multiplier,

      m <- momentum m + g
      W <- W - r k (m + decay W)

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`.
    momentum: decay rate of the accumulated gradients, at least 0 and less
      than 1.
    decay, no_decay, clip, lr_multipliers, ema_decay: as in `adamw`.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: as `adamw` does.
  """
  _chain.check_decay_rates(momentum=momentum)
  return _chain.optimizer(
      optax.trace(momentum),
      rate=schedules.schedule(peak, steps, schedule, warmup, end, timescale),
      clip=clip, decay=decay, no_decay=no_decay, lr_multipliers=lr_multipliers,
      ema_decay=ema_decay,
  )

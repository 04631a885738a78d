"""Gradient descent with momentum."""

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
    rates: Sequence[Sequence[Any]] = (),
    average: float | None = None,
) -> _chain.Optimizer:
  """Steps along the gradient, with momentum.

      m <- momentum m + g
      W <- W - r k (m + decay W)

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`.
    momentum: memory of the sum of gradients, at least 0 and less than 1.
    decay, no_decay, clip, rates, average: as in `adamw`; decoupled here
      too.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: as `adamw` does.
  """
  _chain.check_memory(momentum=momentum)
  rate = schedules.schedule(
      name=schedule, peak=peak, steps=steps, warmup=warmup, end=end,
      timescale=timescale,
  )
  return _chain.optimizer(
      rate, average,
      _chain.clipped(clip),
      optax.trace(momentum),
      _chain.decayed(decay, no_decay),
      _chain.multiplied(rates),
      optax.scale_by_learning_rate(rate),
  )

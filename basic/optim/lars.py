"""Momentum whose layers move in proportion to their length."""

from collections.abc import Sequence
from typing import Any

import optax

from basic.optim import _chain, schedules


def lars(
    *,
    steps: int,
    peak: float = 1.,
    schedule: schedules.Shape = "cosine",
    warmup: int = 0,
    end: float = 0.,
    timescale: int = 10_000,
    momentum: float = .9,
    trust: float = 1e-3,
    decay: float = 1e-6,
    no_decay: Sequence[str] = _chain.NO_DECAY,
    clip: float | None = None,
    rates: Sequence[Sequence[Any]] = (),
    average: float | None = None,
) -> _chain.Optimizer:
  """Gives each layer a gradient of the same fraction of its own length.

      d  = g + decay W
      m <- momentum m + r k trust |W| / |d| d
      W <- W - m

  where the lengths are over one layer, also where a tower keeps its layers in
  one array, and a factor with a length of 0 in it is left out. The rate is
  inside the momentum, so a step taken at an earlier rate keeps it.

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`. The rates
      are large: `trust` comes on top.
    momentum: memory of the sum of steps, at least 0 and less than 1.
    trust: fraction of its length by which a layer moves at rate 1. Positive.
    decay: of weights into the gradient, before its length is fixed. Not
      negative.
    no_decay: patterns of the paths that do not decay; these take the gradient
      itself, without `trust`.
    clip, rates, average: as in `adamw`.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: as `adamw` does.

  References:
    You et al., Large Batch Training of Convolutional Networks, 2017, alg. 1.
    https://arxiv.org/abs/1708.03888
  """
  _chain.check_memory(momentum=momentum)
  _chain.check_positive(trust=trust)
  rate = schedules.schedule(
      name=schedule, peak=peak, steps=steps, warmup=warmup, end=end,
      timescale=timescale,
  )
  return _chain.optimizer(
      rate, average,
      _chain.clipped(clip),
      _chain.decayed(decay, no_decay),
      _chain.trusted(no_decay, trust),
      _chain.multiplied(rates),
      optax.scale_by_learning_rate(rate),
      optax.trace(momentum),
  )

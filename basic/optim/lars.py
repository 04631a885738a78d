"""LARS: momentum with a trust ratio for each layer."""

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
    trust_coefficient: float = 1e-3,
    decay: float = 1e-6,
    no_decay: Sequence[str] = _chain.NO_DECAY,
    clip: float | None = None,
    lr_multipliers: Sequence[Sequence[Any]] = (),
    ema_decay: float | None = None,
) -> _chain.Optimizer:
  """Scales the gradient of each layer to the norm of its weights.

  With g the gradient, r the learning rate and k its multiplier,

      d  = g + decay W
      m <- momentum m + r k trust_coefficient |W| / |d| d
      W <- W - m

  where the norms are over one layer, also where a tower stacks its layers in
  one array. The factor before d is r k where either norm is 0. The learning
  rate is inside the momentum: changing it does not rescale past gradients.

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`. Learning rates
      are large, since they are multiplied by `trust_coefficient`.
    momentum: decay rate of the accumulated gradients, at least 0 and less
      than 1.
    trust_coefficient: relative change of a layer in one step at learning rate
      1, without momentum. Positive.
    decay: weight decay; coupled, that is added to the gradient. Not negative.
    no_decay: patterns of the paths without weight decay; these have no trust
      ratio and no `trust_coefficient` either.
    clip, lr_multipliers, ema_decay: as in `adamw`.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: as `adamw` does.

  References:
    You et al., Large Batch Training of Convolutional Networks, 2017, alg. 1.
    https://arxiv.org/abs/1708.03888
  """
  _chain.check_decay_rates(momentum=momentum)
  _chain.check_positive(trust_coefficient=trust_coefficient)
  return _chain.optimizer(
      rate=schedules.schedule(peak, steps, schedule, warmup, end, timescale),
      clip=clip, decay=decay, no_decay=no_decay, lr_multipliers=lr_multipliers,
      ema_decay=ema_decay, trust_coefficient=trust_coefficient,
      last=[optax.trace(momentum)],
  )

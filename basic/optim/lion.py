"""Steps of one size: the sign of a momentum."""

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
    rates: Sequence[Sequence[Any]] = (),
    mu_dtype: Literal["float32", "bfloat16"] = "float32",
    average: float | None = None,
) -> _chain.Optimizer:
  """Steps by the sign of a momentum: one slot, and every weight moves alike.

      u  = sign(b1 m + (1 - b1) g)
      m <- b2 m + (1 - b2) g
      W <- W - r k (u + decay W)

  Its steps are larger than Adam's, so its rate is three to ten times smaller
  and its decay as many times larger.

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`.
    b1: weight of the momentum in the step, at least 0 and less than 1.
    b2: memory of the momentum, at least 0 and less than 1.
    decay, no_decay, clip, rates, mu_dtype, average: as in `adamw`.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: as `adamw` does.

  References:
    Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, alg. 2.
    https://arxiv.org/abs/2302.06675
  """
  _chain.check_memory(b1=b1, b2=b2)
  rate = schedules.schedule(
      name=schedule, peak=peak, steps=steps, warmup=warmup, end=end,
      timescale=timescale,
  )
  return _chain.optimizer(
      rate, average,
      _chain.clipped(clip),
      optax.scale_by_lion(b1, b2, mu_dtype=jnp.dtype(mu_dtype)),
      _chain.decayed(decay, no_decay),
      _chain.multiplied(rates),
      optax.scale_by_learning_rate(rate),
  )

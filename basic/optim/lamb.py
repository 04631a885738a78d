"""LAMB: Adam with a trust ratio for each layer."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import optax

from basic.optim import _chain, schedules


def lamb(
    *,
    steps: int,
    peak: float = 1e-3,
    schedule: schedules.Shape = "cosine",
    warmup: int = 0,
    end: float = 0.,
    timescale: int = 10_000,
    b1: float = .9,
    b2: float = .999,
    eps: float = 1e-6,
    decay: float = 1e-2,
    no_decay: Sequence[str] = _chain.NO_DECAY,
    clip: float | None = 1.,
    lr_multipliers: Sequence[Sequence[Any]] = (),
    mu_dtype: Literal["float32", "bfloat16"] = "float32",
    ema_decay: float | None = None,
) -> _chain.Optimizer:
  """Scales the update of each layer to the norm of its weights.

  With u as in `adamw`, r the learning rate and k its multiplier,

      d  = u + decay W
      W <- W - r k |W| / |d| d

  where the norms are over one layer, also where a tower stacks its layers in
  one array. The trust ratio |W| / |d| is 1 where either norm is 0. Designed for
  large batches: ALIGN was trained with it at 16,384.

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`. The learning
      rate is about the relative change of a layer in one step.
    b1, b2, eps: as in `adamw`.
    decay: as in `adamw`, but added before the trust ratio.
    no_decay: patterns of the paths without weight decay; these have no trust
      ratio either, so they are updated as by `adamw`.
    clip, lr_multipliers, mu_dtype, ema_decay: as in `adamw`.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: as `adamw` does.

  References:
    You et al., Large Batch Optimization for Deep Learning, 2019, alg. 2.
    https://arxiv.org/abs/1904.00962
  """
  _chain.check_decay_rates(b1=b1, b2=b2)
  _chain.check_positive(eps=eps)
  return _chain.optimizer(
      optax.scale_by_adam(b1, b2, eps, mu_dtype=jnp.dtype(mu_dtype)),
      rate=schedules.schedule(peak, steps, schedule, warmup, end, timescale),
      clip=clip, decay=decay, no_decay=no_decay, lr_multipliers=lr_multipliers,
      ema_decay=ema_decay, trust_coefficient=1.,
  )

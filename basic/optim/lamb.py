"""Adam whose layers move in proportion to their length."""

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
    rates: Sequence[Sequence[Any]] = (),
    mu_dtype: Literal["float32", "bfloat16"] = "float32",
    average: float | None = None,
) -> _chain.Optimizer:
  """Makes each layer step by the same fraction of its own length.

  With u the direction of `adamw`,

      d  = u + decay W
      W <- W - r k |W| / |d| d

  where the lengths are over one layer, also where a tower keeps its layers in
  one array. A layer of length 0 moves by d itself. Built for large batches:
  ALIGN was trained with it at 16,384.

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`. The rate is
      about the fraction of its length by which a layer moves.
    b1, b2, eps: as in `adamw`.
    decay: as in `adamw`, but inside the step whose length is fixed.
    no_decay: patterns of the paths that do not decay; these also move as in
      `adamw`, with no regard to their length.
    clip, rates, mu_dtype, average: as in `adamw`.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: as `adamw` does.

  References:
    You et al., Large Batch Optimization for Deep Learning, 2019, alg. 2.
    https://arxiv.org/abs/1904.00962
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
      _chain.trusted(no_decay),
      _chain.multiplied(rates),
      optax.scale_by_learning_rate(rate),
  )

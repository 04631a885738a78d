"""Learning rate schedules: a linear warm-up, then a shape."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

Rate: TypeAlias = Callable[[jax.typing.ArrayLike], Float32[Array, "..."]]
Shape: TypeAlias = Literal["cosine", "linear", "rsqrt", "constant"]


def schedule(
    peak: float,
    steps: int,
    name: Shape = "cosine",
    warmup: int = 0,
    end: float = 0.,
    timescale: int = 10_000,
) -> Rate:
  """Makes the learning rate a function of the step.

  With s the step, w the warm-up and p = clip((s - w) / (steps - w), 0, 1):

      rate(s) = peak s / w                                 s < w
      rate(s) = peak f(s)                                  s >= w
      cosine    f = end + (1 - end) (1 + cos(pi p)) / 2
      linear    f = end + (1 - end) (1 - p)
      rsqrt     f = max(end, sqrt(timescale / (timescale + s - w)))
      constant  f = 1

  With a warm-up the rate of step 0 is 0: that step only updates the moments.
  After the last step, cosine and linear stay at `peak * end`; rsqrt and
  constant continue.

  Args:
    peak: peak learning rate, reached at step `warmup`. Positive.
    steps: length of the schedule, in steps. Positive.
    name: its shape after the warm-up.
    warmup: length of the warm-up, in steps. If `steps` is shorter, as in a
      trial run, the rate rises to the last step and stays below the peak.
    end: learning rate at the last step, as a fraction of `peak`, 0 to 1. For
      rsqrt a lower bound; constant has none.
    timescale: steps after the warm-up until rsqrt has fallen by sqrt(2). Only
      rsqrt uses it.

  Returns:
    step -> rate, float32 of the shape of the step.

  Raises:
    ValueError: if a number is out of its range, or constant is given an end.

  Example:
    >>> rate = schedule(name="linear", peak=.5, steps=10, warmup=2)
    >>> [float(rate(step)) for step in (0, 1, 2, 6, 10, 11)]
    [0.0, 0.25, 0.5, 0.25, 0.0, 0.0]
  """
  _check(name, peak, steps, warmup, end, timescale)
  shape = {
      "cosine": lambda s, p: end + (1 - end) * (1 + jnp.cos(jnp.pi * p)) / 2,
      "linear": lambda s, p: end + (1 - end) * (1 - p),
      "rsqrt": lambda s, p: jnp.maximum(end, (1 + s / timescale) ** -.5),
      "constant": lambda s, p: jnp.ones_like(s),
  }[name]

  def rate(step: jax.typing.ArrayLike) -> Float32[Array, "..."]:
    step = jnp.asarray(step, jnp.float32)
    after_warmup = jnp.maximum(step - warmup, 0.)
    progress = jnp.minimum(after_warmup / max(steps - warmup, 1), 1.)
    rise = jnp.minimum(step / warmup, 1.) if warmup else 1.
    return peak * rise * shape(after_warmup, progress)

  return rate


def _check(name, peak, steps, warmup, end, timescale):
  """Refuses settings that describe no schedule."""
  if not peak > 0:
    raise ValueError(f"peak is {peak}; a learning rate is positive")
  if steps < 1:
    raise ValueError(f"steps is {steps}; a run has at least one step")
  if warmup < 0:
    raise ValueError(f"warmup is {warmup}; give a number of steps, from 0")
  if not 0 <= end <= 1:
    raise ValueError(f"end is {end}; give a fraction of the peak, 0 to 1")
  if name == "constant" and end:
    raise ValueError(
        f"end is {end}, but a constant learning rate has no end; leave it out, "
        "or choose cosine or linear"
    )
  if not timescale > 0:
    raise ValueError(f"timescale is {timescale}; give a positive number of steps")
  if name not in ("cosine", "linear", "rsqrt", "constant"):
    raise ValueError(
        f"there is no schedule {name!r}; choose cosine, linear, rsqrt or constant"
    )

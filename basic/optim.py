"""Turns gradients into updates (with step.py, the door to optax).

Every factory returns an `Optimizer`: the transformation, and its learning rate
as a function of the step so that it can be recorded. What decays, and at which
rate a part learns, is said by patterns on parameter paths (see paths.py).

Freezing is not said here: step.py splits the parameters first, so frozen ones
never reach an optimizer and have no slots. The optimizer's state repeats the
parameter paths, so the table that places a kernel places its moments too.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from basic import paths, schedules

# Gains, offsets, positions and the scalars of an objective: shrinking these
# does not make a function simpler, only another one.
NO_DECAY = ("(.*/)?(bias|scale)", "(.*/)?positions(/.*)?", "objective/.*")


class Optimizer(NamedTuple):
  """A transformation of gradients, and how fast it goes.

  Attributes:
    tx: the optax pair; its `update` needs the parameters.
    rate: step -> learning rate, float32. Step n is the update that `tx` makes
      after n others.
  """

  tx: optax.GradientTransformation
  rate: schedules.Rate


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
    no_decay: Sequence[str] = NO_DECAY,
    clip: float | None = 1.,
    rates: Sequence[Sequence[Any]] = (),
    mu_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Optimizer:
  """Steps by the mean gradient over its own root mean square.

  With g the gradient, clipped to a global norm, n = 1, 2, ..., r the rate of
  the step and k the multiplier of the path:

      m <- b1 m + (1 - b1) g
      v <- b2 v + (1 - b2) g^2
      u  = (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps)
      W <- W - r k (u + decay W)

  Args:
    steps: length of the run, in steps.
    peak: the highest rate.
    schedule: how the rate moves; `schedules.schedule` explains this, `warmup`,
      `end` and `timescale`.
    warmup: length of the rise, in steps.
    end: what is left of the rate at the last step, as a fraction of `peak`.
    timescale: of rsqrt, in steps.
    b1: memory of the mean, at least 0 and less than 1.
    b2: memory of the mean square, at least 0 and less than 1.
    eps: keeps the quotient finite; in units of the gradient. Positive.
    decay: fraction of a weight that a step at rate 1 takes away. Decoupled: it
      does not pass through the moments, nor is it clipped. Not negative.
    no_decay: patterns of the paths that do not decay.
    clip: largest global norm of the gradient; None leaves it as it is.
    rates: (pattern, multiplier) rows; the first pattern that matches a path
      multiplies its rate, decay included. A path that none matches keeps 1.
    mu_dtype: type in which m is kept; bfloat16 halves that slot. The update of
      m and the step are computed in float32.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: if a number is out of its range; and from `tx.init`, if a
      pattern of `rates`, or one of `no_decay` that is not a default, matches
      no parameter.

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
  _check_memory(b1=b1, b2=b2)
  if not eps > 0:
    raise ValueError(f"eps is {eps}; it keeps a quotient finite: above 0")
  direction = optax.scale_by_adam(b1, b2, eps, mu_dtype=jnp.dtype(mu_dtype))
  rate = _rate(schedule, peak, steps, warmup, end, timescale)
  return _optimizer(direction, rate, clip, decay, no_decay, rates)


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
    no_decay: Sequence[str] = NO_DECAY,
    clip: float | None = 1.,
    rates: Sequence[Sequence[Any]] = (),
    mu_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Optimizer:
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
    decay, no_decay, clip, rates, mu_dtype: as in `adamw`.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: as `adamw` does.

  References:
    Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, alg. 2.
    https://arxiv.org/abs/2302.06675
  """
  _check_memory(b1=b1, b2=b2)
  direction = optax.scale_by_lion(b1, b2, mu_dtype=jnp.dtype(mu_dtype))
  rate = _rate(schedule, peak, steps, warmup, end, timescale)
  return _optimizer(direction, rate, clip, decay, no_decay, rates)


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
    no_decay: Sequence[str] = NO_DECAY,
    clip: float | None = None,
    rates: Sequence[Sequence[Any]] = (),
) -> Optimizer:
  """Steps along the gradient, with momentum.

      m <- momentum m + g
      W <- W - r k (m + decay W)

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`.
    momentum: memory of the sum of gradients, at least 0 and less than 1.
    decay, no_decay, clip, rates: as in `adamw`; decoupled here too.

  Returns:
    An `Optimizer`.

  Raises:
    ValueError: as `adamw` does.
  """
  _check_memory(momentum=momentum)
  rate = _rate(schedule, peak, steps, warmup, end, timescale)
  return _optimizer(optax.trace(momentum), rate, clip, decay, no_decay, rates)


def _rate(name, peak, steps, warmup, end, timescale):
  return schedules.schedule(
      name=name, peak=peak, steps=steps, warmup=warmup, end=end,
      timescale=timescale,
  )


def _optimizer(direction, rate, clip, decay, no_decay, rates):
  """clip -> direction -> decay -> multipliers -> rate, as one chain."""
  if clip is not None and not clip > 0:
    raise ValueError(f"clip is {clip}; give a positive norm, or None not to clip")
  if not decay >= 0:
    raise ValueError(f"decay is {decay}; weights do not decay by less than 0")
  keep = optax.identity() if clip is None else optax.clip_by_global_norm(clip)
  return Optimizer(
      optax.chain(
          keep, direction, _decay(decay, no_decay), _multiply(rates),
          optax.scale_by_learning_rate(rate),
      ),
      rate,
  )


def _decay(decay, no_decay):
  """Adds `decay W` to the update of every path that no pattern exempts."""
  exempt = paths.any_of(no_decay)
  given = [pattern for pattern in no_decay if pattern not in NO_DECAY]

  def add(path, update, param):
    return update if exempt(path) else update + decay * param

  return _by_path(add, given, "no_decay")


def _multiply(rates):
  """Multiplies the update of a path by the first row that matches it."""
  for row in rates:
    if len(row) != 2 or not row[1] > 0:
      raise ValueError(
          f"rates holds {tuple(row)!r}; a row is (pattern, positive multiplier). "
          "To stop a part, freeze it"
      )
  rows = [(re.compile(pattern), multiplier) for pattern, multiplier in rates]

  def multiply(path, update, param):
    for pattern, multiplier in rows:
      if pattern.fullmatch(path):
        return update * multiplier
    return update

  return _by_path(multiply, [pattern for pattern, _ in rates], "rates")


def _by_path(
    function: Callable[[str, Any, Any], Any], patterns: Sequence[str], name: str
) -> optax.GradientTransformation:
  """update <- function(path, update, param), without a state of its own.

  `init` refuses patterns that match nothing: a misspelt one is otherwise silent.
  """

  def init(params):
    known = paths.flatten(params)
    for pattern in patterns:
      if not any(map(re.compile(pattern).fullmatch, known)):
        raise ValueError(
            f"the pattern {pattern!r} of {name} matches no trainable parameter; "
            "it must match a whole path, and frozen parameters are not among "
            f"them. Paths are: {', '.join(list(known)[:4])}, ..."
        )
    return optax.EmptyState()

  def update(updates, state, params=None):
    if params is None:
      raise ValueError(f"{name} needs parameters: call update(grads, state, params)")

    def apply(keys, update, param):
      path = jax.tree_util.keystr(keys, simple=True, separator="/")
      return function(path, update, param)

    return jax.tree_util.tree_map_with_path(apply, updates, params), state

  return optax.GradientTransformation(init, update)


def _check_memory(**memories):
  """Refuses moving averages that forget nothing, or more than all."""
  for name, memory in memories.items():
    if not 0 <= memory < 1:
      raise ValueError(f"{name} is {memory}; give at least 0 and less than 1")


__all__ = ["NO_DECAY", "Optimizer", "adamw", "lion", "sgd"]

"""AdamW whose second moment is a row and a column: BASIC's optimizer."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from basic import types
from basic.ops import precision
from basic.optim import _average, _chain, _contributions, _factored, schedules

Momentum: TypeAlias = Literal["gradient", "update"]
Accumulate: TypeAlias = Literal["before", "slots"]


def adafactorw(
    *,
    steps: int,
    peak: float = 1e-3,
    schedule: schedules.Shape = "cosine",
    warmup: int = 0,
    end: float = 0.,
    timescale: int = 10_000,
    b1: float = .9,
    b2: float = .999,
    growth: float | None = None,
    momentum: Momentum = "gradient",
    factor_from: int = 128,
    eps: float = 1e-30,
    clip_rms: float | None = None,
    decay: float = 1e-4,
    no_decay: Sequence[str] = _chain.NO_DECAY,
    clip: float | None = 1.,
    rates: Sequence[Sequence[Any]] = (),
    mu_dtype: Literal["float32", "bfloat16"] = "bfloat16",
    accumulate: Accumulate = "before",
    average: float | None = None,
) -> _chain.Optimizer:
  """Steps as AdamW does, in little more than the memory of the gradient's mean.

  With g the gradient [n m], clipped to a global norm, of step t = 1, 2, ...:

      R <- b2_t R + (1 - b2_t) mean_columns(g^2 + eps)        [n]
      C <- b2_t C + (1 - b2_t) mean_rows(g^2 + eps)           [m]
      V  = R C^T / mean(R)

      momentum = "gradient"            momentum = "update"
      m <- b1 m + (1 - b1) g           u  = min(1, clip_rms / RMS(u)) u,
      u  = m / (1 - b1^t) / sqrt(V)          u being g / sqrt(V)
      u <- min(1, clip_rms / RMS(u)) u m <- b1 m + (1 - b1) u,  u <- m

      W <- W - r k (u + decay W)

  The first is Adam's order; the second, without a correction of its start, is
  AdaFactor's. Neither scales steps by the weights, nor knows a rate of its own.
  A weight [n m] takes 2 n m + 4 (n + m) bytes of slots, for AdamW's 8 n m.

  Of a weight with more axes, the two largest are the rows and columns, and the
  others index matrices: layers of a stack always, heads and the places of a
  convolution where they are smaller. Where V is not factored, it is a slot of
  the weight's shape.

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`.
    b1: memory of the mean, at least 0 and less than 1.
    b2: memory of the mean square, at least 0 and less than 1; the most that
      it grows to.
    growth: b2_t = min(b2, 1 - t^-growth), .8 in AdaFactor. None: a memory of
      b2 with Adam's correction, b2_t = (b2 - b2^t) / (1 - b2^t).
    momentum: what m is the mean of.
    factor_from: size that both axes must have for V to be factored. At least
      1; one that no axis has gives AdamW, but for eps.
    eps: keeps V above 0; in units of the gradient squared. Positive.
    clip_rms: largest root mean square of a layer's update, 1 in AdaFactor;
      None does not limit it.
    decay, no_decay, clip, rates, average: as in `adamw`.
    mu_dtype: type in which m is kept. The step is computed in float32.
    accumulate: where chunks of a gradient are added up: "before" it comes here,
      or in the "slots", for the gradient `in_slots`: m is exact, R and C are
      estimates, and as large a slot under each keeps what they are lifted to
      (ops/slot_accumulation.py). For that, `clip` is None, `momentum`
      "gradient", and better `mu_dtype` float32, since bfloat16 is widened while
      chunks come.

  Returns:
    An `Optimizer`. R and C keep the axis that they are the mean over, of size
    1, so that they are placed like the weight.

  Raises:
    ValueError: as `adamw` does, and if `accumulate` is "slots" and `clip` or
      `momentum` needs the sum.

  References:
    Shazeer and Stern, Adafactor, 2018, alg. 4 and 5.
    https://arxiv.org/abs/1804.04235
    Zhai et al., Scaling Vision Transformers, 2021, section 3.4.
    https://arxiv.org/abs/2106.04560
    Pham et al., Combined Scaling for Zero-shot Transfer Learning, 2021.
    https://arxiv.org/abs/2111.10050

  Example:
    >>> tx, _ = adafactorw(steps=10)
    >>> state = tx.init({"kernel": jnp.ones((256, 512)), "bias": jnp.ones(512)})
    >>> [(x.shape, x.dtype.name) for x in jax.tree.leaves(state[1].nu.rows)]
    [((256, 1), 'float32')]
    >>> [x.dtype.name for x in jax.tree.leaves(state[1].mu)]
    ['bfloat16', 'bfloat16']
  """
  _chain.check_memory(b1=b1, b2=b2)
  _chain.check_positive(
      growth=growth, factor_from=factor_from, eps=eps, clip_rms=clip_rms
  )
  if accumulate == "slots" and (clip is not None or momentum != "gradient"):
    raise ValueError(
        f"accumulate is 'slots' with clip={clip} and momentum={momentum!r}, "
        "which need the whole gradient at once; set clip=None and "
        "momentum='gradient', or accumulate='before'"
    )
  rate = schedules.schedule(
      name=schedule, peak=peak, steps=steps, warmup=warmup, end=end,
      timescale=timescale,
  )
  return _chain.optimizer(
      rate, average,
      optax.identity() if accumulate == "slots" else _chain.clipped(clip),
      _direction(
          b1, b2, growth, momentum, factor_from, eps, clip_rms,
          jnp.dtype(mu_dtype), accumulate,
      ),
      _chain.decayed(decay, no_decay),
      _chain.multiplied(rates),
      optax.scale_by_learning_rate(rate),
  )


class State(NamedTuple):
  """Slots of `adafactorw`.

  Attributes:
    count: updates so far.
    mu: m, in the shapes of the weights.
    nu: R and C, or V.
    floors: least R and C, where chunks are added up in the slots; or ().
  """

  count: Any
  mu: Any
  nu: _factored.Second
  floors: Any = ()


def _direction(
    b1, b2, growth, momentum, least, eps, clip_rms, mu_dtype, accumulate
):
  """gradient -> u."""

  def init(params):
    mu = jax.tree.map(lambda p: jnp.zeros(p.shape, mu_dtype), params)
    return State(
        jnp.zeros((), jnp.int32), mu, _factored.zeros(params, least),
        _contributions.floors(params, least) if accumulate == "slots" else (),
    )

  def mean(old, new):
    return jax.tree.map(
        lambda m, x: b1 * m.astype(x.dtype) + (1 - b1) * x, old, new
    )

  def squared(old, grads, new):
    squares = jax.tree.map(lambda g: precision.at_least_float32(g) ** 2 + eps, grads)
    return jax.tree.map(
        lambda v, x: (1 - new).astype(x.dtype) * v + new.astype(x.dtype) * x,
        old, _factored.statistics(squares, least),
    )

  def in_slots(grads, state, new):
    """((m, second moment, floors), second moment to divide by)."""
    if not isinstance(grads, types.Contributions):
      grads = _contributions.whole(grads)
    found = _contributions.added(
        grads, _contributions.Moments(*state[1:]), b1=b1, new=new, eps=eps,
        least=least,
    )
    return found, _contributions.lifted(found)

  def update(grads, state, params=None):
    del params
    count = optax.safe_increment(state.count)
    new = _new(count, b2, growth)
    if accumulate == "slots":
      (mu, nu, floors), seen = in_slots(grads, state, new)
    else:
      nu, floors = squared(state.nu, grads, new), ()
      mu, seen = mean(state.mu, jax.tree.map(precision.at_least_float32, grads)), nu
    scale = _factored.inverse_root(seen, mu, least)
    if momentum == "gradient":
      corrected = optax.tree.bias_correction(mu, b1, count)
      updates = _limited(jax.tree.map(jnp.multiply, corrected, scale), clip_rms)
    else:
      normalised = jax.tree.map(
          lambda g, s: precision.at_least_float32(g) * s, grads, scale
      )
      updates = mu = mean(state.mu, _limited(normalised, clip_rms))
    mu = jax.tree.map(lambda m: m.astype(mu_dtype), mu)
    return updates, State(count, mu, nu, floors)

  return optax.GradientTransformation(init, update)


def _new(count, b2, growth):
  """1 - b2_t, the weight of the newest squares."""
  if growth is None:
    return _average.share(count, b2)
  return jnp.maximum(1 - b2, count.astype(float) ** -growth)


def _limited(updates, limit):
  """Scales layers down whose root mean square is beyond a limit."""
  if limit is None:
    return updates
  found, structure = _chain.leaves(updates)
  return structure.unflatten([
      u / jnp.maximum(1., _rms(path, u) / limit) for path, u in found.items()
  ])


def _rms(path, u):
  axes = _chain.layer_axes(path, u.ndim)
  return jnp.sqrt(jnp.mean(jnp.square(u), axes, keepdims=True))

"""AdaFactorW: AdamW with a factored second moment, BASIC's optimizer."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from basic import types
from basic.ops import precision
from basic.optim import _chain, _contributions, _ema, _factored, schedules

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
    min_dim_size_to_factor: int = 128,
    eps: float = 1e-30,
    clip_rms: float | None = None,
    decay: float = 1e-4,
    no_decay: Sequence[str] = _chain.NO_DECAY,
    clip: float | None = 1.,
    lr_multipliers: Sequence[Sequence[Any]] = (),
    mu_dtype: Literal["float32", "bfloat16"] = "bfloat16",
    accumulate: Accumulate = "before",
    ema_decay: float | None = None,
) -> _chain.Optimizer:
  """AdamW whose second moment is stored as row and column means.

  With g the gradient [n m], clipped to a global norm, t = 1, 2, ... the update,
  r the learning rate and k its multiplier:

      R <- b2_t R + (1 - b2_t) mean_columns(g^2 + eps)        [n]
      C <- b2_t C + (1 - b2_t) mean_rows(g^2 + eps)           [m]
      V  = R C^T / mean(R)

      momentum = "gradient"            momentum = "update"
      m <- b1 m + (1 - b1) g           u  = min(1, clip_rms / RMS(u)) u,
      u  = m / (1 - b1^t) / sqrt(V)          u being g / sqrt(V)
      u <- min(1, clip_rms / RMS(u)) u m <- b1 m + (1 - b1) u,  u <- m

      W <- W - r k (u + decay W)

  The first is Adam's order; the second, without bias correction, is AdaFactor's.
  Neither scales updates by the RMS of the weights, nor has a relative step size.
  The optimizer state of a weight [n m] takes 2 n m + 4 (n + m) bytes; AdamW's
  takes 8 n m.

  In a weight with more than two axes, the two largest are the rows and columns,
  and the others are batch axes: always the layers of a stack, and heads or
  kernel positions of a convolution where they are smaller. Where V is not
  factored, it is stored in the shape of the weight.

  Args:
    steps, peak, schedule, warmup, end, timescale: as in `adamw`.
    b1: decay rate of the first moment, at least 0 and less than 1.
    b2: decay rate of the second moment, at least 0 and less than 1; with
      `growth` its upper limit.
    growth: exponent of the decay rate b2_t = min(b2, 1 - t^-growth), .8 in
      AdaFactor (`decay_rate` in optax). None: decay rate b2 with Adam's bias
      correction, which is b2_t = (b2 - b2^t) / (1 - b2^t).
    momentum: what m averages, gradients or updates.
    min_dim_size_to_factor: size that both axes must have for V to be factored.
      At least 1. If no axis has it, this is AdamW, but for eps.
    eps: added to the squared gradient, in its units. Positive.
    clip_rms: largest root mean square of a layer's update, 1 in AdaFactor
      (`clipping_threshold` in optax); None does not clip it.
    decay, no_decay, clip, lr_multipliers, ema_decay: as in `adamw`.
    mu_dtype: dtype in which m is stored. Updates are computed in float32.
    accumulate: where the chunks of a gradient are added up: "before" the
      optimizer, or in its state, its "slots", for the gradient `in_slots`. Then
      m is exact; R and C are estimates, and arrays of the same sizes hold their
      lower bounds (ops/slot_accumulation.py). Needs `clip` None and `momentum`
      "gradient". `mu_dtype` should be float32, since a bfloat16 m is stored as
      float32 while chunks are added.

  Returns:
    An `Optimizer`. R and C keep the axis over which they are means, with size
    1, so that they are sharded like the weight.

  Raises:
    ValueError: as `adamw` does, and if `accumulate` is "slots" and `clip` or
      `momentum` needs the whole gradient.

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
  _chain.check_decay_rates(b1=b1, b2=b2)
  _chain.check_positive(
      growth=growth, min_dim_size_to_factor=min_dim_size_to_factor, eps=eps,
      clip_rms=clip_rms,
  )
  if accumulate == "slots" and (clip is not None or momentum != "gradient"):
    raise ValueError(
        f"accumulate is 'slots' with clip={clip} and momentum={momentum!r}, "
        "which need the whole gradient at once; set clip=None and "
        "momentum='gradient', or accumulate='before'"
    )
  return _chain.optimizer(
      _scale_by_factored_adam(
          b1, b2, growth, momentum, min_dim_size_to_factor, eps, clip_rms,
          jnp.dtype(mu_dtype), accumulate,
      ),
      rate=schedules.schedule(peak, steps, schedule, warmup, end, timescale),
      clip=clip, decay=decay, no_decay=no_decay, lr_multipliers=lr_multipliers,
      ema_decay=ema_decay, chunked=accumulate == "slots",
  )


class State(NamedTuple):
  """Optimizer state of `adafactorw`.

  Attributes:
    count: updates so far.
    mu: m, in the shapes of the weights.
    nu: R and C, or V.
    floors: lower bounds of R and C, where chunks are added up in this state;
      else ().
  """

  count: Any
  mu: Any
  nu: _factored.SecondMoment
  floors: Any = ()


def _scale_by_factored_adam(
    b1, b2, growth, momentum, least, eps, clip_rms, mu_dtype, accumulate
):
  """gradient -> u of the equations in `adafactorw`."""

  def init(params):
    mu = jax.tree.map(lambda p: jnp.zeros(p.shape, mu_dtype), params)
    return State(
        jnp.zeros((), jnp.int32), mu, _factored.zeros(params, least),
        _contributions.floors(params, least) if accumulate == "slots" else (),
    )

  def first_moment(old, new):
    return jax.tree.map(
        lambda m, x: b1 * m.astype(x.dtype) + (1 - b1) * x, old, new
    )

  def second_moment(old, grads, weight):
    squares = jax.tree.map(
        lambda g: precision.at_least_float32(g) ** 2 + eps, grads
    )
    return jax.tree.map(
        lambda v, x: (1 - weight).astype(x.dtype) * v + weight.astype(x.dtype) * x,
        old, _factored.statistics(squares, least),
    )

  def from_chunks(grads, state, weight):
    """((m, second moment, floors), second moment to divide by)."""
    if not isinstance(grads, types.Contributions):
      grads = _contributions.single(grads)
    moments = _contributions.accumulate(
        grads, _contributions.Moments(*state[1:]), b1=b1, weight=weight, eps=eps,
        least=least,
    )
    return moments, _contributions.clamped(moments)

  def update(updates, state, params=None):
    del params
    grads = updates
    count = optax.safe_increment(state.count)
    weight = _second_moment_weight(count, b2, growth)
    if accumulate == "slots":
      (mu, nu, floors), positive = from_chunks(grads, state, weight)
    else:
      nu, floors = second_moment(state.nu, grads, weight), ()
      mu = first_moment(state.mu, jax.tree.map(precision.at_least_float32, grads))
      positive = nu
    scale = _factored.inverse_root(positive, mu, least)
    if momentum == "gradient":
      corrected = optax.tree.bias_correction(mu, b1, count)
      updates = _clip_rms(jax.tree.map(jnp.multiply, corrected, scale), clip_rms)
    else:
      normalised = jax.tree.map(
          lambda g, s: precision.at_least_float32(g) * s, grads, scale
      )
      updates = mu = first_moment(state.mu, _clip_rms(normalised, clip_rms))
    mu = jax.tree.map(lambda m: m.astype(mu_dtype), mu)
    return updates, State(count, mu, nu, floors)

  return optax.GradientTransformation(init, update)


def _second_moment_weight(count, b2, growth):
  """1 - b2_t, the weight of the newest squares."""
  if growth is None:
    return _ema.newest_weight(count, b2)
  return jnp.maximum(1 - b2, count.astype(float) ** -growth)


def _clip_rms(updates, limit):
  """Scales down the layers whose root mean square exceeds a limit."""
  if limit is None:
    return updates
  by_path, structure = _chain.leaves(updates)
  return structure.unflatten([
      u / jnp.maximum(1., _rms(path, u) / limit) for path, u in by_path.items()
  ])


def _rms(path, u):
  axes = _chain.layer_axes(path, u.ndim)
  return jnp.sqrt(jnp.mean(jnp.square(u), axes, keepdims=True))

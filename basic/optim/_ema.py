"""An exponential moving average (EMA) of the parameters, for evaluations."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from basic import paths, types


class EmaState(NamedTuple):
  """State of `with_ema`.

  Attributes:
    count: updates so far.
    average: the EMA parameters; zeros before the first update.
    inner: the state of the optimizer itself.
  """

  count: Any
  average: Any
  inner: Any


def with_ema(
    tx: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
  """Adds an exponential moving average of the parameters to an optimizer.

  With W_1, ..., W_n the parameters after each update,

      A_n = sum_k decay^(n-k) W_k / sum_k decay^(n-k),

  which is bias-corrected: the initial parameters have no part in it, so it
  needs no warm-up of its own. Computed as

      A <- A + (W_n - A) (1 - decay) / (1 - decay^n).

  The updates of the optimizer are unchanged. The average is one more array for
  every trainable parameter, of its dtype and sharding; frozen parameters have
  none. Where a stage resets the optimizer state, the average starts anew.

  Args:
    tx: the optimizer.
    decay: decay rate, above 0 and less than 1; the average covers about the
      last 1 / (1 - decay) updates.

  Returns:
    An optimizer; `ema_params` reads the average from its state.

  Raises:
    ValueError: if `decay` is not between 0 and 1; and from `update`, if it is
      called without parameters.

  References:
    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging,
    1992. https://doi.org/10.1137/0330046
    Kingma and Ba, Adam, 2014, section 7.2. https://arxiv.org/abs/1412.6980
  """
  if not 0 < decay < 1:
    raise ValueError(
        f"ema_decay is {decay}; give a decay rate between 0 and 1, such as "
        ".9999, or None to keep no average"
    )

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return EmaState(jnp.zeros((), jnp.int32), zeros, tx.init(params))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError(
          "ema_decay needs parameters: call update(grads, state, params)"
      )
    updates, inner = tx.update(updates, state.inner, params)
    count = jnp.asarray(optax.safe_increment(state.count))
    weight = newest_weight(count, decay)
    average = jax.tree.map(
        lambda a, w: a + (w - a) * weight.astype(a.dtype),
        state.average, optax.apply_updates(params, updates),
    )
    return updates, EmaState(count, average, inner)

  return optax.GradientTransformation(init, update)


def newest_weight(count: Int[Array, ""], decay: float) -> Float[Array, ""]:
  """The weight of the newest term in a bias-corrected moving average.

      (1 - decay) / (1 - decay^count)

  A moving average that is updated with this weight needs no bias correction
  afterwards.

  Args:
    count: terms so far, the newest included; at least 1.
    decay: decay rate, at least 0 and less than 1.

  Returns:
    1 for the first term, falling towards 1 - decay.

  Example:
    >>> print([round(float(newest_weight(jnp.int32(n), .5)), 3)
    ...        for n in (1, 2, 3)])
    [1.0, 0.667, 0.571]
  """
  if not decay:
    return jnp.ones(())
  # In float32, .9999 and 1 - .9999^count have lost digits that matter here.
  return (decay - 1.) / jnp.expm1(count.astype(float) * math.log(decay))


def ema_params(opt_state: Any) -> types.Params | None:
  """The EMA parameters in an optimizer's state.

  Args:
    opt_state: of an optimizer of this package.

  Returns:
    A nested dict of the trainable parameters; None if no average is kept, or
    no update has been made yet.
  """
  if not isinstance(opt_state, EmaState) or not int(opt_state.count):
    return None
  return opt_state.average


def evaluation_params(state: types.TrainState) -> types.Params:
  """The parameters that evaluations use: the EMA parameters, if kept.

  Args:
    state: of a run, between two steps.

  Returns:
    A tree like `state.params`. Frozen parameters have no average and are taken
    from `state.params`; so is every parameter of a run without an average.
  """
  average = ema_params(state.opt_state)
  if average is None:
    return state.params
  averages = paths.flatten(average)

  def pick(keys, leaf):
    path = paths.of_keys(keys)
    return averages.get(path, leaf)

  return jax.tree_util.tree_map_with_path(pick, state.params)

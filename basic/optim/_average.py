"""Keeps an average of the weights along the way, for evaluations to use."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from basic import paths, types


class AverageState(NamedTuple):
  """Attributes:
    count: updates so far.
    average: of the weights after each; zeros before the first.
    inner: the state of the optimizer itself.
  """

  count: Any
  average: Any
  inner: Any


def with_average(
    tx: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
  """Adds an exponential moving average of weights to an optimizer.

  With W_1, ..., W_n the weights after each update,

      A_n = sum_k decay^(n-k) W_k / sum_k decay^(n-k),

  a weighted mean from the first update on: where training began has no part
  in it, so it needs no warm-up of its own. Kept as

      A <- A + (W_n - A) (1 - decay) / (1 - decay^n).

  What the optimizer does is left as it is. One slot more, placed like the
  weights and of their type; frozen ones have none. An optimizer that starts
  anew, as at a stage that changes it, starts its average anew.

  Args:
    tx: the optimizer.
    decay: memory, above 0 and less than 1; the mean reaches back about
      1 / (1 - decay) updates.

  Returns:
    An optimizer whose state `averaged` reads.

  Raises:
    ValueError: if `decay` is not between 0 and 1, and, from `update`, if that
      is not given parameters.

  References:
    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging,
    1992. https://doi.org/10.1137/0330046
    Kingma and Ba, Adam, 2014, section 7.2. https://arxiv.org/abs/1412.6980
  """
  if not 0 < decay < 1:
    raise ValueError(
        f"average is {decay}; give a memory between 0 and 1, .9999 say, or None "
        "to keep no average"
    )

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return AverageState(jnp.zeros((), jnp.int32), zeros, tx.init(params))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError(
          "average needs parameters: call update(grads, state, params)"
      )
    updates, inner = tx.update(updates, state.inner, params)
    count = optax.safe_increment(state.count)
    part = share(count, decay)
    average = jax.tree.map(
        lambda a, w: a + (w - a) * part.astype(a.dtype),
        state.average, optax.apply_updates(params, updates),
    )
    return updates, AverageState(count, average, inner)

  return optax.GradientTransformation(init, update)


def share(count: Int[Array, ""], memory: float) -> Float[Array, ""]:
  """The weight of the newest of `count` terms in a mean that forgets.

      (1 - memory) / (1 - memory^count)

  Mixed in with it, a moving average never needs Adam's correction.

  Args:
    count: terms so far, the newest included; at least 1.
    memory: at least 0 and less than 1.

  Returns:
    1 for the first term, and 1 - memory in the end.

  Example:
    >>> print([round(float(share(jnp.int32(n), .5)), 3) for n in (1, 2, 3)])
    [1.0, 0.667, 0.571]
  """
  if not memory:
    return jnp.ones(())
  # In float32, .9999 and 1 - .9999^count have lost digits that matter here.
  return (memory - 1.) / jnp.expm1(count.astype(float) * math.log(memory))


def averaged(opt_state: Any) -> types.Params | None:
  """The averages in an optimizer's state.

  Args:
    opt_state: of an optimizer of this package.

  Returns:
    A nested dict of the trainable parameters; None if there is no average, or
    no update has been made yet.
  """
  if not isinstance(opt_state, AverageState) or not int(opt_state.count):
    return None
  return opt_state.average


def judged(state: types.TrainState) -> types.Params:
  """The parameters that an evaluation sees: averages where there are any.

  Args:
    state: of a run, between two steps.

  Returns:
    A tree like `state.params`. What is frozen, and every parameter of a run
    without averages, is as it is there.
  """
  average = averaged(state.opt_state)
  if average is None:
    return state.params
  known = paths.flatten(average)

  def pick(keys, leaf):
    return known.get(paths.of_keys(keys), leaf)

  return jax.tree_util.tree_map_with_path(pick, state.params)

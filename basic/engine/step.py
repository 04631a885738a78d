"""One training step, and the state before the first one."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from basic import paths, types


def fresh(
    model: types.Model,
    objective: types.Objective,
    tx: optax.GradientTransformation,
    *,
    frozen: Iterable[str] = (),
) -> Callable[[jax.Array, types.Batch], types.TrainState]:
  """Initialises the state of step 0.

  Args:
    model: its parameters are below the names of its towers.
    objective: its parameters are below "objective".
    tx: the optimizer; its state is for trainable parameters only.
    frozen: patterns of parameter paths that do not train.

  Returns:
    (key, batch or its ShapeDtypeStructs) -> TrainState. Pure, so that it can be
    initialised sharded: `jit(fresh, out_shardings=...)`. It raises ValueError if
    a pattern matches no parameter.
  """
  frozen = tuple(frozen)

  def init(rng, batch):
    model_key, objective_key, step_key = jax.random.split(rng, 3)
    params = model.init(model_key, batch)
    # The objective is initialised from shapes, so nothing is encoded.
    rows = {k: jnp.zeros(v.shape, v.dtype) for k, v in batch.items()}
    embedded = jax.eval_shape(model.encode, params, rows)
    phi, memory = objective.init(objective_key, embedded)
    params = dict(sorted({**params, "objective": phi}.items()))
    paths.check_patterns("frozen", frozen, list(paths.flatten(params)))
    trainable, _ = paths.split(params, frozen)
    return types.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(trainable),
        memory=memory,
        rng=step_key,
    )

  return init


def update(
    gradient: types.Gradient,
    tx: optax.GradientTransformation,
    *,
    frozen: Iterable[str] = (),
) -> Callable[
    [types.TrainState, types.Batch], tuple[types.TrainState, types.Metrics]
]:
  """Takes one step down the gradient.

  Args:
    gradient: (params, memory, batch, rng) -> loss and gradients.
    tx: the optimizer that `fresh` was given.
    frozen: the patterns that `fresh` was given; these parameters do not change
      by a bit.

  Returns:
    (state, batch) -> (state, metrics). Metrics: `loss` in nats per row,
    `gradient_norm` before clipping (unless the gradient is `Contributions`), and
    those of the objective.
  """
  frozen = tuple(frozen)

  def step(state, batch):
    rng = jax.random.fold_in(state.rng, state.step)
    (value, (memory, metrics)), grads = gradient(
        state.params, state.memory, batch, rng
    )
    trainable, constant = paths.split(state.params, frozen)
    updates, opt_state = tx.update(grads, state.opt_state, trainable)
    moved: Any = optax.apply_updates(trainable, updates)
    params = paths.merge(moved, constant)
    norm = {}  # Unknown if the optimizer sums the gradient.
    if not isinstance(grads, types.Contributions):
      norm = {"gradient_norm": optax.global_norm(grads)}
    metrics = {"loss": value, **norm, **metrics}
    return types.TrainState(
        state.step + 1, params, opt_state, memory, state.rng
    ), metrics

  return step

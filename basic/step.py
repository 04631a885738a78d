"""One training step, and the state before the first: pure functions."""

from collections.abc import Callable, Iterable

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
  """Makes the state of step 0.

  Args:
    model: towers; their parameters come under their names.
    objective: its parameters come under "objective".
    tx: the optimizer; it has slots for trainable parameters only.
    frozen: patterns of parameter paths that do not train.

  Returns:
    (key, batch or its ShapeDtypeStructs) -> TrainState. Pure, so that it can
    be placed: `jit(fresh, out_shardings=...)`.
  """
  frozen = tuple(frozen)

  def init(rng, batch):
    of_model, of_objective, of_steps = jax.random.split(rng, 3)
    params = model.init(of_model, batch)
    # Shapes alone: the objective is initialised without encoding anything.
    rows = {k: jnp.zeros(v.shape, v.dtype) for k, v in batch.items()}
    embedded = jax.eval_shape(model.encode, params, rows)
    phi, memory = objective.init(of_objective, embedded)
    params = dict(sorted({**params, "objective": phi}.items()))
    trainable, _ = paths.split(params, frozen)
    return types.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(trainable),
        memory=memory,
        rng=of_steps,
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
    frozen: the patterns that `fresh` was given; such parameters stay the same
      bit for bit.

  Returns:
    (state, batch) -> (state, metrics). Metrics: `loss` in nats per row,
    `gradient_norm` before clipping, and those of the objective.
  """
  frozen = tuple(frozen)

  def step(state, batch):
    rng = jax.random.fold_in(state.rng, state.step)
    (value, (memory, metrics)), grads = gradient(
        state.params, state.memory, batch, rng
    )
    trainable, constant = paths.split(state.params, frozen)
    updates, opt_state = tx.update(grads, state.opt_state, trainable)
    params = paths.merge(optax.apply_updates(trainable, updates), constant)
    metrics = {
        "loss": value,
        "gradient_norm": optax.global_norm(grads),
        **metrics,
    }
    return types.TrainState(
        state.step + 1, params, opt_state, memory, state.rng
    ), metrics

  return step


def carry(
    old: types.TrainState, new: types.TrainState, *, optimizer: bool
) -> types.TrainState:
  """Begins a stage with what the stage before it learned.

  Args:
    old: the last state of the stage before.
    new: a fresh state of this stage.
    optimizer: whether the optimizer's slots go on, which needs the same
      trainable parameters; otherwise they start at zero.

  Returns:
    `new` with the step, key and every parameter of `old` whose path and shape
    it shares; the memory of the objective where its shapes are the same.
  """
  known = paths.flatten(old.params)

  def keep(path, leaf):
    before = known.get(path)
    return leaf if before is None or before.shape != leaf.shape else before

  def shapes(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

  same_memory = shapes(old.memory) == shapes(new.memory)
  return types.TrainState(
      old.step,
      paths.map_paths(keep, new.params),
      old.opt_state if optimizer else new.opt_state,
      old.memory if same_memory else new.memory,
      old.rng,
  )

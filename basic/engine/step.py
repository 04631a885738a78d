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
    be placed: `jit(fresh, out_shardings=...)`. It raises ValueError if a
    pattern matches no parameter.
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
    _check_frozen(frozen, params)
    trainable, _ = paths.split(params, frozen)
    return types.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(trainable),
        memory=memory,
        rng=of_steps,
    )

  return init


def _check_frozen(frozen, params):
  """Refuses patterns that freeze nothing: a misspelt one is otherwise silent."""
  known = paths.flatten(params)
  for pattern in frozen:
    if not any(map(paths.any_of((pattern,)), known)):
      raise ValueError(
          f"the pattern {pattern!r} of frozen matches no parameter; it must "
          f"match a whole path, such as {', '.join(list(known)[:4])}, ..."
      )


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
    `gradient_norm` before clipping (not of a gradient that comes chunk by
    chunk), and those of the objective.
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
    norm = {}  # Of a gradient that nobody has added up, unknown.
    if not isinstance(grads, types.Contributions):
      norm = {"gradient_norm": optax.global_norm(grads)}
    metrics = {"loss": value, **norm, **metrics}
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
    optimizer: whether the optimizer's counts and slots go on, which needs the
      same optimizer; otherwise they start at zero.

  Returns:
    `new` with the step, key and every parameter of `old` whose path and shape
    it shares, and likewise every slot; the memory of the objective where its
    shapes are the same.
  """

  def keep(before, after):
    known = {
        path: leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(before)
    }

    def kept(path, leaf):
      found = known.get(path, leaf)
      return found if found.shape == leaf.shape else leaf

    return jax.tree_util.tree_map_with_path(kept, after)

  def shapes(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

  same_memory = shapes(old.memory) == shapes(new.memory)
  return types.TrainState(
      old.step,
      keep(old.params, new.params),
      keep(old.opt_state, new.opt_state) if optimizer else new.opt_state,
      old.memory if same_memory else new.memory,
      old.rng,
  )

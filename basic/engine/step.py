"""One training step, the state before the first, and the one between stages."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from basic import paths, types
from basic.ops import learned_positions


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
    _check_patterns("frozen", frozen, list(paths.flatten(params)))
    trainable, _ = paths.split(params, frozen)
    return types.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(trainable),
        memory=memory,
        rng=step_key,
    )

  return init


def _check_patterns(setting, patterns, known):
  """Refuses patterns that match nothing, or a misspelt one would go unnoticed."""
  for pattern in patterns:
    if not any(map(paths.any_of((pattern,)), known)):
      raise ValueError(
          f"the pattern {pattern!r} of {setting} matches no parameter; it must "
          f"match a whole path, such as {', '.join(known[:4])}, ..."
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


def carry(
    old: types.TrainState,
    new: types.TrainState,
    *,
    optimizer: bool,
    fresh: Iterable[str] = (),
) -> types.TrainState:
  """Begins a stage with what the stage before it learned.

  The rules of what goes on are those of `check_carry`, which this checks again.

  Args:
    old: the last state of the stage before.
    new: a freshly initialised state of this stage.
    optimizer: whether the optimizer state goes on, which needs the same
      optimizer; otherwise moments, counts and EMA parameters start anew.
    fresh: patterns of paths of parameters, and of memory, that start anew.

  Returns:
    `new` with the step, the key, and every parameter of `old` that it has.
    Learned positions of another size are resized, and so are their moments and
    their EMA: the EMA of a resized parameter is its resized EMA.

  Raises:
    ValueError: as `check_carry`.
  """
  fresh = tuple(fresh)
  check_carry(old, new, fresh=fresh)
  starts_anew = paths.any_of(fresh)
  parameters = paths.flatten(new.params)

  def keep(before, after):
    known = _by_path(before)

    def kept(path, leaf):
      path = paths.of_keys(path)
      found = known.get(path)
      # The path of a moment ends in the path of its parameter.
      owner = next((end for end in _endings(path) if end in parameters), path)
      if path == f"average/{owner}":
        # The EMA of a new parameter is the parameter: it begins at zeros only
        # before the first update, where its decay is corrected for. A copy,
        # since a step donates the buffers of both.
        leaf = jnp.copy(parameters[owner])
      if found is None or starts_anew(owner):
        return leaf
      if found.shape == leaf.shape:
        return found
      if learned_positions.fits(path, found.shape, leaf.shape):
        resize = functools.partial(learned_positions.resize, path)
        return jax.jit(resize, out_shardings=leaf.sharding)(found, leaf)
      return leaf

    return jax.tree_util.tree_map_with_path(kept, after)

  same_memory = _shapes(old.memory) == _shapes(new.memory)
  anew = any(starts_anew(path) for path in _memory_paths(new))
  return types.TrainState(
      old.step,
      keep(old.params, new.params),
      keep(old.opt_state, new.opt_state) if optimizer else new.opt_state,
      old.memory if same_memory and not anew else new.memory,
      old.rng,
  )


def check_carry(
    old: types.TrainState,
    new: types.TrainState,
    *,
    fresh: Iterable[str] = (),
) -> None:
  """Refuses a change of stage that would lose what was learned.

  A parameter goes on if the new stage has one of the same path and shape, or if
  it holds learned positions, which are resized. Towers, projections and
  objectives may come and go. But a parameter of another shape, and a parameter
  that only one of two encoders of the same tower has, would be lost, and so
  would the memory of the same objective in another shape: these have to match a
  pattern of `fresh`.

  Args:
    old: state of the stage before, or its shapes.
    new: state of the next stage, or its shapes.
    fresh: patterns of paths of parameters, and of memory ("memory/queue"), that
      start anew; of parameters that the next stage no longer has, too.

  Raises:
    ValueError: if something would be lost, with the list of all of it; if a
      pattern matches nothing.
  """
  fresh = tuple(fresh)
  before, after = paths.flatten(old.params), paths.flatten(new.params)
  _check_patterns(
      "fresh", fresh,
      [*after, *_memory_paths(new), *(p for p in before if p not in after)],
  )
  starts_anew = paths.any_of(fresh)
  lost = [
      *_other_shapes(before, after, _same_objective(old, new)),
      *_other_encoders(before, after),
  ]
  if _same_objective(old, new):
    memory, known = _by_path(old.memory), _by_path(new.memory)
    lost += [
        (f"memory{path and '/'}{path}", _change(leaf, known[path]))
        for path, leaf in memory.items() if leaf.shape != known[path].shape
    ]
  if lost := [(path, why) for path, why in lost if not starts_anew(path)]:
    shown = [f"{path}: {why}" for path, why in lost[:20]]
    more = [f"and {len(lost) - 20} more"] if len(lost) > 20 else []
    raise ValueError("\n  ".join([
        "this stage cannot go on with what the stage before it learned:",
        *shown, *more,
        "Keep the settings that these shapes depend on, or let them start anew: "
        f"fresh=({lost[0][0]!r},) in the stage, patterns of paths.",
    ]))


def _other_shapes(before, after, same_objective):
  """(path, change) of what has another shape and cannot be resized."""
  return [
      (path, _change(before[path], leaf)) for path, leaf in after.items()
      if path in before and before[path].shape != leaf.shape
      and not learned_positions.fits(path, before[path].shape, leaf.shape)
      # Parameters of another objective mean something else.
      and (same_objective or not path.startswith("objective/"))
  ]


def _other_encoders(before, after):
  """(path, change) of what one of two encoders of a tower has alone."""
  both = {p.split("/")[0] for p in before} & {p.split("/")[0] for p in after}
  return [
      (path, f"only {where} has it")
      for where, own, others in (
          ("the stage before", before, after), ("this stage", after, before)
      )
      for path in own
      if path not in others and path.split("/")[0] in both
      and path.split("/")[1:2] == ["encoder"]
  ]


def _same_objective(old, new):
  """Whether both have the same paths, of parameters and of memory."""
  def names(state):
    params = paths.flatten(state.params.get("objective", {}))
    return set(params), set(_by_path(state.memory))

  return names(old) == names(new)


def _change(before, after):
  return f"{list(before.shape)} before, {list(after.shape)} in this stage"


def _by_path(tree):
  return {
      paths.of_keys(path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _memory_paths(state):
  return [f"memory{path and '/'}{path}" for path in _by_path(state.memory)]


def _endings(path):
  """a/b/c, b/c, c."""
  parts = path.split("/")
  return ["/".join(parts[n:]) for n in range(len(parts))]


def _shapes(tree):
  return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

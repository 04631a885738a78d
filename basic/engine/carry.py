"""From one stage to the next: what carries over, and what may not be lost."""

import functools
import logging
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from basic import paths, types
from basic.ops import learned_positions

_log = logging.getLogger(__name__)


def carry(
    old: types.TrainState,
    new: types.TrainState,
    *,
    optimizer: bool,
    fresh: Iterable[str] = (),
) -> types.TrainState:
  """Begins a stage with what the stage before it learned.

  The rules of what goes on are those of `check`, which this checks again.

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
    ValueError: as `check`.
  """
  fresh = tuple(fresh)
  check(old, new, fresh=fresh)
  starts_anew = paths.any_of(fresh)
  parameters = paths.flatten(new.params)

  def keep(before, after):
    known = _by_path(before)

    def kept(path, leaf):
      path = paths.of_keys(path)
      found = known.get(path)
      owner = _owner(path, parameters)
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
  if optimizer and (reset := _reset(old, new, starts_anew)):
    _log.warning(
        "this stage's optimizer state for these parameters has another shape "
        "and starts anew: %s", ", ".join(reset),
    )
  return types.TrainState(
      old.step,
      keep(old.params, new.params),
      keep(old.opt_state, new.opt_state) if optimizer else new.opt_state,
      old.memory if same_memory and not anew else new.memory,
      old.rng,
  )


def _reset(old, new, starts_anew):
  """Paths of the optimizer state that parameters which go on lose.

  A factored second moment has other paths than a full one.
  """
  learned, parameters = paths.flatten(old.params), paths.flatten(new.params)
  before, after = _by_path(old.opt_state), _by_path(new.opt_state)
  return [
      path for path in after
      if _goes_on(owner := _owner(path, parameters), learned, parameters)
      and not starts_anew(owner) and not _goes_on(path, before, after)
  ]


def _owner(path, parameters):
  """The parameter of a moment, whose path ends in that of the parameter."""
  return next((end for end in _endings(path) if end in parameters), path)


def _goes_on(path, before, after):
  """Whether an array continues, as it is or resized."""
  return path in before and path in after and (
      before[path].shape == after[path].shape
      or learned_positions.fits(path, before[path].shape, after[path].shape)
  )


def check(
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
  paths.check_patterns(
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

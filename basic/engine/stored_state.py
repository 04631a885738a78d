"""Reads the state of a run, or part of it, from one checkpoint.

With checkpoint.py, which writes it, the door to Orbax. What is read is compared
with the digests that were saved with it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from basic import paths, types
from basic.engine import checksums, together

# (step, shapes by path) -> shardings by the same paths
Place = Callable[[int, Mapping[str, jax.ShapeDtypeStruct]], Mapping[str, Any]]
_log = logging.getLogger(__name__)


class Part(NamedTuple):
  """Some arrays of a checkpoint.

  Attributes:
    leaves: arrays by path.
    step: of the checkpoint.
    position: in the data of the run, as JSON data.
    digest: of the arrays, as they were saved (engine/checksums.py).
  """

  leaves: dict[str, jax.Array]
  step: int
  position: dict[str, Any]
  digest: dict[str, Any]


def whole(
    manager: ocp.CheckpointManager, step: int, like: types.TrainState
) -> tuple[types.TrainState, dict[str, Any]]:
  """Reads the whole state of a step.

  Args:
    manager: of the folder of checkpoints.
    step: the step.
    like: arrays or ShapeDtypeStructs, with the shardings wanted.

  Returns:
    (state, position in the data).

  Raises:
    ValueError: if the state is of another model.
    together.BrokenError: if it is damaged.
  """
  position, table = _integrity(manager, step)
  wanted = leaves(like)
  unlike = checksums.difference(table, wanted)
  if unlike:
    raise ValueError(
        f"checkpoint {step} is of another model or optimizer: {unlike}. Resume "
        "with the configuration that wrote it, or in an empty directory"
    )
  tree = paths.unflatten({path: _placed(path, x) for path, x in wanted.items()})
  found = paths.flatten(together.together(
      lambda: _item(manager, step, state=ocp.args.StandardRestore(tree))))
  unlike = checksums.difference(table, found)
  if unlike:
    raise together.BrokenError(f"what was read is not what is recorded: {unlike}")
  _compare(step, found, table)
  flat = [found[path] for path in wanted]
  return jax.tree.unflatten(jax.tree.structure(like), flat), position


def part(
    manager: ocp.CheckpointManager,
    step: int,
    place: Place,
    groups: Sequence[str],
) -> Part:
  """Reads some arrays of a step; neither model nor optimizer need be known.

  Args:
    manager: of the folder of checkpoints.
    step: the step.
    place: where arrays of these shapes shall lie.
    groups: the beginnings of the paths to read, such as "params".

  Raises:
    together.BrokenError: if they are damaged.
  """
  position, table = _integrity(manager, step)
  shapes = {
      path: jax.ShapeDtypeStruct(tuple(row["shape"]), row["dtype"])
      for path, row in table.items()
      if any(path == group or path.startswith(f"{group}/") for group in groups)
  }
  shardings = place(step, shapes)
  tree = paths.unflatten({
      path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings[path])
      for path, x in shapes.items()
  })
  found = paths.flatten(together.together(lambda: _partial(manager, step, tree)))
  digest = {path: table[path] for path in shapes}
  _compare(step, found, digest)
  return Part({path: found[path] for path in shapes}, step, position, digest)


def leaves(tree: Any) -> dict[str, Any]:
  """Leaves by path: "opt_state/1/mu/image/stem/kernel"."""
  return {
      paths.of_keys(keys): leaf
      for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def _integrity(manager, step):
  """(position, digest of the arrays) of one step."""
  return together.together(lambda: checksums.unseal(
      _item(manager, step, integrity=ocp.args.JsonRestore())))


def _partial(manager, step, tree):
  """The arrays of a tree; others are not read."""
  arguments = ocp.args.PyTreeRestore(
      item=tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
      partial_restore=True,
  )
  with ocp.PyTreeCheckpointer() as reader:
    return reader.restore(manager.directory / str(step) / "state", args=arguments)


def _compare(step, found, table):
  """Raises `BrokenError` if arrays are not what was saved."""
  wrong, skipped = checksums.compare(found, table)
  if skipped:
    _log.warning(
        "Checkpoint %d: %d pieces lie across processes as they are placed now, "
        "and were not compared with their digests", step, skipped)
  if wrong:
    raise together.BrokenError(
        f"{len(wrong)} arrays are not what was saved, first {wrong[0]}")


def _item(manager, step, **item):
  """The content of one item of a step."""
  restored = manager.restore(step, args=ocp.args.Composite(**item))
  (name,) = item
  return restored[name]


def _placed(path, leaf):
  """The shape, dtype and sharding with which an array is restored."""
  if getattr(leaf, "sharding", None) is None:
    raise ValueError(
        f"{path} does not say where it shall lie; give arrays, or "
        "ShapeDtypeStructs with a sharding"
    )
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

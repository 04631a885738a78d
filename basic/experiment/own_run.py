"""Begins a run from the weights of another run of this library."""

import dataclasses
import logging
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax

from basic import optim, paths, types
from basic.engine import carry, stored_state
from basic.experiment import build, input_pipeline, pretrained, restore, towers

# Settings of towers that change neither shapes nor, without noise, embeddings
# beyond rounding; and sizes, which shapes are compared for.
_MAY_DIFFER = (
    "variant", "widths", "head", "split", "lookup", "dtype", "remat",
    "keep_tokens", "dropout", "stochastic_depth", "drop_patches",
)
_WHOLE = ("params", "opt_state", "memory")
_log = logging.getLogger(__name__)


def begin(
    state: types.TrainState, config: Mapping[str, Any], step: int | None
) -> tuple[types.TrainState, dict[str, Any]]:
  """The state at step 0 of a run that begins from another one.

  The parameters are those that the other run evaluates with: its moving average,
  if it keeps one. With `weights.optimizer` they are those that it trained, and the
  moments of its optimizer, its moving average and the memory of its objective go
  on with them, wherever they have the shape that they have here; what starts anew
  is logged. The step, the learning rate schedule, the random key and the position
  in the data are always new. What is of another objective starts anew.

  Args:
    state: randomly initialised state of the first stage.
    config: complete configuration of that stage.
    step: the checkpoint of the other run; None: its newest.

  Returns:
    (state, origin): `path`, `step` and `fingerprint` of the weights, the last one
    as that of `towers.of_run`.

  Raises:
    FileNotFoundError: if the folder is not that of a run, or holds no such
      checkpoint.
    ValueError: if the weights are for other towers, with a list of all
      differences; or if its optimizer is asked for, and is another one.
  """
  initial = config["weights"]
  folder = pathlib.Path(initial["path"])
  whole = restore.configuration(folder)
  groups = _WHOLE if initial["optimizer"] else towers.EVALUATED
  words = input_pipeline.fingerprint(folder)
  with restore.reading(folder, whole) as checkpoints:
    part = checkpoints.parameters(_placement(state), step, groups)
  restore.check_vocabulary(checkpoints.directory, part.step, part.position, words)
  theirs = towers.stage_at(build.stage_configs(whole), part.step)
  origin = {
      "path": os.fspath(initial["path"]), "step": part.step,
      "fingerprint": towers.fingerprint(theirs, towers.facts(part, words)),
  }
  begun = _going_on if initial["optimizer"] else _from_towers
  return begun(state, config, theirs, part.leaves), origin


def _from_towers(state, config, theirs, leaves):
  """Parameters for evaluation, with an optimizer that starts anew."""
  found = _fitting(state, config, theirs, towers.evaluated(leaves))
  return dataclasses.replace(
      state, params=pretrained.loaded(state, config, found))


def _going_on(state, config, theirs, leaves):
  """Trained parameters, optimizer state and memory."""
  before, now = (each["optimizer"]["name"] for each in (theirs, config))
  where = config["weights"]["path"]
  if before != now:
    raise ValueError(
        f"weights.optimizer is True, and {where} was trained with {before!r}, this "
        f"run with {now!r}, which has other moments: set optimizer.name={before!r}, "
        "or leave weights.optimizer out."
    )
  tree = paths.unflatten(leaves)
  found = _fitting(state, config, theirs, tree["params"])
  ours = paths.flatten(state.params)
  old = dataclasses.replace(
      state, params=paths.unflatten(found), opt_state=tree.get("opt_state", {}),
      memory=tree.get("memory", state.memory),
  )
  carried = carry.carry(
      old, state, optimizer=True,
      fresh=[re.escape(path) for path in sorted(ours.keys() - found.keys())],
  )
  return dataclasses.replace(
      carried, params=pretrained.loaded(state, config, found),
      opt_state=optim.with_schedule_of(carried.opt_state, state.opt_state),
  )


def _fitting(state, config, theirs, params) -> dict[str, Any]:
  """The selected parameters by path, after all checks."""
  initial = config["weights"]
  found = pretrained.selected(params, initial)
  before, now = (each["objective"]["name"] for each in (theirs, config))
  others = [path for path in found if path.startswith("objective/")]
  if others and before != now:
    _log.warning(
        "%s was trained with the objective %s, and this run has %s: %s start anew",
        initial["path"], before, now, others,
    )
    found = {path: leaf for path, leaf in found.items() if path not in others}
  pretrained.check(state, config, _needed(theirs), found)
  return found


def _needed(theirs) -> dict[str, Any]:
  """The settings of towers that their weights need."""
  return {
      "augment": theirs["augment"],
      **{
          tower: {
              key: value for key, value in (theirs[tower] or {}).items()
              if key not in _MAY_DIFFER
          }
          for tower in ("image", "text")
      },
  }


def _placement(state):
  """Where arrays of a checkpoint shall lie: as ours, or in full on every device."""
  ours = stored_state.leaves(state)

  def place(step: int, shapes: Mapping[str, jax.ShapeDtypeStruct]):
    del step
    return {
        path: ours[path].sharding
        if path in ours and ours[path].shape == leaf.shape
        else ours["step"].sharding
        for path, leaf in shapes.items()
    }

  return place

"""The state that training begins with, or goes on from."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from basic import types
from basic.data import position as data_position
from basic.engine import checkpoint
from basic.experiment import (
    build,
    input_pipeline,
    manual,
    own_run,
    pretrained,
    restore,
)

_log = logging.getLogger(__name__)


class Start(NamedTuple):
  """Where training begins, or goes on.

  Attributes:
    state: of the run.
    position: in the data; empty at the start of a run.
    origin: the run whose weights this one began from, as run.json records it:
      `path`, `step` and `fingerprint`; None for every other beginning.
  """

  state: types.TrainState
  position: dict[str, Any]
  origin: dict[str, Any] | None = None


def resume(
    stages: list[build.Stage],
    checkpoints: checkpoint.Checkpoints,
    origin: Mapping[str, Any] | None = None,
) -> Start:
  """The newest intact checkpoint, or the initial state of the first stage.

  Args:
    stages: all stages of the run.
    checkpoints: checkpoints of the run.
    origin: recorded by an earlier start, which may have ended before the first
      checkpoint: the run then begins from the same step of the same run.

  Raises:
    ValueError: if no checkpoint is intact, the data or the vocabulary have
      changed, or pretrained weights are for other towers.
    FileNotFoundError: if there are no such weights.
  """
  for name in _without_fingerprint(stages):
    _log.warning(
        "the source %s has no `fingerprint`: if its examples change while their "
        "number stays the same, a resumed run will not notice.", name,
    )
  if checkpoints.latest() is None:
    return _first(stages[0], origin)
  state, position = restore.read(stages, checkpoints)
  stage = restore.at(stages, int(state.step))
  data_position.check(
      position, stage.source, stage.config["seed"],
      **input_pipeline.order(stage.config),
  )
  return Start(state, position)


def _first(stage, origin) -> Start:
  """The state before the first step."""
  state, weights = stage.program.fresh(), stage.config["weights"]
  if weights is None or weights["name"] != manual.OWN:
    return Start(pretrained.begin(state, stage.config), {})
  step = weights["step"] if origin is None else origin["step"]
  state, found = own_run.begin(state, stage.config, step)
  return Start(state, {}, found)


def _without_fingerprint(stages) -> list[str]:
  """The names of the stages' sources that have no fingerprint, each once."""
  return list(dict.fromkeys(
      str(stage.config["source"]["name"]) for stage in stages
      if getattr(stage.source, "fingerprint", None) is None
  ))

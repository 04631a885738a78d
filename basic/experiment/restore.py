"""A run's state from its folder: to go on with it, or to look at it."""

import os
import pathlib
from typing import Any

from basic import types
from basic.data import pipeline
from basic.engine import checkpoint
from basic.experiment import build, pretrained, settings
from basic.recording import manifest

FOLDER = "checkpoints"


class NoCheckpoint(FileNotFoundError):
  """A run that has not saved anything yet."""


def resume(
    stages: list[build.Stage], checkpoints: checkpoint.Checkpoints
) -> tuple[types.TrainState, dict[str, Any]]:
  """The newest whole checkpoint, or the first state of the first stage.

  Args:
    stages: of the run.
    checkpoints: of the run.

  Returns:
    (state, where the data stands); no position where nothing has been seen.

  Raises:
    ValueError: if no checkpoint is whole, or the data is not what it was.
  """
  if checkpoints.latest() is None:
    return pretrained.begin(stages[0].program.fresh(), stages[0].config), {}
  state, position = read(stages, checkpoints)
  stage = at(stages, int(state.step))
  pipeline.check_position(position, stage.source, stage.config["seed"])
  return state, position


def read(
    stages: list[build.Stage],
    checkpoints: checkpoint.Checkpoints,
    step: int | None = None,
) -> tuple[types.TrainState, dict[str, Any]]:
  """One step, or the newest that is whole, of whichever stage took it."""
  return checkpoints.restore(lambda n: at(stages, n).program.state(), step)


def at(stages: list[build.Stage], step: int) -> build.Stage:
  """The stage that took a step; one at a boundary ended its stage."""
  return next((s for s in stages if step <= s.end), stages[-1])


def load(
    workdir: str | os.PathLike, step: int | None = None
) -> tuple[build.Stage, types.TrainState]:
  """Opens a run that was trained, or is still training, to read.

  Args:
    workdir: folder of the run.
    step: the checkpoint to read; None: the newest whole one.

  Returns:
    (the stage that took the step, its state).

  Raises:
    FileNotFoundError: if the folder is not that of a run, or does not hold
      the step; `NoCheckpoint` if it holds none.
  """
  folder = pathlib.Path(workdir).absolute()
  stored = manifest.load(folder / "config.json")
  if stored is None:
    raise FileNotFoundError(
        f"{workdir} holds no config.json, so it is not the folder of a run; "
        "give the --workdir that the training was given."
    )
  # JSON has lists where settings have tuples; and a setting may be newer, or may
  # have had another name when the run began.
  stored, _ = settings.renewed(stored)
  known = settings.complete(stored)
  stages = build.run(known, folder)
  with checkpoint.Checkpoints(folder / FOLDER, every=None) as checkpoints:
    if checkpoints.latest() is None:
      raise NoCheckpoint(
          f"{workdir} holds no checkpoint yet; one is saved every "
          f"{stages[0].config['checkpoint']['every']} steps."
      )
    with stages[0].program.layout.context():
      state, _ = read(stages, checkpoints, step)
  return at(stages, int(state.step)), state

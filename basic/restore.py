"""A run's state from its folder: to go on with it, or to look at it."""

import json
import os
import pathlib
from typing import Any

import jax

from basic import build, checkpoint, types

FOLDER = "checkpoints"


def resume(
    stages: list[build.Stage], checkpoints: checkpoint.Checkpoints
) -> tuple[types.TrainState, dict[str, Any]]:
  """The newest whole checkpoint, or the first state of the first stage.

  Args:
    stages: of the run.
    checkpoints: of the run.

  Returns:
    (state, where the data stands); no position where nothing has been seen.
  """
  latest = checkpoints.latest()
  if latest is None:
    return stages[0].fresh(), {}
  return checkpoints.restore(abstract(at(stages, latest)))


def at(stages: list[build.Stage], step: int) -> build.Stage:
  """The stage that took a step; one at a boundary ended its stage."""
  return next((s for s in stages if step <= s.end), stages[-1])


def abstract(stage: build.Stage) -> types.TrainState:
  """Shapes and shardings of a stage's state, nothing allocated."""
  shapes = jax.eval_shape(stage.fresh)
  return jax.tree.map(
      lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
      shapes, stage.layout.place(shapes),
  )


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
    FileNotFoundError: if the folder is not that of a run, or holds no
      checkpoint.
  """
  folder = pathlib.Path(workdir).absolute()
  config = folder / "config.json"
  if not config.exists():
    raise FileNotFoundError(
        f"{workdir} holds no config.json, so it is not the folder of a run; "
        "give the --workdir that the training was given."
    )
  stages = build.run(json.loads(config.read_text()), folder)
  with checkpoint.Checkpoints(folder / FOLDER, every=None) as checkpoints:
    latest = checkpoints.latest() if step is None else step
    if latest is None:
      raise FileNotFoundError(f"{workdir} holds no checkpoint yet.")
    stage = at(stages, latest)
    with stage.layout.context():
      return stage, checkpoints.restore(abstract(stage), step)[0]

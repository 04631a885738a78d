"""Restores a run's state from its folder."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from basic import types
from basic.data import tokenizer, vocabulary
from basic.engine import checkpoint
from basic.experiment import build, settings
from basic.recording import manifest

FOLDER = "checkpoints"


class NoCheckpoint(FileNotFoundError):
  """The run has not saved a checkpoint yet."""


def read(
    stages: list[build.Stage],
    checkpoints: checkpoint.Checkpoints,
    step: int | None = None,
) -> tuple[types.TrainState, dict[str, Any]]:
  """(state, position) at a step, or at the newest intact checkpoint.

  Raises:
    ValueError: if it was saved with another vocabulary.
  """
  state, position = checkpoints.restore(
      lambda n: at(stages, n).program.state(), step)
  check_vocabulary(
      checkpoints.directory, int(state.step), position, stages[0].vocabulary
  )
  return state, position


def check_vocabulary(
    directory: str | os.PathLike,
    step: int,
    position: Mapping[str, Any],
    now: str | None,
) -> None:
  """Rejects a vocabulary that is not that of the checkpoint.

  Args:
    directory: of the checkpoints, in the folder of the run.
    step: of the checkpoint.
    position: that was saved with it.
    now: the fingerprint of the vocabulary in the folder.

  Raises:
    ValueError: if it was saved with another vocabulary.
  """
  # Older checkpoints do not say which vocabulary they were saved with.
  if position.get("vocabulary", now) != now:
    raise ValueError(
        f"the vocabulary in {pathlib.Path(directory).parent} is not the one that "
        f"checkpoint {step} was saved with: the file "
        f"{tokenizer.FILE} or {vocabulary.FILE}, or the {vocabulary.SETTINGS} "
        "beside it, is damaged or was replaced, and words would have other ids. "
        "Restore the files that the run began with."
    )


def at(stages: list[build.Stage], step: int) -> build.Stage:
  """The stage that a step belongs to; a boundary belongs to the earlier stage."""
  return next((s for s in stages if step <= s.end), stages[-1])


def load(
    workdir: str | os.PathLike, step: int | None = None
) -> tuple[build.Stage, types.TrainState]:
  """Opens a finished or running run read-only.

  Args:
    workdir: folder of the run.
    step: the checkpoint to read; None: the newest intact one.

  Returns:
    (the stage that the step belongs to, the state).

  Raises:
    FileNotFoundError: if the folder is not that of a run, or does not hold
      the step, or its vocabulary is missing; `NoCheckpoint` if it holds no
      checkpoint.
    ValueError: if its vocabulary is damaged, or is not that of the checkpoint.
  """
  folder = pathlib.Path(workdir).absolute()
  config = configuration(folder)
  stages = build.run(config, folder)
  with reading(folder, config) as checkpoints:
    with stages[0].program.layout.context():
      state, _ = read(stages, checkpoints, step)
  return at(stages, int(state.step)), state


def configuration(workdir: str | os.PathLike) -> dict[str, Any]:
  """The complete configuration of a run, as this version reads it.

  Args:
    workdir: folder of the run.

  Raises:
    FileNotFoundError: if the folder is not that of a run.
    ValueError: if this version rejects its settings.
  """
  stored = manifest.load(pathlib.Path(workdir) / "config.json")
  if stored is None:
    raise FileNotFoundError(
        f"{os.fspath(workdir)} holds no config.json, so it is not the folder of a "
        "run; give the --workdir that the training was given."
    )
  # JSON has lists in place of tuples; and settings may have been added or renamed
  # since the run began.
  stored, _ = settings.renewed(stored)
  return settings.complete(stored)


@contextlib.contextmanager
def reading(
    workdir: str | os.PathLike, config: settings.Settings
) -> Iterator[checkpoint.Checkpoints]:
  """Opens the checkpoints of a run for reading, also while it is training.

  Args:
    workdir: folder of the run.
    config: its complete configuration.

  Raises:
    NoCheckpoint: if it holds no checkpoint.
  """
  folder = pathlib.Path(workdir).absolute() / FOLDER
  with checkpoint.Checkpoints(folder, every=None) as checkpoints:
    if checkpoints.latest() is None:
      raise NoCheckpoint(
          f"{os.fspath(workdir)} holds no checkpoint yet; one is saved every "
          f"{config['checkpoint']['every']} steps."
      )
    yield checkpoints

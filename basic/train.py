"""python -m basic.train --config configs/digits.py --workdir runs/digits

Trains what a configuration says, resumes where a killed run stopped, and ends
with its results and a report. Running the same command again resumes.
"""

import math
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from basic import (
    build,
    checkpoint,
    layout,
    pipeline,
    record,
    report,
    restore,
    settings,
    step,
    types,
)
from basic.recording import manifest

# Steps in flight at most: keeps the devices busy without queueing batches.
AHEAD = 20


def train(config: Mapping[str, Any], workdir: str | os.PathLike) -> pathlib.Path:
  """Trains, evaluates, records and reports one experiment.

  Args:
    config: settings of `settings.experiment`, as a nested mapping.
    workdir: folder of the run; a run that is there goes on.

  Returns:
    The path of the report.

  Raises:
    ValueError: if a setting is wrong, settings do not fit each other, or the
      folder holds another configuration.
    FloatingPointError: if the loss is not finite; the newest checkpoint is
      from before.
  """
  config = settings.complete(config)
  manifest.begin(workdir, config, command=sys.argv)
  stages = build.run(config, workdir)
  with (
      stages[0].layout.context(),
      checkpoint.Checkpoints(
          pathlib.Path(workdir).absolute() / restore.FOLDER,
          **config["checkpoint"],
      ) as checkpoints,
  ):
    state, position = restore.resume(stages, checkpoints)
    with record.Recorder(
        workdir, total=stages[-1].end, batch_size=stages[0].batch_size,
        start=int(state.step), tensorboard=config["record"]["tensorboard"],
        wandb=config["record"]["wandb"],
    ) as recorder:
      for stage in stages:
        if int(state.step) < stage.end:
          state, position = _run(
              stage, enter(stage, state), position, recorder, checkpoints,
              config["record"]["every"],
          )
      results = _evaluate(stages[-1], state, recorder, final=True)
      recorder.show(results)
  page = report.write(workdir, report.samples(stages[-1], state.params))
  print(f"report: {page}")
  return page


def enter(stage: build.Stage, state: types.TrainState) -> types.TrainState:
  """The state with which a stage goes on: its own, or its predecessor's."""
  if stage.start == 0 or int(state.step) > stage.start:
    return state
  return step.carry(
      state, stage.fresh(), optimizer=stage.rate_start < stage.start
  )


def _run(stage, state, position, recorder, checkpoints, every):
  """Steps from where the state stands to the end of its stage."""
  start = pipeline.check_position(
      position, stage.source, stage.config["seed"]
  ) if position else 0
  flight = _Flight(stage, recorder, every)
  first = int(state.step)
  with stage.stream(start) as stream:
    for n in range(first + 1, stage.end + 1):
      state, metrics = stage.update(state, stage.layout.shard(next(stream)))
      flight.add(n, metrics, stream)
      recorder.progress(n)
      # Evaluating comes before saving, and both see the new parameters.
      if _due(stage, n):
        flight.land(checkpoints)
        _evaluate(stage, state, recorder)
      if checkpoints.due(n) or n == stage.end:
        flight.land(checkpoints)  # A state that is not finite is never saved.
        recorder.sync()
        position = pipeline.position_record(stream)
        checkpoints.save(n, state, position, force=True)
      elif flight.full():
        flight.land(checkpoints)
  return state, position


class _Flight:
  """Metrics of steps that were dispatched and not yet read."""

  def __init__(self, stage, recorder, every):
    self._stage, self._recorder, self._every = stage, recorder, every
    self._steps: list[tuple[int, Any]] = []
    self._stream: Any = None

  def add(self, n: int, metrics: Any, stream: pipeline.Stream) -> None:
    self._steps.append((n, metrics))
    self._stream = stream

  def full(self) -> bool:
    return len(self._steps) >= AHEAD

  def land(self, checkpoints: checkpoint.Checkpoints) -> None:
    """Waits for the steps, checks that they are finite and records them."""
    if not self._steps:
      return
    found = jax.device_get(self._steps)
    newest = found[-1][0]
    rate = self._recorder.rate()
    for n, metrics in found:
      if not math.isfinite(metrics["loss"] + metrics["gradient_norm"]):
        self._recorder.write(n, metrics)
        raise FloatingPointError(self._not_finite(n, newest, metrics, checkpoints))
      if n % self._every == 0 or n == self._stage.end:
        self._recorder.write(n, {
            **metrics,
            "learning_rate": self._stage.rate(n - 1 - self._stage.rate_start),
            "examples_seen": self._stream.position
            - (newest - n) * self._stage.batch_size,
        })
    if rate:
      unreadable = {
          f"data/unreadable/{reason}": count
          for reason, count in self._stream.unreadable.items()
      }
      self._recorder.write(
          newest, {"throughput/examples_per_second": rate, **unreadable}
      )
    self._steps = []

  def _not_finite(self, n, newest, metrics, checkpoints):
    size = self._stage.batch_size
    stop = self._stream.position - (newest - n) * size
    ids = self._stream.ids(stop - size, stop).tolist()
    shown = ", ".join(map(str, ids[:64])) + (", ..." if len(ids) > 64 else "")
    good = checkpoints.latest()
    return (
        f"step {n}: loss is {metrics['loss']} and the gradient's norm "
        f"{metrics['gradient_norm']}; training stopped. The batch held the "
        f"examples {shown}. The last good checkpoint is "
        f"{'none' if good is None else f'that of step {good}'}; to go on from "
        "it, lower the rate or clip the gradient, in a new workdir."
    )


def _due(stage, n):
  return any(e.every and n % e.every == 0 for e in stage.evals) and n < stage.end


def _evaluate(stage, state, recorder, final=False):
  """Runs what is due, or everything at the end; records and returns it."""
  n, found = int(state.step), {}
  for evaluation in stage.evals:
    if final or (evaluation.every and n % evaluation.every == 0):
      metrics = evaluation.run(state.params)
      recorder.write(n, metrics, prefix=evaluation.prefix)
      found.update({evaluation.prefix + k: v for k, v in metrics.items()})
  recorder.rate()  # The time this took is not training's.
  return found


def main(arguments: list[str]) -> None:
  del arguments
  logging.set_verbosity(logging.WARNING)  # Orbax and JAX narrate at INFO.
  if flags.FLAGS.distributed:
    layout.join()
  try:
    train(flags.FLAGS.config.to_dict(), flags.FLAGS.workdir)
  except (ValueError, FloatingPointError) as error:
    sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "Experiment to run.")
  flags.DEFINE_string("workdir", None, "Folder of the run.")
  flags.DEFINE_bool("distributed", False, "Join the cluster's processes first.")
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main)

"""python -m basic.train --config configs/digits.py --workdir runs/digits

Trains what a configuration says, resumes where a killed run stopped, and ends
with its results and a report. Running the same command again resumes.

SIGTERM and Ctrl-C end it after the step that is under way, with everything
saved (cli.py says with which exit status).
"""

import os
import pathlib
import sys
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from absl import app, flags
from ml_collections import config_flags

from basic import cli, optim, types
from basic.data import pipeline
from basic.engine import checkpoint, step
from basic.experiment import build, restore, settings
from basic.pages import report
from basic.recording import in_flight, manifest, recorder
from basic.sharding import layout


def train(config: Mapping[str, Any], workdir: str | os.PathLike) -> pathlib.Path:
  """Trains, evaluates, records and reports one experiment.

  Args:
    config: settings of `settings.experiment`, as a nested mapping.
    workdir: folder of the run; a run that is there goes on.

  Returns:
    The path of the report.

  Raises:
    ValueError: if a setting is wrong, settings do not fit each other, or the
      folder holds another configuration; nothing is overwritten.
    FloatingPointError: if a loss or a parameter is not finite; the newest
      checkpoint is from before.
    exits.Stopped: after SIGTERM or Ctrl-C.
  """
  config = settings.complete(config)
  manifest.check(workdir, config)
  stages = build.run(config, workdir)
  if not (pathlib.Path(workdir) / "config.json").exists():
    build.check_stages(stages)  # Of a new run: others have passed boundaries.
  with stages[0].layout.context():
    for stage in stages:
      rehearse(stage)
    manifest.begin(workdir, config, command=sys.argv)
    state = _train(stages, config, workdir)
    return report.write(workdir, report.samples(stages[-1], optim.judged(state)))


def rehearse(stage: build.Stage) -> None:
  """Traces a step, so that what does not fit is said before anything is made.

  Nothing is traced twice: the first step finds this trace.

  Args:
    stage: of the run.

  Raises:
    ValueError: if chunks do not divide the batch, say.
  """
  batch = stage.layout.sharded(stage.batch)
  jax.eval_shape(stage.update, restore.abstract(stage), batch)


def enter(stage: build.Stage, state: types.TrainState) -> types.TrainState:
  """The state with which a stage goes on: its own, or its predecessor's."""
  if stage.start == 0 or int(state.step) > stage.start:
    return state
  return step.carry(
      state, stage.fresh(), optimizer=stage.rate_start < stage.start,
      fresh=stage.starts_anew,
  )


class _Run(NamedTuple):
  """What the stages of a run share; `asked` names the signals that came."""

  checkpoints: checkpoint.Checkpoints
  record: recorder.Recorder
  asked: list[str]
  end: int


def _train(stages, config, workdir):
  """All stages, from the newest checkpoint on; returns the last state."""
  folder, end = pathlib.Path(workdir).absolute(), stages[-1].end
  with checkpoint.Checkpoints(
      folder / restore.FOLDER, **config["checkpoint"]
  ) as checkpoints:
    state, position = restore.resume(stages, checkpoints)
    with recorder.Recorder(
        workdir, total=end, batch_size=stages[0].batch_size,
        start=int(state.step), tensorboard=config["record"]["tensorboard"],
        wandb=config["record"]["wandb"],
    ) as record:
      with cli.requests() as asked:
        run = _Run(checkpoints, record, asked, end)
        for stage in stages:
          if int(state.step) < stage.end:
            state, position = _stage(run, stage, enter(stage, state), position)
      # A run that had ended is judged again, and not written down again.
      known = {k for row in recorder.read(workdir) if row["step"] == end for k in row}
      record.show(_judge(stages[-1].evals, end, state, record, known))
  return state


def _stage(run, stage, state, position):
  """Steps from where the state stands to the end of its stage."""
  run.record.resize(stage.batch_size)
  stage.store(state.params)
  first = int(state.step) + 1
  with stage.stream(position.get("examples_seen", 0)) as stream:
    flying = in_flight.Flight(
        end=stage.end, every=stage.config["record"]["every"],
        batch_size=stage.batch_size,
        rate=lambda n: stage.rate(n - 1 - stage.rate_start),
        stream=stream, record=run.record, good=run.checkpoints.latest,
        unreadable=position.get("unreadable", {}),
    )
    if first == 1 and stage.config["weights"] is not None:
      position = _save(run, flying, 0, state, stream)  # For `interpolate`.
    for n in range(first, stage.end + 1):
      state, metrics = stage.update(state, stage.layout.shard(next(stream)))
      flying.add(n, metrics)
      run.record.progress(n)
      stop = bool(run.asked) and n < run.end
      # Evaluating comes before saving, and both see the new parameters.
      if due := _due(stage, n, run.end):
        flying.land()
        _judge(due, n, state, run.record)
      if run.checkpoints.due(n) or n == stage.end or stop:
        position = _save(run, flying, n, state, stream)
      elif flying.full():
        flying.land()
      if stop:
        raise cli.Stopped(
            f"{run.asked[0]}: stopped after step {n} of {run.end} and saved "
            "it; the same command goes on from there."
        )
  return state, position


def _save(run, flying, n, state, stream):
  """Weights and data position together; returns the position."""
  flying.land()
  flying.check(n, state.params)  # A state that is not finite is never saved.
  run.record.sync()
  position = pipeline.position_record(stream)
  position["unreadable"] = flying.unreadable()
  run.checkpoints.save(n, state, position, force=True)
  return position


def _due(stage, n, end):
  """The evaluations after step n; the last step has all of them anyway."""
  return [e for e in stage.evals if e.every and n % e.every == 0 and n < end]


def _judge(evaluations, n, state, record, known=frozenset()):
  """Evaluates, records what the record does not know, and returns it all."""
  found = {}
  for evaluation in evaluations:
    metrics = {
        evaluation.prefix + name: value
        for name, value in evaluation.run(optim.judged(state)).items()
    }
    if unknown := {k: x for k, x in metrics.items() if k not in known}:
      record.write(n, unknown)
    found |= metrics
  record.rate()  # The time this took is not training's.
  return found


def _parse(arguments: list[str]) -> list[str]:
  """Reads the command line; a setting that is not there gets a sentence."""
  try:
    return app.parse_flags_with_usage(arguments)
  except (AttributeError, KeyError, ValueError, OSError) as error:
    origin = traceback.extract_tb(error.__traceback__)[-1].filename
    if "ml_collections" not in origin:
      raise  # The configuration's own mistake, which a traceback shows best.
    said = error
    while isinstance(said, BaseException) and said.args:  # One in another.
      said = said.args[0]
    sys.exit(
        f"--config cannot be set so: {' '.join(str(said).split())} (Only what "
        "the file names can be set on the command line.)"
    )


def main(arguments: list[str]) -> None:
  """Trains, and prints where the report is."""
  del arguments
  with cli.sentences():
    if flags.FLAGS.distributed:
      layout.join()
    page = train(flags.FLAGS.config.to_dict(), flags.FLAGS.workdir)
  if jax.process_index() == 0:
    print(f"report: {page}")


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "Experiment to run.")
  flags.DEFINE_string("workdir", None, "Folder of the run.")
  flags.DEFINE_bool("distributed", False, "Join the cluster's processes first.")
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=_parse)

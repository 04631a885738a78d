"""python -m basic.train --config configs/digits.py --workdir runs/digits

Trains an experiment and writes its results and a report. The same command
resumes a run that was stopped or killed. --config.NAME=VALUE sets any setting of
the manual, whether or not the file mentions it (experiment/overrides.py).

SIGTERM and Ctrl-C stop it after the current step, with everything saved (cli.py
lists the exit statuses).
"""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from basic import cli, files, optim, types
from basic.data import damage
from basic.data import position as data_position
from basic.engine import (
    carry,
    checkpoint,
    checksums,
    compilation_cache,
    exchange,
)
from basic.experiment import (
    build,
    configuration,
    overrides,
    restore,
    sanity,
    settings,
)
from basic.interface import programs, training
from basic.pages import report
from basic.recording import in_flight, lock, manifest, quarantine, recorder
from basic.sharding import layout

Config = Mapping[str, Any] | ml_collections.ConfigDict


def train(config: Config, workdir: str | os.PathLike) -> pathlib.Path:
  """Trains, evaluates, records and reports one experiment.

  Args:
    config: settings of `manual.experiment`, as a nested mapping or a
      ConfigDict.
    workdir: folder of the run; an existing run is resumed.

  Returns:
    The path of the report.

  Raises:
    ValueError: if a setting is wrong, settings do not fit each other, or the
      folder holds another configuration; nothing is overwritten.
    lock.InUseError: if another process trains in the folder.
    FloatingPointError: if a loss or a parameter is not finite; the newest
      checkpoint is from before.
    cli.DamagedData: if too many examples cannot be read, or a read hangs.
    cli.Stopped: after SIGTERM or Ctrl-C.
  """
  given, folder = sanity.plain(config), files.checked("--workdir", workdir)
  config = settings.complete(given)
  with _owned(folder):
    manifest.check(folder, config, upgrade=settings.upgraded)
    begun = (folder / "config.json").exists()
    if not begun:  # A run that has begun may go on with settings refused today.
      sanity.check(given, config)
    stages = build.run(config, folder)
    if not begun:
      build.check_stages(stages)
    with stages[0].program.layout.context():
      for stage in stages:
        rehearse(stage)
      state = _train(stages, config, folder)
      params = optim.evaluation_params(state)
      return report.write(folder, report.samples(stages[-1], params))


@contextlib.contextmanager
def _owned(folder: pathlib.Path) -> Iterator[None]:
  """Locks the folder; the first process does so for all processes of a run."""
  with contextlib.ExitStack() as stack:
    refusal = None
    if jax.process_index() == 0:
      try:
        stack.enter_context(lock.hold(folder))
      except (lock.InUseError, OSError) as error:
        refusal = error
    if checksums.total([int(refusal is not None)])[0]:
      raise refusal or lock.InUseError(
          f"{folder}: the first process of this run could not lock the folder; "
          "see its error message."
      )
    yield


def rehearse(stage: build.Stage) -> None:
  """Traces a step and rehearses the evaluations, so that errors come early.

  The step is only traced, and the evaluations run on a few examples with zeros
  for embeddings. Nothing is traced twice: the first step and the first
  evaluation reuse these traces.

  Args:
    stage: of the run.

  Raises:
    ValueError: if chunks do not divide the batch, say, or an evaluation's
      source has no captions.
  """
  program = stage.program
  state = program.state()
  jax.eval_shape(program.update, state, program.layout.sharded(program.batch))
  for evaluation in stage.evals:
    evaluation.rehearse(state.params)


def enter(stage: build.Stage, state: types.TrainState) -> types.TrainState:
  """The state that a stage continues from: its own, or what carries over."""
  if stage.start == 0 or int(state.step) > stage.start:
    return state
  return carry.carry(
      state, stage.program.fresh(), optimizer=stage.rate_start < stage.start,
      fresh=stage.starts_anew,
  )


class _Run(NamedTuple):
  """What the stages of a run share; `signals` lists those received."""

  checkpoints: checkpoint.Checkpoints
  record: recorder.Recorder
  unreadable: quarantine.Quarantine
  signals: list[str]
  end: int


def _train(stages, config, folder):
  """All stages, from the newest checkpoint on; returns the last state."""
  end = stages[-1].end
  with checkpoint.Checkpoints(
      folder.absolute() / restore.FOLDER, **config["checkpoint"]
  ) as checkpoints:
    state, position = restore.resume(stages, checkpoints)
    with recorder.Recorder(
        folder, total=end, batch_size=stages[0].config["batch_size"],
        start=int(state.step), tensorboard=config["record"]["tensorboard"],
        wandb=config["record"]["wandb"],
    ) as record:
      # Last of all: with config.json the folder refuses other settings, so a
      # start that fails must not leave it behind.
      manifest.begin(
          folder, config, command=sys.argv, upgrade=settings.upgraded
      )
      with cli.requests() as signals:
        listed = quarantine.Quarantine(folder, config["unreadable"]["listed"])
        run = _Run(checkpoints, record, listed, signals, end)
        for stage in stages:
          if int(state.step) < stage.end:
            state, position = _stage(run, stage, enter(stage, state), position)
      # A finished run is evaluated again, but not recorded again.
      recorded = {
          k for row in recorder.read(folder) if row["step"] == end for k in row
      }
      record.show(_evaluate(stages[-1].evals, end, state, record, recorded))
  return state


def _stage(run, stage, state, position):
  """Trains from the current step to the end of the stage."""
  program = stage.program
  run.record.resize(stage.config["batch_size"])
  stage.store(state.params)
  first = int(state.step) + 1
  seen, unreadable = position.get("examples_seen", 0), stage.config["unreadable"]
  tally = damage.restored(position.get("damage", {}))
  with stage.stream(seen) as stream:
    pending = in_flight.Pending(
        end=stage.end, every=stage.config["record"]["every"],
        batch_size=stage.config["batch_size"],
        rate=lambda n: program.rate(n - 1 - stage.rate_start),
        stream=stream, record=run.record, last_saved=run.checkpoints.latest,
        tally=tally if first > stage.start + 1 else tally.of_stage(seen),
        limit=damage.limit(
            stage.source, most=unreadable["most"], window=unreadable["window"]
        ),
        listed=run.unreadable, exchange=exchange.exchange,
    )
    if first == 1 and stage.config["weights"] is not None:
      # For `interpolate`.
      position = _save(run, pending, 0, state, stream, stage.vocabulary)
    for n in range(first, stage.end + 1):
      batch = program.layout.shard(_next(stream, pending))
      state, metrics = program.update(state, batch)
      pending.add(n, metrics)
      run.record.progress(n)
      stop = bool(run.signals) and n < run.end
      # Evaluating comes before saving, and both see the new parameters.
      if due := _due(stage, n, run.end):
        pending.flush()
        _evaluate(due, n, state, run.record)
      if run.checkpoints.due(n) or n == stage.end or stop:
        position = _save(run, pending, n, state, stream, stage.vocabulary)
      elif pending.full():
        pending.flush()
      if stop:
        raise cli.Stopped(
            f"{run.signals[0]}: stopped after step {n} of {run.end} and saved "
            "it; the same command goes on from there."
        )
  return state, position


def _next(stream, pending):
  """The next batch; if data is too damaged for one, what was read is recorded."""
  try:
    return next(stream)
  except cli.DamagedData:
    if jax.process_count() == 1:  # Others may not have come so far.
      pending.flush()
    raise


def _save(run, pending, n, state, stream, vocabulary):
  """State and data position together; returns the position."""
  pending.flush()
  pending.check(n, state.params)  # A state that is not finite is never saved.
  run.record.sync()
  position = {
      **data_position.record(stream), "damage": pending.tally.record(),
      "vocabulary": vocabulary,
  }
  run.checkpoints.save(n, state, position, force=True)
  return position


def _due(stage, n, end):
  """The evaluations after step n; the last step has all of them anyway."""
  return [e for e in stage.evals if e.every and n % e.every == 0 and n < end]


def _evaluate(
    evaluations, n, state, record, recorded: Collection[str] = ()
):
  """Evaluates, records what is not recorded yet, and returns all metrics."""
  results = {}
  for evaluation in evaluations:
    begun = time.perf_counter()
    metrics = {
        evaluation.prefix + name: value
        for name, value in evaluation.run(optim.evaluation_params(state)).items()
    }
    metrics[f"{evaluation.prefix}/seconds"] = time.perf_counter() - begun
    if new := {k: x for k, x in metrics.items() if k not in recorded}:
      record.write(n, new)
    results |= metrics
  record.rate()  # Excludes the evaluation from the throughput.
  return results


def run(
    config: configuration.Given, workdir: str | os.PathLike | None = None
) -> training.Run:
  """Trains from Python, as `basic.train(config)`; a program prints no more.

  Args:
    config: the path of a file with `get_config`, a mapping or a ConfigDict; see
      `basic.config`.
    workdir: folder of the run; an existing run is resumed. None: a new folder
      runs/NAME-DATE-TIME, which the result names.

  Returns:
    The results, the metrics as columns, the path of the report; `load()` opens
    the model.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: and the other errors of `train`.

  Example:
    run = basic.train(basic.config("configs/digits.py", steps=100))
    run.results["zeroshot/single@1"]
    model = run.load()
  """
  folder = training.workdir(config, workdir)
  train(configuration.read(config), folder)
  return training.Run(folder)


def main(arguments: list[str]) -> None:
  """Trains, and prints where the report is."""
  with cli.sentences():
    config = overrides.apply(flags.FLAGS.config, arguments[1:])
    # A run that has begun may go on, whatever its first command said.
    if not (pathlib.Path(flags.FLAGS.workdir) / "config.json").exists():
      sanity.check_overrides(config, overrides.names(arguments[1:]))
    if flags.FLAGS.compilation_cache:
      compilation_cache.use(flags.FLAGS.compilation_cache)
    if flags.FLAGS.distributed:
      layout.join()
    page = train(config, flags.FLAGS.workdir)
  if jax.process_index() == 0:
    print(f"report: {page}")


programs.callable_as(__name__, run)

if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "Experiment to run.", sys_argv=[])
  flags.DEFINE_string("workdir", None, "Folder of the run.")
  flags.DEFINE_bool("distributed", False, "Join the cluster's processes first.")
  flags.DEFINE_string(
      "compilation_cache", None, "Folder for compiled programs, to start faster."
  )
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=cli.parser(
      app.parse_flags_with_usage, overrides.split))

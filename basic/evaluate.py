"""python -m basic.evaluate --workdir runs/digits

Runs all evaluations of a run on its newest checkpoint, or on a given one, and
prints the results. The run may still be training.

    python -m basic.evaluate --weights hf_clip:DIR --workdir runs/x --suite paper \\
      --data_dir ~/tensorflow_datasets --out evaluations

With --suite or --tasks, it evaluates own runs and foreign weights, any number of
them side by side, on tasks: data sets with class names, prompts and a metric
(basic/evals/tasks, or files of yours). Each result is stored in --out when it is
complete; the same command again goes on where it was stopped. Prints a table with
95% bootstrap intervals, which is in --out too, as table.txt and results.json.

Exit status: 0 if a task has a result for each model and none failed; tasks whose
data is not there are skipped, which the table says. Otherwise 1.
"""

import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags

from basic import cli, files, optim
from basic.experiment import restore, suite, summary, tasks, towers
from basic.interface import programs
from basic.recording import recorder
from basic.sharding import layout


def evaluate(
    workdir: str | os.PathLike, step: int | None = None
) -> tuple[int, dict[str, float]]:
  """Evaluates a checkpoint with the evaluations of its configuration.

  Args:
    workdir: folder of the run.
    step: the checkpoint; None: the newest.

  Returns:
    (step, metrics by their recorded names).

  Raises:
    FileNotFoundError: if there is no run, or no checkpoint.
  """
  stage, state = restore.load(workdir, step)
  metrics = {}
  with stage.program.layout.context():
    for evaluation in stage.evals:
      for name, value in evaluation.run(optim.evaluation_params(state)).items():
        metrics[evaluation.prefix + name] = value
  return int(state.step), metrics


def compare(
    models: Sequence[str],
    names: Sequence[str],
    *,
    out: str | os.PathLike = "evaluations",
    step: int | None = None,
    lines: str | os.PathLike | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    **settings: Any,
) -> summary.Summary:
  """Evaluates models on tasks, and stores the results.

  Args:
    models: folders of runs, or weights of other projects: "hf_clip:DIR".
    names: tasks: names of `tasks.names()`, or paths of TOML files.
    out: folder of results; made if it does not exist. What is there is not
      measured again.
    step: the checkpoint of runs; None: the newest.
    lines: file with the lines for effective robustness, as in `summary.summary`.
    say: is told what was done, in a sentence a task.
    **settings: arguments of `tasks.read` for all tasks.

  Returns:
    All results; those that are "skipped" or "failed" say why.

  Raises:
    FileNotFoundError: if there is no such run, weights, checkpoint or task.
    ValueError: if a file cannot be read, a setting is wrong, or two tasks have one
      name.
  """
  _check_names(names)
  folder = files.folder("--out", out)
  planned = [_planned(name, settings) for name in names]
  columns = []
  for where in models:
    model = towers.named(where, step)
    column = []
    for name, task in zip(names, planned, strict=True):
      if isinstance(task, tasks.Task):
        record = suite.measure(model, task, folder)
      else:
        record = {
            "task": pathlib.Path(name).stem, "model": model.origin, "shown": [],
            "status": "skipped", "why": str(task),
        }
      say(_sentence(record))
      column.append(record)
    columns.append(column)
  found = summary.summary(columns, lines)
  if jax.process_index() == 0:
    files.replace(folder / "table.txt", (summary.table(found) + "\n").encode())
    plain = json.dumps(found.plain(), indent=1) + "\n"
    files.replace(folder / "results.json", plain.encode())
  return found


def _check_names(names):
  """Raises ValueError for tasks of one name, whose results could not be told apart."""
  first = {}
  for each in names:
    stem = pathlib.Path(each).stem
    if stem in first:
      raise ValueError(
          f"the tasks {first[stem]} and {each} are both called {stem!r}, as their "
          "results would be: give each once, or rename one of the files."
      )
    first[stem] = each


def _planned(name, settings):
  """A task, or why its data is not there; other faults end the program at once."""
  try:
    return tasks.read(name, **settings)
  except tasks.NoData as error:
    return error


def _sentence(record):
  """What became of a task, for whoever waits for it."""
  what = f"{record['task']}, {record['model']}: {record['status']}"
  return f"{what}: {record['why']}" if "why" in record else what


def _tell(sentence: str) -> None:
  """Prints a sentence beside the results, once for all processes."""
  if jax.process_index() == 0:
    print(sentence, file=sys.stderr, flush=True)


def _succeeded(found: summary.Summary) -> bool:
  """Whether each model has a result, and nothing failed."""
  columns = zip(*found.results.values(), strict=True)
  statuses = [{record["status"] for record in column} for column in columns]
  return all("done" in each and "failed" not in each for each in statuses)


def _suite() -> None:
  """Evaluates what the command line says on tasks; prints a table, or JSON."""
  given = flags.FLAGS
  named = given.tasks or []
  chosen = [*(tasks.of_suite(given.suite) if given.suite else []), *named]
  found = compare(
      [*given.workdir, *given.weights], list(dict.fromkeys(chosen)), out=given.out,
      step=given.step, lines=given.robustness_lines, data_dir=given.data_dir,
      classnames=given.classnames_file, templates=given.templates_file,
      changes={"limit": given.limit, "batch_size": given.batch_size},
      say=_tell,
  )
  if jax.process_index() == 0:
    print(json.dumps(found.plain()) if given.json else summary.table(found))
  if not _succeeded(found):
    sys.exit(1)


def main(arguments: list[str]) -> None:
  """Evaluates, and prints a table, or one JSON object."""
  given = flags.FLAGS
  with cli.sentences():
    if len(arguments) > 1:
      raise ValueError(
          f"{arguments[1:]} are no settings; each begins with --, as in "
          "--suite=paper, and --workdir is given once for each run."
      )
    if not given.workdir and not given.weights:
      raise ValueError(
          "there is nothing to evaluate: give --workdir RUN, or "
          "--weights FORMAT:PATH with --suite or --tasks."
      )
    if given.distributed:
      layout.join()
    if given.suite or given.tasks:
      _suite()
      return
    if len(given.workdir) != 1 or given.weights:
      raise ValueError(
          "the evaluations of a configuration are those of one --workdir; for "
          "--weights, and for several models side by side, give --suite "
          f"({', '.join(sorted([*tasks.suites()['suites'], 'all']))}) or --tasks."
      )
    step, metrics = evaluate(given.workdir[0], given.step)
  if jax.process_index() != 0:
    return
  if given.json:
    print(json.dumps({"step": step, **metrics}))
  else:
    print(f"step {step}\n{recorder.table(metrics)}")


programs.callable_as(__name__, evaluate)

if __name__ == "__main__":
  flags.DEFINE_multi_string("workdir", [], "A run's folder; may be given again.")
  flags.DEFINE_multi_string(
      "weights", [], "Weights of another project, FORMAT:PATH; may be given again.")
  flags.DEFINE_integer("step", None, "The checkpoint; by default the newest.")
  flags.DEFINE_bool("json", False, "Print one JSON object, not a table.")
  flags.DEFINE_bool("distributed", False, "Join the cluster's processes first.")
  flags.DEFINE_string("suite", None, "Tasks to evaluate on: paper, all, ...")
  flags.DEFINE_list("tasks", None, "Tasks, by name or path of a TOML file: a,b.toml")
  flags.DEFINE_string("data_dir", None, "Folder of the data; by default TFDS's.")
  flags.DEFINE_string("out", "evaluations", "Folder of the results.")
  flags.DEFINE_integer("limit", None, "Number of examples of each task.")
  flags.DEFINE_integer("batch_size", None, "Examples encoded at a time.")
  flags.DEFINE_string(
      "classnames_file", None, "Class names in place of the tasks' own: JSON, a list "
      "or, as CLIP_benchmark's, lists by data set; TSV; or text, one a line.")
  flags.DEFINE_string("templates_file", None, "Templates, likewise; {c} is the name.")
  flags.DEFINE_string(
      "robustness_lines", None, "TOML or JSON: task, slope and intercept of logits; "
      "by default lines are fitted to the models of the table, if three or more.")
  app.run(main)

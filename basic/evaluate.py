"""python -m basic.evaluate --workdir runs/digits

Runs all evaluations of a run on its newest checkpoint, or on a given one, and
prints the results. The run may still be training.
"""

import json
import os

from absl import app, flags

from basic import cli, optim
from basic.experiment import restore
from basic.interface import programs
from basic.recording import recorder


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


def main(arguments: list[str]) -> None:
  """Evaluates, and prints a table, or one JSON object."""
  del arguments
  with cli.sentences():
    step, metrics = evaluate(flags.FLAGS.workdir, flags.FLAGS.step)
  if flags.FLAGS.json:
    print(json.dumps({"step": step, **metrics}))
  else:
    print(f"step {step}\n{recorder.table(metrics)}")


programs.callable_as(__name__, evaluate)

if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
  flags.DEFINE_integer("step", None, "The checkpoint; by default the newest.")
  flags.DEFINE_bool("json", False, "Print one JSON object, not a table.")
  app.run(main)

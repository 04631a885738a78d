"""python -m basic.interpolate --workdir runs/finetune_toy --start 800

Evaluates linear interpolations of the weights of two checkpoints of a run. A
point between often beats both ends: fine-tuned accuracy, with the robustness of
the pretrained weights.
"""

import json
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from absl import app, flags

from basic import cli, optim
from basic.experiment import restore
from basic.optim import interpolation
from basic.recording import recorder


def interpolate(
    workdir: str | os.PathLike,
    start: int,
    mixes: Sequence[float],
    step: int | None = None,
) -> tuple[int, dict[float, dict[str, float]]]:
  """Evaluates interpolations of two checkpoints, as the later stage is evaluated.

  Args:
    workdir: folder of the run.
    start: the checkpoint where a = 0.
    mixes: the values of a.
    step: the checkpoint where a = 1; None: the newest.

  Returns:
    (step, metrics by their recorded names, by a).

  Raises:
    FileNotFoundError: if there is no run, or not these checkpoints.
  """
  _, first = restore.load(workdir, start)
  stage, last = restore.load(workdir, step)
  first, params = optim.evaluation_params(first), optim.evaluation_params(last)
  metrics: dict[float, dict[str, float]] = {}
  with stage.program.layout.context():
    placed = stage.program.layout.place({"params": params})["params"]
    mix = jax.jit(interpolation.interpolate, out_shardings=placed)
    for a in mixes:
      theta = mix(first, params, jnp.float32(a))
      metrics[a] = {
          evaluation.prefix + name: value
          for evaluation in stage.evals
          for name, value in evaluation.run(theta).items()
      }
  return int(last.step), metrics


def _table(metrics: dict[float, dict[str, float]]) -> str:
  return "\n".join(
      f"a = {a:g}\n{recorder.table(row)}" for a, row in metrics.items()
  )


def main(arguments: list[str]) -> None:
  """Evaluates the mixtures, and prints a table of each, or one JSON object."""
  del arguments
  values = flags.FLAGS
  with cli.sentences():
    step, metrics = interpolate(
        values.workdir, values.start, [float(a) for a in values.mix], values.step
    )
  if values.json:
    print(json.dumps({"start": values.start, "step": step, "mix": metrics}))
  else:
    print(f"from step {values.start} to step {step}\n{_table(metrics)}")


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
  flags.DEFINE_integer("start", None, "The first checkpoint.", required=True)
  flags.DEFINE_integer("step", None, "The last; by default the newest.")
  flags.DEFINE_list("mix", ["0", "0.25", "0.5", "0.75", "1"], "Values of a.")
  flags.DEFINE_bool("json", False, "Print one JSON object, not a table.")
  app.run(main)

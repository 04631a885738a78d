"""python benchmarks/three_stages.py --seeds 5    three stages against scratch

Trains configs/basic_toy.py and its control from scratch for each seed, and prints
zero-shot top-1 accuracy after stage 2, after stage 3 and of the control: mean and
standard deviation over seeds.

The control has as many steps as give the FLOPs of all stages, as counted by
`python -m basic.plan`: stage 1 has no text tower, and stage 2 no backward pass
through the image tower. Evaluation and data loading are not counted. Finished
runs in the folder are not repeated, and interrupted ones are resumed.
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import time

from basic.planning import draft, flops
from basic.recording import recorder

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "basic_toy.py"
SETS = ("single", "pairs", "seen_pairs")


def read(start):
  """The configuration with stages, or that of the control, "scratch"."""
  spec = importlib.util.spec_from_file_location("basic_toy", CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(start).to_dict()


def costs(config):
  """(steps, FLOPs of a step) of every stage."""
  found = []
  for stage in draft.drafts(config):
    with stage.program.layout.context():
      work = flops.count(stage.program.update, stage.state, stage.batch)
    found.append((stage.config["steps"], work.flops))
  return found


def equal_steps(stages, scratch):
  """Steps of the control with the FLOPs of all stages, rounded."""
  return round(sum(n * cost for n, cost in stages) / scratch[0][1])


def train(start, seed, steps, workdir):
  """One run in a process of its own; returns its seconds."""
  began = time.perf_counter()
  changes = [f"--config.seed={seed}"]
  if start:  # With stages, each has its own number of steps.
    changes.append(f"--config.steps={steps}")
  subprocess.run(
      [
          sys.executable, "-m", "basic.train",
          f"--config={CONFIG}{start and ':' + start}", f"--workdir={workdir}",
          *changes,
      ],
      cwd=ROOT, check=True,
  )
  return time.perf_counter() - began


def accuracies(workdir, step):
  """Zero-shot top-1 accuracy by set, evaluated at a step."""
  names = {name: f"zeroshot/{name}@1" for name in SETS}
  return next(
      {name: row[key] for name, key in names.items()}
      for row in evaluations(workdir, step) if names["single"] in row
  )


def evaluations(workdir, step):
  """All metrics recorded at a step, merged into one row."""
  rows = [row for row in recorder.read(workdir) if row["step"] == step]
  return [{key: x for row in rows for key, x in row.items()}]


def run_seed(seed, folder, ends, scratch_steps):
  """Both runs of one seed: accuracies and seconds."""
  three, scratch = folder / f"stages_{seed}", folder / f"scratch_{seed}"
  seconds = {
      "stages": train("", seed, None, three),
      "scratch": train("scratch", seed, scratch_steps, scratch),
  }
  return {
      "seed": seed, "seconds": seconds,
      "stage 2": accuracies(three, ends[1]),
      "stage 3": accuracies(three, ends[2]),
      "scratch": accuracies(scratch, scratch_steps),
  }


def summary(runs):
  """moment -> set -> mean and standard deviation over seeds."""
  found = {}
  for moment in ("stage 2", "stage 3", "scratch"):
    found[moment] = {}
    for name in SETS:
      values = [run[moment][name] for run in runs]
      deviation = statistics.stdev(values) if len(values) > 1 else 0.0
      found[moment][name] = {"mean": statistics.mean(values), "stdev": deviation}
  return found


def table(found):
  lines = [f"{'zero-shot top-1':16}" + "".join(f"{name:>16}" for name in SETS)]
  for moment, row in found["accuracy"].items():
    lines.append(f"{moment:16}" + "".join(
        f"{row[name]['mean']:>8.3f} +-{row[name]['stdev']:.3f}"
        for name in SETS
    ))
  cost = found["flops"]
  lines.append(
      f"{len(found['runs'])} seeds; stages {cost['stages']:.3g} flops, scratch "
      f"{cost['scratch']:.3g} in {found['steps']['scratch']} steps"
  )
  return "\n".join(lines)


def measure(seeds, folder):
  stages, scratch = costs(read("")), costs(read("scratch"))
  steps = equal_steps(stages, scratch)
  ends = [sum(n for n, _ in stages[:k + 1]) for k in range(len(stages))]
  runs = [run_seed(seed, folder, ends, steps) for seed in range(seeds)]
  return {
      "accuracy": summary(runs),
      "flops": {
          "stages": sum(n * cost for n, cost in stages),
          "scratch": steps * scratch[0][1],
      },
      "steps": {"stages": ends[-1], "scratch": steps},
      "runs": runs,
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, default=5)
  parser.add_argument("--folder", type=pathlib.Path, default="runs/three_stages")
  parser.add_argument("--json", type=pathlib.Path)
  asked = parser.parse_args()
  found = measure(asked.seeds, asked.folder.absolute())
  print(table(found))
  if asked.json:
    asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
  main()

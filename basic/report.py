"""python -m basic.report --workdir runs/digits: a run as one HTML page."""

import os
import pathlib
import sys

import numpy as np
from absl import app, flags, logging

from basic import build, restore, types
from basic.pages import page
from basic.recording import journal, manifest
from basic.ops import normalize


def write(
    workdir: str | os.PathLike, samples: page.Samples | None
) -> pathlib.Path:
  """Writes `report.html` into a run's folder; the run may still be going.

  Args:
    workdir: the folder, with at least the `config.json` of the run.
    samples: held-out examples to show; None leaves the galleries out.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: if the folder is not that of a run.
    ValueError: if a file of the run cannot be read.
  """
  folder = pathlib.Path(workdir)
  config = manifest.load(folder / "config.json")
  if config is None:
    raise FileNotFoundError(
        f"{folder} holds no config.json, so it is not the folder of a run. "
        "Give the --workdir that the training was given."
    )
  meta = manifest.load(folder / "run.json") or {}
  text = page.page(
      title=folder.resolve().name,
      command=meta.get("command", ""),
      config=config,
      meta=meta,
      rows=journal.read(folder),
      samples=samples,
  )
  target = folder / "report.html"
  manifest.replace(target, text.encode())
  return target


def samples(
    stage: build.Stage, params: types.Params, count: int = 200
) -> page.Samples | None:
  """Held-out examples and their embeddings, for the page.

  Args:
    stage: whose evaluations to take them from.
    params: of the towers and the objective.
    count: examples at most.

  Returns:
    The first examples of the last evaluation whose data has both images and
    captions; None if none has.
  """
  for evaluation in reversed(stage.evals):
    shown = evaluation.samples(params, count)
    if {"image", "text"} <= set(shown.views):
      log_scale = params["objective"].get("log_scale", 0.0)
      return page.Samples(
          images=shown.images,
          captions=shown.captions,
          image_embeddings=np.asarray(normalize.unit(shown.views["image"])),
          text_embeddings=np.asarray(normalize.unit(shown.views["text"])),
          scale=float(np.exp(log_scale)),
      )
  return None


def main(arguments: list[str]) -> None:
  del arguments
  logging.set_verbosity(logging.WARNING)
  workdir = flags.FLAGS.workdir
  try:
    stage, state = restore.load(workdir)
    with stage.layout.context():
      shown = samples(stage, state.params)
    print(write(workdir, shown))
  except (ValueError, OSError) as error:
    sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
  app.run(main)

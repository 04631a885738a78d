"""Writes the report of a run from its files and held-out examples."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from basic import files, types
from basic.experiment import build
from basic.ops import normalize
from basic.pages import page
from basic.recording import journal, manifest, quarantine


def write(
    workdir: str | os.PathLike, samples: page.Samples | None
) -> pathlib.Path:
  """Writes `report.html` into the folder of a run, finished or not.

  In a run of several processes only the first one writes.

  Args:
    workdir: the folder; it holds at least `config.json`.
    samples: held-out examples to show; None leaves the galleries out.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: if the folder holds no run.
    ValueError: if a file of the run cannot be read.
  """
  folder = pathlib.Path(workdir)
  config = manifest.load(folder / "config.json")
  if config is None:
    raise FileNotFoundError(
        f"{folder} holds no config.json, so it is not the folder of a run. "
        "Give the --workdir that the training was given."
    )
  target = folder / "report.html"
  if jax.process_index() != 0:
    return target
  meta = manifest.load(folder / "run.json") or {}
  text = page.page(
      title=folder.resolve().name,
      command=meta.get("command", ""),
      config=config,
      meta=meta,
      rows=journal.read(folder),
      samples=samples,
      quarantine=quarantine.read(folder),
  )
  files.replace(target, text.encode())
  return target


def samples(
    stage: build.Stage, params: types.Params, count: int = 200
) -> page.Samples | None:
  """Held-out examples and their embeddings, for the report.

  Args:
    stage: the stage from whose evaluations they are taken.
    params: parameters of the towers and the objective.
    count: maximum number of examples.

  Returns:
    The first examples of an evaluation whose data has images and captions,
    preferably of retrieval; None if there is no such evaluation.
  """
  for evaluation in sorted(
      stage.evals, key=lambda e: not e.prefix.startswith("retrieval/")
  ):
    shown = evaluation.samples(params, count)
    if {"image", "text"} <= set(shown.views):
      of_params = stage.program.objective.logits
      logits = of_params and of_params(params["objective"])
      return page.Samples(
          images=shown.images,
          captions=shown.captions,
          image_embeddings=_unit(shown.views["image"]),
          text_embeddings=_unit(shown.views["text"]),
          scale=float(logits.scale) if logits else 1.0,
      )
  return None


def _unit(rows):
  return np.asarray(normalize.unit(jnp.asarray(rows)))

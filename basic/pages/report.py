"""The report of a run: its files and held-out examples, as one HTML page."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from basic import files, types
from basic.experiment import build
from basic.ops import normalize
from basic.pages import page
from basic.recording import journal, manifest


def write(
    workdir: str | os.PathLike, samples: page.Samples | None
) -> pathlib.Path:
  """Writes `report.html` into a run's folder; the run may still be going.

  In a run of several processes the first one writes.

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
  )
  files.replace(target, text.encode())
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
    The first examples of an evaluation whose data has both images and captions,
    of retrieval if there is one; None if none has.
  """
  for evaluation in sorted(
      stage.evals, key=lambda e: not e.prefix.startswith("retrieval/")
  ):
    shown = evaluation.samples(params, count)
    if {"image", "text"} <= set(shown.views):
      log_scale = params["objective"].get("log_scale", 0.0)
      return page.Samples(
          images=shown.images,
          captions=shown.captions,
          image_embeddings=_unit(shown.views["image"]),
          text_embeddings=_unit(shown.views["text"]),
          scale=float(np.exp(log_scale)),
      )
  return None


def _unit(rows):
  return np.asarray(normalize.unit(jnp.asarray(rows)))

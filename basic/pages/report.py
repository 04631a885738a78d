"""Writes the report of a run from its files and held-out examples."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from basic import files, types
from basic.experiment import build
from basic.ops import normalize
from basic.pages import comparison, page
from basic.recording import journal, manifest, quarantine


class Held(NamedTuple):
  """What the report shows of held-out data.

  Attributes:
    samples: examples with their embeddings; None if no evaluation has images.
    classified: the answers of zero-shot evaluations.
  """

  samples: page.Samples | None
  classified: tuple[page.Classified, ...]


def write(workdir: str | os.PathLike, held: Held | None) -> pathlib.Path:
  """Writes `report.html` into the folder of a run, finished or not.

  In a run of several processes only the first one writes.

  Args:
    workdir: the folder; it holds at least `config.json`.
    held: what to show of held-out data; None leaves the galleries out.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: if the folder holds no run.
    ValueError: if a file of the run cannot be read.
  """
  folder = pathlib.Path(workdir)
  config = _config(folder)
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
      samples=held and held.samples,
      classified=held.classified if held else (),
      quarantine=quarantine.read(folder),
  )
  files.replace(target, text.encode())
  return target


def compare(
    workdirs: Sequence[str | os.PathLike], out: str | os.PathLike
) -> pathlib.Path:
  """Writes a page that compares runs, finished or not.

  Only their files are read: no checkpoint, no data, no device.

  Args:
    workdirs: folders of two or more runs.
    out: the file to write.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: if a folder holds no run.
    ValueError: if a file of a run cannot be read, a folder is given twice, or
      there are fewer than two or more than `comparison.MOST` of them.
  """
  folders = [pathlib.Path(each) for each in workdirs]
  whole = [folder.resolve() for folder in folders]
  twice = {str(each) for each in whole if whole.count(each) > 1}
  if twice:
    raise ValueError(f"{min(twice)} was given twice; give each run once.")
  names = comparison.names(whole)
  text = comparison.comparison([
      comparison.Run(
          name, _config(folder), manifest.load(folder / "run.json") or {},
          journal.read(folder),
      )
      for name, folder in zip(names, folders, strict=True)
  ])
  target = files.checked("--out", out)
  files.replace(target, text.encode())
  return target


def _config(folder: pathlib.Path) -> dict[str, Any]:
  config = manifest.load(folder / "config.json")
  if config is None:
    raise FileNotFoundError(
        f"{folder} holds no config.json, so it is not the folder of a run. "
        "Give the --workdir that the training was given."
    )
  return config


def held_out(
    stage: build.Stage, params: types.Params, count: int = 200,
    images: int = 10_000,
) -> Held:
  """What the report shows of the held-out data of a stage's evaluations.

  Args:
    stage: the stage from whose evaluations it is taken.
    params: parameters of the towers and the objective.
    count: maximum number of examples that are shown with their embeddings.
    images: maximum number of images of each zero-shot evaluation that are
      classified again, for the answers that its metrics sum up.

  Returns:
    Examples, and answers by class.
  """
  return Held(
      _samples(stage, params, count),
      tuple(
          page.Classified(each.prefix, *found)
          for each in stage.evals if each.answers is not None
          if (found := each.answers(params, images)) is not None
      ),
  )


def _samples(
    stage: build.Stage, params: types.Params, count: int
) -> page.Samples | None:
  """Examples of an evaluation with images and captions, else with images."""
  images = None
  for evaluation in sorted(
      stage.evals, key=lambda e: not e.prefix.startswith("retrieval/")
  ):
    shown = evaluation.samples(params, count)
    if shown.images is None or "image" not in shown.views:
      continue
    if "text" in shown.views:
      return _with_texts(stage, params, shown)
    images = images or page.Samples(
        shown.images, shown.captions or [""] * len(shown.images),
        _unit(shown.views["image"]), None, 1.0,
    )
  return images


def _with_texts(stage, params, shown) -> page.Samples:
  of_params = stage.program.objective.logits
  logits = of_params and of_params(params["objective"])
  return page.Samples(
      images=shown.images,
      captions=shown.captions,
      image_embeddings=_unit(shown.views["image"]),
      text_embeddings=_unit(shown.views["text"]),
      scale=float(logits.scale) if logits else 1.0,
  )


def _unit(rows):
  return np.asarray(normalize.unit(jnp.asarray(rows)))

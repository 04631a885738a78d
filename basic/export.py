"""python -m basic.export --workdir runs/digits --format hf_clip --out exported

Exports a trained run for other programs: as a folder in a format of `weights/`
(transformers loads `hf_clip`), or with --format stablehlo as two functions that
need only jax: image.stablehlo, which takes uint8 pixels and normalises them
itself, and text.stablehlo; about.json says what they take.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax import export as jax_export

from basic import cli, files, optim, types
from basic.data import tokenizer, vocabulary
from basic.experiment import build, restore, schema
from basic.ops import normalize
from basic.optim import interpolation

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export(
    workdir: str | os.PathLike,
    kind: str,
    out: str | os.PathLike,
    step: int | None = None,
    *,
    start: int | None = None,
    mix: float = 0.5,
) -> pathlib.Path:
  """Writes the towers of a run, with their vocabulary and preprocessing.

  The parameters are those used for evaluation: the EMA, if the run has one.

  Args:
    workdir: folder of the run.
    kind: "stablehlo", or the name of a format in weights/.
    out: folder to write to; created if it does not exist. It may not be the folder
      of a run, whose config.json some formats would overwrite.
    step: the checkpoint; None: the newest.
    start: write an interpolation of the weights of this checkpoint and of `step`
      (optim/interpolation.py); None: those of `step`.
    mix: weight of `step` in the interpolation, in [0, 1].

  Returns:
    The folder.

  Raises:
    FileNotFoundError: if there is no run, or no checkpoint.
    ValueError: if there is no such format, the folder is that of a run, or the
      format cannot represent these towers; the message lists all reasons.
  """
  folder = files.checked("--out", out)
  if (folder / "run.json").exists() or folder.resolve() == pathlib.Path(
      workdir).resolve():
    raise ValueError(
        f"--out is {str(out)!r}, the folder of a run, whose files an export may "
        "not overwrite; give another folder."
    )
  known = ["stablehlo", *schema.plugins("weights")]
  if kind not in known:
    raise ValueError(f"there is no format {kind!r}; there are {known}")
  stage, state = restore.load(workdir, step)
  params = optim.evaluation_params(state)
  if start is not None:
    _, first = restore.load(workdir, start)
    params = interpolation.interpolate(optim.evaluation_params(first), params, mix)
  params = jax.tree.map(np.asarray, params)
  if kind == "stablehlo":
    _stablehlo(stage, params, pathlib.Path(workdir), folder)
  else:
    schema.plugin("weights", kind)().write(
        folder, stage.config, params, text_vocabulary(stage.config, workdir),
        preprocessing(stage),
    )
  return folder


def text_vocabulary(
    config: Mapping[str, Any], workdir: str | os.PathLike
) -> vocabulary.Vocabulary | None:
  """The vocabulary of a run as a tokenizer.json; None without a text tower."""
  if config["text"] is None:
    return None
  length, folder = config["text"]["length"], pathlib.Path(workdir)
  clean = vocabulary.settings(folder).get("clean")
  if (folder / tokenizer.FILE).exists():  # As input_pipeline.py looks for them.
    return vocabulary.from_sentencepiece(
        tokenizer.load(folder), length, pad="<pad>", end="</s>", clean=clean
    )
  content = (folder / vocabulary.FILE).read_bytes()
  return vocabulary.Vocabulary(content, length, clean=clean)


def preprocessing(stage: build.Stage) -> dict[str, Any]:
  """Preprocessing of images for the image tower of a stage, without augmentation.

  Returns:
    `size`, `crop`, `method` and `offset` as in images.augment, and the `mean`
    and `std` by which values in [0, 1] are normalised for the tower.

  Raises:
    ValueError: if there is no image tower, or images are not square.
  """
  field = _field(stage.config, "image")
  if field is None:
    raise ValueError("the run has no image tower, and formats have one")
  height, width, channels = stage.shapes[field].shape[1:]
  if height != width:
    raise ValueError(
        f"images are {height} by {width} pixels; formats have square ones, so "
        "set augment.size"
    )
  augment = stage.config["augment"]
  # Images that are not resized, such as other fields, work with any filter.
  scaled = field == "image" and augment["size"] is not None
  return {
      "size": height,
      "crop": "center" if scaled and augment["crop"] != "none" else "none",
      "method": augment["method"] if scaled else "bicubic",
      "offset": augment["offset"],
      "mean": (0.5,) * channels, "std": (0.5,) * channels,
  }


def _field(config: Mapping[str, Any], tower: str) -> str | None:
  """The first field of a batch that a tower encodes; None without the tower."""
  if config[tower] is None:
    return None
  views = config["views"] or {tower: tower}
  return next(field for field, name in views.items() if name == tower)


def _stablehlo(stage, params, workdir, folder) -> None:
  """Both towers as functions of a batch of any size, with their parameters."""
  encode = stage.program.model.encode
  params = jax.tree.map(jnp.asarray, params)
  about: dict[str, Any] = {"views": sorted(encode.views)}
  for name, view in encode.views.items():
    shape = stage.shapes[view.field]
    files.replace(
        folder / f"{name}.stablehlo",
        portable(_tower(view, params[view.tower]), shape),
    )
    about[name] = {
        "shape": [None, *shape.shape[1:]], "dtype": str(shape.dtype),
    }
  if field := _field(stage.config, "image"):
    about[field].update(_pixels(stage, about[field]["dtype"]))
  if field := _field(stage.config, "text"):
    about[field].update(_copy_vocabulary(workdir, folder))
  about.update(_logits(stage.program.objective, params["objective"]))
  files.replace(
      folder / "about.json", (json.dumps(about, indent=2) + "\n").encode()
  )


def _pixels(stage: build.Stage, dtype: str) -> dict[str, Any]:
  """What the function of images takes: pixels as decoded, not normalised."""
  ready = preprocessing(stage)
  raw = dtype == "uint8"  # As engine/model.py normalises them.
  return {
      **{key: ready[key] for key in ("size", "crop", "method", "offset")},
      "layout": "batch, height, width, channels",
      "channels": {1: "gray", 3: "RGB"}.get(len(ready["mean"])),
      "range": [0, 255] if raw else [-1, 1],
      "normalization":
          "none: the function normalises the pixels itself" if raw
          else "pixels / 127.5 - 1, before the function",
  }


def _copy_vocabulary(
    workdir: pathlib.Path, folder: pathlib.Path
) -> dict[str, Any]:
  """Copies the vocabulary; returns its kind, end token and cleaning."""
  foreign = not (workdir / tokenizer.FILE).exists()
  file = vocabulary.FILE if foreign else tokenizer.FILE
  shutil.copyfile(workdir / file, folder / file)
  clean = vocabulary.settings(workdir).get("clean")
  about = {"tokenizer": file, **({} if clean is None else {"clean": clean})}
  if foreign:  # The file defines its end and padding tokens.
    return {**about, "kind": "tokenizers"}
  return {**about, "kind": "sentencepiece", "eos": tokenizer.EOS}


def _logits(
    objective: types.Objective, params: types.Params
) -> dict[str, float]:
  """Scale and bias of the logits: scale z_i . z_j + bias."""
  if objective.logits is None:
    logging.warning(
        "the objective has no logits of pairs, so about.json has none; its "
        "parameters are left out: %s", sorted(params)
    )
    return {}
  scale, bias = objective.logits(params)
  return {"scale": float(scale), "bias": float(bias)}


def _tower(view: types.View, params: types.Params) -> Callable[[Any], Any]:
  """A function from inputs to unit embeddings, float32."""
  def embed(inputs):
    return normalize.unit(view.apply(params, inputs, None).pooled)

  return embed


def portable(function: Callable[[Any], Any], shape: Any) -> bytes:
  """Serializes a function of a batch, for any number of rows and any platform.

  Args:
    function: array -> array, row by row.
    shape: of its argument, a ShapeDtypeStruct with leading axis b.

  Returns:
    Bytes for `jax.export.deserialize`.

  Raises:
    ImportError: if the library `flatbuffers` is not installed.
  """
  rows = jax_export.symbolic_shape("b")[0]
  argument = jax.ShapeDtypeStruct((rows, *shape.shape[1:]), shape.dtype)
  exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(argument)
  try:
    return bytes(exported.serialize())
  except ImportError as error:
    raise ImportError(
        "exporting functions needs flatbuffers: pip install flatbuffers"
    ) from error


def main(arguments: list[str]) -> None:
  """Exports, and prints the folder."""
  del arguments
  values = flags.FLAGS
  with cli.sentences():
    print(export(
        values.workdir, values.format, values.out, values.step,
        start=values.start, mix=values.mix,
    ))


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
  flags.DEFINE_string("format", None, "What to write.", required=True)
  flags.DEFINE_string("out", None, "The folder to write.", required=True)
  flags.DEFINE_integer("step", None, "The checkpoint; by default the newest.")
  flags.DEFINE_integer("start", None, "Mix with this checkpoint.")
  flags.DEFINE_float("mix", 0.5, "From 0, all of --start, to 1, all of --step.")
  app.run(main)

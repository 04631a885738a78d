"""`CLIPModel` folders of transformers: config.json, safetensors, words, pixels."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from basic import paths, types, vocabulary
from basic.weights import _files, _format, _hugging_face, _table

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PIXELS = {"crop": "center", "method": "bicubic", "mean": MEAN, "std": STD}

# What transformers assumes where a config.json is silent.
_BOTH = dict(
    hidden_act="quick_gelu", layer_norm_eps=1e-5, num_hidden_layers=12,
)
_TEXT = dict(
    _BOTH, vocab_size=49408, hidden_size=512, intermediate_size=2048,
    num_attention_heads=8, max_position_embeddings=77, eos_token_id=49407,
)
_IMAGE = dict(
    _BOTH, hidden_size=768, intermediate_size=3072, num_attention_heads=12,
    num_channels=3, image_size=224, patch_size=32,
)

# What every tower of this kind is, in our settings.
IMAGE = dict(
    name="vit", stem="patch", positions="learned", pool="token",
    entry_norm=True,
)
TEXT = dict(name="text_transformer", causal=True, positions="learned")


def hf_clip() -> _format.Format:
  """Opens and writes what `transformers.CLIPModel` saves.

  Their first layer has no bias and their class token a place of its own; ours
  has neither less nor more to say, so a place's vector takes in the bias, and
  the token takes in its place. Pixels are ours, [-1, 1]: the first layer takes
  in the difference. Embeddings are the same, parameters need not be.

  Returns:
    A format whose paths are folders. It writes a vision transformer with a
    class token and an entry norm, and a causal text tower that ends in eos.
  """
  return _format.Format(_read, _write)


def _read(path: str | os.PathLike) -> _format.Weights:
  folder = pathlib.Path(path)
  config = _files.read_json(folder / "config.json")
  text = {**_TEXT, **(config.get("text_config") or {})}
  image = {**_IMAGE, **(config.get("vision_config") or {})}
  width = config.get("projection_dim", 512)
  settings = {
      "image": {
          **IMAGE, **_hugging_face.tower(image), "patch": image["patch_size"],
      },
      "text": {
          **TEXT, **_hugging_face.tower(text), "vocab": text["vocab_size"],
          "length": text["max_position_embeddings"], "pool": "eos",
          "padding": "read", "eos": _eos(text),
      },
      "projection": {"width": width, "bias": False, "only": None},
  }
  grid = image["image_size"] // image["patch_size"]
  flat = _table.read(
      _tables(settings, grid, image["num_channels"]),
      _hugging_face.tensors(folder),
  )
  pixels = _hugging_face.pixels(folder, image["image_size"], PIXELS)
  settings["augment"] = {k: pixels[k] for k in ("size", "crop", "method")}
  scale = math.exp(flat["objective/log_scale"])
  settings["objective"] = {"name": "softmax", "max_scale": max(100.0, scale)}
  words = _hugging_face.words(folder, text["max_position_embeddings"])
  params = paths.unflatten(to_ours(flat, grid, pixels))
  return _format.Weights(settings, params, words, pixels)


def _write(
    path: str | os.PathLike,
    settings: _format.Settings,
    params: types.Params,
    words: vocabulary.Vocabulary | None,
    pixels: _format.Settings,
) -> None:
  refuse(settings)
  settings, flat = dict(settings), paths.flatten(params)
  for tower in ("image", "text"):
    settings[tower] = _hugging_face.shaped(settings[tower], flat, tower)
  image, text = settings["image"], settings["text"]
  height, grid = flat["image/encoder/positions"].shape[:2]
  channels = flat["image/encoder/stem/kernel"].shape[2]
  _format.refuse("CLIPModel reads square images", [
      f"positions are learned on {height} by {grid} patches"
  ] if height != grid else [])
  tensors = _table.write(
      _tables(settings, grid, channels), to_theirs(flat, pixels)
  )
  width = settings["projection"]["width"]
  eos = text["eos"] if text["pool"] == "eos" else 3  # our tokenizer's
  _files.write_json(pathlib.Path(path) / "config.json", {
      "architectures": ["CLIPModel"], "model_type": "clip", "dtype": "float32",
      "projection_dim": width,
      "text_config": {
          "model_type": "clip_text_model", **_hugging_face.tower_config(text),
          "vocab_size": text["vocab"],
          "max_position_embeddings": text["length"], "projection_dim": width,
          "eos_token_id": eos, "bos_token_id": None, "pad_token_id": None,
      },
      "vision_config": {
          "model_type": "clip_vision_model",
          **_hugging_face.tower_config(image), "projection_dim": width,
          "num_channels": channels, "patch_size": image["patch"],
          "image_size": grid * image["patch"],
      },
  })
  _files.write_json(
      pathlib.Path(path) / "preprocessor_config.json",
      _hugging_face.pixels_config(pixels, "CLIPImageProcessor"),
  )
  _hugging_face.save_words(path, words)
  _files.save(pathlib.Path(path) / "model.safetensors", tensors)


def refuse(settings: _format.Settings) -> None:
  """Raises ValueError with all that makes these towers no CLIP."""
  faults = _format.expect("image", settings["image"], IMAGE)
  faults += _format.expect("text", settings["text"], TEXT)
  if settings["text"]["pool"] not in ("eos", "last"):
    faults.append(
        f"text.pool is {settings['text']['pool']!r}, the format has 'eos', "
        "and 'last' where texts end in eos, as our tokenizer's do"
    )
  if settings["projection"]["width"] is None:
    faults.append("projection.width is None, the format has a projection")
  faults += _format.expect(
      "projection", settings["projection"], {"bias": False, "only": None}
  )
  faults += _format.expect(
      "objective", settings["objective"], {"name": "softmax"}
  )
  _format.refuse("the format cannot express these towers", faults)


def to_ours(
    flat: Mapping[str, Any], grid: int, pixels: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Folds the places of the tokens, and the pixels, into our parameters.

  Args:
    flat: by path, with "image/encoder/table" [1 + grid^2, d], the place of the
      class token first, and a stem without bias.
    grid: patches each way.
    pixels: `mean` and `std` of the stem's inputs.
  """
  flat = dict(flat)
  table = flat.pop("image/encoder/table")
  stem, width = "image/encoder/stem", table.shape[1]
  flat[f"{stem}/kernel"], flat[f"{stem}/bias"] = _format.to_signal(
      flat[f"{stem}/kernel"], np.zeros(width), pixels["mean"], pixels["std"]
  )
  flat["image/encoder/positions"] = table[1:].reshape(grid, grid, width)
  flat["image/encoder/token"] = flat["image/encoder/token"] + table[0]
  return flat


def to_theirs(
    flat: Mapping[str, Any], pixels: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """The inverse of `to_ours`, with nothing at the class token's place."""
  flat = {k: np.asarray(x) for k, x in flat.items()}
  stem = "image/encoder/stem"
  flat[f"{stem}/kernel"], bias = _format.from_signal(
      flat[f"{stem}/kernel"], flat.pop(f"{stem}/bias"), pixels["mean"],
      pixels["std"],
  )
  places = flat.pop("image/encoder/positions") + bias
  flat["image/encoder/table"] = np.concatenate(
      [np.zeros((1, len(bias)), np.float32), places.reshape(-1, len(bias))]
  )
  return flat


def _tables(settings, grid, channels) -> tuple[_table.Table, ...]:
  image, text = settings["image"], settings["text"]
  width = settings["projection"]["width"]
  row, vision = _table.Row, "vision_model.embeddings"
  rows = (
      row(f"{vision}.patch_embedding.weight", "d c p p",
          "image/encoder/stem/kernel", "patches"),
      row(f"{vision}.class_embedding", "d", "image/encoder/token"),
      row(f"{vision}.position_embedding.weight", "n d", "image/encoder/table"),
      *_hugging_face.norm(
          "vision_model.pre_layrnorm", "image/encoder/entry_norm"),
      *_hugging_face.blocks("vision_model", "image/encoder"),
      *_hugging_face.norm("vision_model.post_layernorm", "image/encoder/norm"),
      row("visual_projection.weight", "e d", "image/projection/kernel",
          "linear"),
      row("logit_scale", "", "objective/log_scale"),
  )
  words = (
      *_hugging_face.text("text/encoder"),
      row("text_projection.weight", "e d", "text/projection/kernel", "linear"),
  )
  return (
      _table.Table(rows, _hugging_face.sizes(
          image, c=channels, p=image["patch"], n=1 + grid * grid, e=width)),
      _table.Table(words, _hugging_face.sizes(
          text, v=text["vocab"], t=text["length"], e=width)),
  )


def _eos(text: Mapping[str, Any]) -> int:
  """The id that pools; the 2 of old files stood for the largest id."""
  return text["vocab_size"] - 1 if text["eos_token_id"] == 2 else (
      text["eos_token_id"])

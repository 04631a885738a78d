"""`CLIPModel` folders of transformers: config.json, safetensors, words, pixels."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from basic import paths, types
from basic.data import vocabulary
from basic.weights import _clip, _files, _format, _hugging_face, _table

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
_OLD_EOS = 2


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
          **_clip.IMAGE, **_hugging_face.tower(image), "patch": image["patch_size"],
      },
      "text": {
          **_clip.TEXT, **_hugging_face.tower(text), "vocab": text["vocab_size"],
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
  pixels = _hugging_face.pixels(folder, image["image_size"], _clip.PIXELS)
  settings["augment"] = {k: pixels[k] for k in ("size", "crop", "method")}
  scale = math.exp(flat["objective/log_scale"])
  settings["objective"] = {"name": "softmax", "max_scale": max(100.0, scale)}
  words = _hugging_face.words(folder, text["max_position_embeddings"])
  params = paths.unflatten(_clip.to_ours(flat, grid, pixels))
  return _format.Weights(settings, params, words, pixels)


def _write(
    path: str | os.PathLike,
    settings: _format.Settings,
    params: types.Params,
    words: vocabulary.Vocabulary | None,
    pixels: _format.Settings,
) -> None:
  _clip.refuse(settings)
  settings, flat = dict(settings), paths.flatten(params)
  for tower in ("image", "text"):
    settings[tower] = _hugging_face.shaped(settings[tower], flat, tower)
  image, text = settings["image"], settings["text"]
  _refuse_old_eos(text)
  grid, channels = _clip.square(flat)
  tensors = _table.write(
      _tables(settings, grid, channels), _clip.to_theirs(flat, pixels)
  )
  width = settings["projection"]["width"]
  _files.write_json(pathlib.Path(path) / "config.json", {
      "architectures": ["CLIPModel"], "model_type": "clip", "dtype": "float32",
      "projection_dim": width,
      "text_config": {
          "model_type": "clip_text_model", **_hugging_face.tower_config(text),
          "vocab_size": text["vocab"],
          "max_position_embeddings": text["length"], "projection_dim": width,
          "eos_token_id": _clip.eos(text), "bos_token_id": None,
          "pad_token_id": None,
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


def _refuse_old_eos(text: Mapping[str, Any]) -> None:
  largest, end = text["vocab"] - 1, _clip.eos(text)
  _format.refuse("the format cannot express this text tower", [
      f"text.eos is {end}, by which transformers means the largest id, {largest}"
  ] if end == _OLD_EOS != largest else [])


def _eos(text: Mapping[str, Any]) -> int:
  """The id that pools; the 2 of old files stands for the largest id."""
  old = text["eos_token_id"] == _OLD_EOS
  return text["vocab_size"] - 1 if old else text["eos_token_id"]

"""open_clip folders: safetensors with OpenAI's tensor names of CLIP."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from basic import paths, types
from basic.data import vocabulary
from basic.weights import (
    _clip,
    _clip_resnet,
    _files,
    _format,
    _hugging_face,
    _open_clip,
    _openai,
    _table,
)

CONFIG = "open_clip_config.json"
TENSORS = "open_clip_model.safetensors"
_CHANNELS = 3  # The configuration cannot represent another value.
# Entries of OpenAI's files that are no weights.
_FACTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")


def open_clip() -> _format.Format:
  """Reads and writes folders of open_clip: OpenAI's CLIP and its successors.

  A folder has open_clip_config.json, open_clip_model.safetensors (or
  model.safetensors) and perhaps tokenizer.json. Image towers are vision
  transformers with a class token (ViT-B/32 to ViT-bigG) and CLIP's own residual
  networks (RN50 to RN50x64), text towers pool at the largest id, or with
  `pool_type="eos"` at the first `eos_id`, which is written where the end token is
  not the last id; others (timm, text towers of transformers) are refused with the
  settings that say so.

  Texts are cleaned before they become ids as open_clip does it
  (data/cleaning.py), and split into words as it does.

  Returns:
    A format whose paths are folders.
  """
  return _format.Format(_read, _write)


def _read(path: str | os.PathLike) -> _format.Weights:
  folder = pathlib.Path(path)
  _files.check_kind(folder)
  config = _files.read_json(folder / CONFIG)
  settings, size = _open_clip.settings(config)
  kind = _kind(settings["image"])
  file, grid = folder / TENSORS, size // settings["image"].get("patch", 32)
  tensors = _table.split(_files.tensors(file if file.exists() else folder))
  tensors = {
      k: x for k, x in _clip_resnet.without_counters(tensors).items()
      if k not in _FACTS
  }
  flat = _table.read(_tables(settings, grid, _CHANNELS), tensors)
  pixels = _open_clip.pixels(config.get("preprocess_cfg") or {}, size)
  settings["augment"] = _format.augment(pixels)
  scale = _format.scale(flat["objective/log_scale"], "logit_scale")
  settings["objective"] = {"name": "softmax", "max_scale": max(100.0, scale)}
  words = _hugging_face.words(
      folder, settings["text"]["length"], clean=_open_clip.clean(config),
      convert=_open_clip.as_trained,
  )
  if settings["text"]["eos"] is None:
    settings["text"]["eos"] = _clip.largest(words, settings["text"]["vocab"])
  params = paths.unflatten(kind.to_ours(flat, grid, pixels))
  return _format.Weights(settings, params, words, pixels)


def _kind(image: Mapping[str, Any] | None) -> Any:
  """The module for this type of image tower."""
  residual = (image or {}).get("name") == "clip_resnet"
  return _clip_resnet if residual else _clip


def _write(
    path: str | os.PathLike,
    settings: _format.Settings,
    params: types.Params,
    words: vocabulary.Vocabulary | None,
    pixels: _format.Settings,
) -> None:
  kind = _kind(settings["image"])
  _clip.refuse(settings, kind.IMAGE, ("text",) if kind is _clip_resnet else ())
  flat = paths.flatten(params)
  settings = _shaped(settings, flat)
  grid, channels = kind.square(flat)
  _refuse(settings, channels)
  if kind is _clip_resnet:
    pixels = _clip_resnet.pixels(flat, pixels)
  tensors = _table.write(
      _tables(settings, grid, channels), kind.to_theirs(flat, pixels)
  )
  if kind is _clip_resnet:
    tensors = _clip_resnet.with_counters(tensors)
  folder = pathlib.Path(path)
  _files.write_json(folder / CONFIG, _open_clip.config(settings, grid, pixels, words))
  _hugging_face.save_words(folder, words)
  _files.save(folder / TENSORS, _table.fuse(tensors))


def _shaped(settings: _format.Settings, flat: Any) -> dict[str, Any]:
  """The settings, completed by the sizes of the parameters."""
  image = settings["image"]
  if _kind(image) is _clip_resnet:
    image = {**image, **_clip_resnet.shaped(flat)}
  else:
    image = _hugging_face.shaped(image, flat, "image")
  text = _hugging_face.shaped(settings["text"], flat, "text")
  return {**settings, "image": image, "text": text}


def _refuse(settings: _format.Settings, channels: int) -> None:
  image, text = settings["image"], settings["text"]
  residual = _kind(image) is _clip_resnet
  towers = {"text": text} if residual else {"image": image, "text": text}
  faults = [
      f"{name}.epsilon is {tower['epsilon']}, the format has {_open_clip.EPSILON}"
      for name, tower in towers.items() if tower["epsilon"] != _open_clip.EPSILON
  ]
  if channels != _CHANNELS:
    faults.append(f"images have {channels} channels, the format {_CHANNELS}")
  kinds = {tower["activation"] for tower in towers.values()}
  if kinds not in ({"gelu"}, {"quick_gelu"}):
    faults.append(
        f"activations are {sorted(kinds)}, the format has 'gelu' or "
        "'quick_gelu', one for both towers"
    )
  width = settings["projection"]["width"]
  if residual and image["features"] != width:
    faults.append(
        f"image.features is {image['features']} and projection.width {width}; "
        "without a projection of images they must be equal"
    )
  _format.refuse("the format cannot express these towers", faults)


def _tables(settings, grid, channels) -> tuple[_table.Table, ...]:
  image, text = settings["image"], settings["text"]
  width = settings["projection"]["width"]
  if _kind(image) is _clip_resnet:
    towers = _clip_resnet.tables(image, grid, channels)
  else:
    sizes = dict(c=channels, p=image["patch"], n=1 + grid * grid, e=width)
    rows = _openai.image("image")
    towers = (_table.Table(rows, _hugging_face.sizes(image, **sizes)),)
  sizes = dict(v=text["vocab"], t=text["length"], e=width)
  rows = (
      *_openai.text("text"),
      _table.Row("logit_scale", "", "objective/log_scale", "number"),
  )
  return (*towers, _table.Table(rows, _hugging_face.sizes(text, **sizes)))

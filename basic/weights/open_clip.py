"""OpenAI's names of CLIP's tensors, which open_clip kept, as safetensors."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from basic import paths, types, vocabulary
from basic.weights import (
    _clip,
    _clip_resnet,
    _files,
    _format,
    _hugging_face,
    _openai,
    _table,
)

CONFIG = "open_clip_config.json"
TENSORS = "open_clip_model.safetensors"
_EPSILON = 1e-5
# Facts that OpenAI's own files hold beside the weights.
_FACTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")


def open_clip() -> _format.Format:
  """Opens and writes folders of open_clip: OpenAI's CLIP and its successors.

  A folder has open_clip_config.json, open_clip_model.safetensors (or
  model.safetensors) and perhaps tokenizer.json. Image towers are vision
  transformers with a class token (ViT-B/32 to ViT-bigG) and CLIP's own residual
  networks (RN50 to RN50x64), text towers pool at the largest id; others (timm,
  text towers of transformers) are refused by what their configuration says.

  Returns:
    A format whose paths are folders.
  """
  return _format.Format(_read, _write)


def _read(path: str | os.PathLike) -> _format.Weights:
  folder = pathlib.Path(path)
  _files.check_kind(folder)
  config = _files.read_json(folder / CONFIG)
  known = config["model_cfg"]
  settings, size = _settings(known), known["vision_cfg"]["image_size"]
  kind = _kind(settings["image"])
  file, grid = folder / TENSORS, size // settings["image"].get("patch", 32)
  tensors = _table.split(_files.tensors(file if file.exists() else folder))
  tensors = {
      k: x for k, x in _clip_resnet.without_counters(tensors).items()
      if k not in _FACTS
  }
  channels = 3
  flat = _table.read(_tables(settings, grid, channels), tensors)
  pixels = _pixels(config.get("preprocess_cfg") or {}, size)
  settings["augment"] = {k: pixels[k] for k in ("size", "crop", "method")}
  scale = math.exp(flat["objective/log_scale"])
  settings["objective"] = {"name": "softmax", "max_scale": max(100.0, scale)}
  words = _hugging_face.words(folder, settings["text"]["length"])
  params = paths.unflatten(kind.to_ours(flat, grid, pixels))
  return _format.Weights(settings, params, words, pixels)


def _kind(image: Mapping[str, Any]) -> Any:
  """The module that knows an image tower of this kind."""
  return _clip_resnet if image["name"] == "clip_resnet" else _clip


def _settings(known: Mapping[str, Any]) -> dict[str, Any]:
  text = known["text_cfg"]
  allowed = {
      "image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio",
      "context_length", "vocab_size", "heads",
  }
  residual = isinstance(known["vision_cfg"]["layers"], list)
  groups = {"vision_cfg": known["vision_cfg"], "text_cfg": text}
  faults = [
      f"{name}.{key} is {value!r}"
      for name, group in groups.items() for key, value in group.items()
      if key not in allowed
      or (isinstance(value, list) and (name, key) != ("vision_cfg", "layers"))
  ]
  faults += [
      f"{key} is {value!r}" for key, value in known.items()
      if key not in ("embed_dim", "quick_gelu", *groups)
  ]
  _format.refuse("these settings of open_clip mean other towers", faults)
  both = {
      "activation": "quick_gelu" if known.get("quick_gelu") else "gelu",
      "epsilon": _EPSILON,
  }
  return {
      "image": _clip_resnet.settings(known) if residual else _vit(known, both),
      "text": {
          **_clip.TEXT, **both, "width": text["width"],
          "depth": text["layers"], "heads": text["heads"],
          "mlp": int(text["width"] * text.get("mlp_ratio", 4.0)),
          "vocab": text["vocab_size"], "length": text["context_length"],
          "pool": "eos", "padding": "read", "eos": text["vocab_size"] - 1,
      },
      "projection": {
          "width": known["embed_dim"], "bias": False,
          "only": ("text",) if residual else None,
      },
  }


def _vit(known: Mapping[str, Any], both: Mapping[str, Any]) -> dict[str, Any]:
  image = known["vision_cfg"]
  return {
      **_clip.IMAGE, **both, "width": image["width"],
      "depth": image["layers"], "patch": image["patch_size"],
      "heads": image["width"] // image.get("head_width", 64),
      "mlp": int(image["width"] * image.get("mlp_ratio", 4.0)),
  }


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
  _refuse(settings)
  grid, channels = kind.square(flat)
  if kind is _clip_resnet:
    pixels = _clip_resnet.pixels(flat, pixels)
  tensors = _table.write(
      _tables(settings, grid, channels), kind.to_theirs(flat, pixels)
  )
  if kind is _clip_resnet:
    tensors = _clip_resnet.with_counters(tensors)
  folder = pathlib.Path(path)
  _files.write_json(folder / CONFIG, _config(settings, grid, pixels))
  _hugging_face.save_words(folder, words)
  _files.save(folder / TENSORS, _table.fuse(tensors))


def _shaped(settings: _format.Settings, flat: Any) -> dict[str, Any]:
  """The settings with the sizes of the parameters, by path, filled in."""
  image = settings["image"]
  if _kind(image) is _clip_resnet:
    image = {**image, **_clip_resnet.shaped(flat)}
  else:
    image = _hugging_face.shaped(image, flat, "image")
  text = _hugging_face.shaped(settings["text"], flat, "text")
  return {**settings, "image": image, "text": text}


def _config(
    settings: _format.Settings, grid: int, pixels: _format.Settings
) -> dict[str, Any]:
  image, text = settings["image"], settings["text"]
  if _kind(image) is _clip_resnet:
    # Places of 32 pixels; what is over, its averages lose.
    size = pixels["size"] if pixels["size"] // 32 == grid else 32 * grid
    vision = _clip_resnet.vision_config(image, size)
  else:
    vision = {
        "image_size": grid * image["patch"], "layers": image["depth"],
        "width": image["width"], "patch_size": image["patch"],
        "head_width": image["width"] // image["heads"],
        "mlp_ratio": image["mlp"] / image["width"],
    }
  return {
      "model_cfg": {
          "embed_dim": settings["projection"]["width"],
          "quick_gelu": text["activation"] == "quick_gelu",
          "vision_cfg": vision,
          "text_cfg": {
              "context_length": text["length"], "vocab_size": text["vocab"],
              "width": text["width"], "heads": text["heads"],
              "layers": text["depth"],
              "mlp_ratio": text["mlp"] / text["width"],
          },
      },
      "preprocess_cfg": {
          "mean": list(pixels["mean"]), "std": list(pixels["std"]),
          "interpolation": pixels["method"],
          "resize_mode": "squash" if pixels["crop"] == "none" else "shortest",
      },
  }


def _refuse(settings: _format.Settings) -> None:
  image, text = settings["image"], settings["text"]
  residual = _kind(image) is _clip_resnet
  towers = {"text": text} if residual else {"image": image, "text": text}
  faults = [
      f"{name}.epsilon is {tower['epsilon']}, the format has {_EPSILON}"
      for name, tower in towers.items() if tower["epsilon"] != _EPSILON
  ]
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
  if _clip.eos(text) != text["vocab"] - 1:
    faults.append(
        f"texts end in id {_clip.eos(text)}, the format pools at the largest "
        f"id, {text['vocab'] - 1}"
    )
  _format.refuse("the format cannot express these towers", faults)


def _pixels(config: Mapping[str, Any], size: int) -> dict[str, Any]:
  mode = config.get("resize_mode", "shortest")
  method = config.get("interpolation", "bicubic")
  _format.refuse("images cannot be made ready as preprocess_cfg says", [
      *([f"resize_mode is {mode!r}, ours are 'shortest' and 'squash'"]
        if mode not in ("shortest", "squash") else []),
      *([f"interpolation is {method!r}, ours are 'bilinear' and 'bicubic'"]
        if method not in ("bilinear", "bicubic") else []),
  ])
  return {
      "size": size, "crop": "center" if mode == "shortest" else "none",
      "method": method, "mean": tuple(config.get("mean", _clip.MEAN)),
      "std": tuple(config.get("std", _clip.STD)),
  }


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
      _table.Row("logit_scale", "", "objective/log_scale"),
  )
  return (*towers, _table.Table(rows, _hugging_face.sizes(text, **sizes)))

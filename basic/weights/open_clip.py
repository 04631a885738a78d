"""OpenAI's names of CLIP's tensors, which open_clip kept, as safetensors."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from basic import paths, types, vocabulary
from basic.weights import _clip, _files, _format, _hugging_face, _table

CONFIG = "open_clip_config.json"
TENSORS = "open_clip_model.safetensors"
_EPSILON = 1e-5
# Facts that OpenAI's own files hold beside the weights.
_FACTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")

Row = _table.Row


def open_clip() -> _format.Format:
  """Opens and writes folders of open_clip: OpenAI's CLIP and its successors.

  A folder has open_clip_config.json, open_clip_model.safetensors (or
  model.safetensors) and perhaps tokenizer.json. Vision transformers with a
  class token and text towers that pool at the largest id are read, which
  covers ViT-B/32 to ViT-bigG; other towers (ResNet, timm, text towers of
  transformers) are refused by what their configuration says.

  Returns:
    A format whose paths are folders.
  """
  return _format.Format(_read, _write)


def _read(path: str | os.PathLike) -> _format.Weights:
  folder = pathlib.Path(path)
  config = _files.read_json(folder / CONFIG)
  known = config["model_cfg"]
  settings = _settings(known)
  image = known["vision_cfg"]
  grid = image["image_size"] // image["patch_size"]
  file = folder / TENSORS
  tensors = _table.split(_files.tensors(file if file.exists() else folder))
  tensors = {k: x for k, x in tensors.items() if k not in _FACTS}
  channels = 3
  flat = _table.read(_tables(settings, grid, channels), tensors)
  pixels = _pixels(config.get("preprocess_cfg") or {}, image["image_size"])
  settings["augment"] = {k: pixels[k] for k in ("size", "crop", "method")}
  scale = math.exp(flat["objective/log_scale"])
  settings["objective"] = {"name": "softmax", "max_scale": max(100.0, scale)}
  words = _hugging_face.words(folder, settings["text"]["length"])
  params = paths.unflatten(_clip.to_ours(flat, grid, pixels))
  return _format.Weights(settings, params, words, pixels)


def _settings(known: Mapping[str, Any]) -> dict[str, Any]:
  image, text = known["vision_cfg"], known["text_cfg"]
  allowed = {
      "image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio",
      "context_length", "vocab_size", "heads",
  }
  faults = [
      f"{name}.{key} is {value!r}"
      for name, group in (("vision_cfg", image), ("text_cfg", text))
      for key, value in group.items()
      if key not in allowed or isinstance(value, list)
  ]
  faults += [
      f"{key} is {value!r}" for key, value in known.items()
      if key not in ("embed_dim", "quick_gelu", "vision_cfg", "text_cfg")
  ]
  _format.refuse("these settings of open_clip mean other towers", faults)
  both = {
      "activation": "quick_gelu" if known.get("quick_gelu") else "gelu",
      "epsilon": _EPSILON,
  }
  return {
      "image": {
          **_clip.IMAGE, **both, "width": image["width"],
          "depth": image["layers"], "patch": image["patch_size"],
          "heads": image["width"] // image.get("head_width", 64),
          "mlp": int(image["width"] * image.get("mlp_ratio", 4.0)),
      },
      "text": {
          **_clip.TEXT, **both, "width": text["width"],
          "depth": text["layers"], "heads": text["heads"],
          "mlp": int(text["width"] * text.get("mlp_ratio", 4.0)),
          "vocab": text["vocab_size"], "length": text["context_length"],
          "pool": "eos", "padding": "read", "eos": text["vocab_size"] - 1,
      },
      "projection": {"width": known["embed_dim"], "bias": False, "only": None},
  }


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
  _refuse(settings)
  grid, channels = _clip.square(flat)
  tensors = _table.write(
      _tables(settings, grid, channels), _clip.to_theirs(flat, pixels)
  )
  image, text = settings["image"], settings["text"]
  folder = pathlib.Path(path)
  _files.write_json(folder / CONFIG, {
      "model_cfg": {
          "embed_dim": settings["projection"]["width"],
          "quick_gelu": image["activation"] == "quick_gelu",
          "vision_cfg": {
              "image_size": grid * image["patch"], "layers": image["depth"],
              "width": image["width"], "patch_size": image["patch"],
              "head_width": image["width"] // image["heads"],
              "mlp_ratio": image["mlp"] / image["width"],
          },
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
  })
  _hugging_face.save_words(folder, words)
  _files.save(folder / TENSORS, _table.fuse(tensors))


def _refuse(settings: _format.Settings) -> None:
  image, text = settings["image"], settings["text"]
  faults = [
      f"{name}.epsilon is {tower['epsilon']}, the format has {_EPSILON}"
      for name, tower in (("image", image), ("text", text))
      if tower["epsilon"] != _EPSILON
  ]
  kinds = {image["activation"], text["activation"]}
  if kinds not in ({"gelu"}, {"quick_gelu"}):
    faults.append(
        f"activations are {sorted(kinds)}, the format has 'gelu' or "
        "'quick_gelu', one for both towers"
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


def _blocks(theirs: str, ours: str) -> tuple[_table.Row, ...]:
  layer, block = f"{theirs}.resblocks.{{l}}", f"{ours}/blocks"
  return (
      *(
          Row(f"{layer}.attn.{x}_in_proj_{kind}", shape,
              f"{block}/attention/{name}/{leaf}", layout)
          for x, name in (("q", "query"), ("k", "key"), ("v", "value"))
          for kind, shape, leaf, layout in (
              ("weight", "d d", "kernel", "heads"),
              ("bias", "d", "bias", "head_bias"),
          )
      ),
      Row(f"{layer}.attn.out_proj.weight", "d d",
          f"{block}/attention/out/kernel", "joined"),
      Row(f"{layer}.attn.out_proj.bias", "d", f"{block}/attention/out/bias"),
      Row(f"{layer}.mlp.c_fc.weight", "m d", f"{block}/mlp/in/kernel",
          "linear"),
      Row(f"{layer}.mlp.c_fc.bias", "m", f"{block}/mlp/in/bias"),
      Row(f"{layer}.mlp.c_proj.weight", "d m", f"{block}/mlp/out/kernel",
          "linear"),
      Row(f"{layer}.mlp.c_proj.bias", "d", f"{block}/mlp/out/bias"),
      *_hugging_face.norm(f"{layer}.ln_1", f"{block}/attention_norm"),
      *_hugging_face.norm(f"{layer}.ln_2", f"{block}/mlp_norm"),
  )


def _tables(settings, grid, channels) -> tuple[_table.Table, ...]:
  image, text = settings["image"], settings["text"]
  width = settings["projection"]["width"]
  rows = (
      Row("visual.conv1.weight", "d c p p", "image/encoder/stem/kernel",
          "patches"),
      Row("visual.class_embedding", "d", "image/encoder/token"),
      Row("visual.positional_embedding", "n d", "image/encoder/table"),
      *_hugging_face.norm("visual.ln_pre", "image/encoder/entry_norm"),
      *_blocks("visual.transformer", "image/encoder"),
      *_hugging_face.norm("visual.ln_post", "image/encoder/norm"),
      Row("visual.proj", "d e", "image/projection/kernel"),
      Row("logit_scale", "", "objective/log_scale"),
  )
  words = (
      Row("token_embedding.weight", "v d", "text/encoder/vocabulary"),
      Row("positional_embedding", "t d", "text/encoder/positions"),
      *_blocks("transformer", "text/encoder"),
      *_hugging_face.norm("ln_final", "text/encoder/norm"),
      Row("text_projection", "d e", "text/projection/kernel"),
  )
  return (
      _table.Table(rows, _hugging_face.sizes(
          image, c=channels, p=image["patch"], n=1 + grid * grid, e=width)),
      _table.Table(words, _hugging_face.sizes(
          text, v=text["vocab"], t=text["length"], e=width)),
  )

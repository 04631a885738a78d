"""`SiglipModel` and `Siglip2Model` folders of transformers."""

import math
import os
import pathlib
from typing import Any

from basic import paths, types
from basic.data import vocabulary
from basic.weights import _files, _format, _hf_config, _hugging_face, _table

PIXELS = {"crop": "none", "method": "bicubic", **_format.PLAIN}

# The defaults of transformers for keys missing in config.json.
_BOTH = dict(
    hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, hidden_size=768,
    intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
)
_TEXT = dict(_BOTH, vocab_size=32000, max_position_embeddings=64)
_IMAGE = dict(
    _BOTH, num_channels=3, image_size=224, patch_size=16, num_patches=256,
    vision_use_head=True,
)

# Settings that all towers of this format share.
IMAGE = dict(
    name="vit", stem="patch", positions="learned", pool="attention",
    entry_norm=False,
)
TEXT = dict(
    name="text_transformer", causal=False, pool="last", padding="read",
    positions="learned",
)


def hf_siglip() -> _format.Format:
  """Reads and writes folders of SigLIP and SigLIP 2 of transformers.

  A folder of `Siglip2Model` (any number of patches) is read as a tower for square
  images: its position embeddings, learned on one square grid, are resized
  bilinearly to that of the images. Images of different shapes in one batch are not
  supported.

  Both are written as `SiglipModel`, like the published SigLIP 2 at fixed sizes:
  images here are squares of one size, as its processor makes them, while the
  processor of `Siglip2Model` keeps the aspect ratio. For square images the two
  models give the same embeddings.

  Returns:
    A format whose paths are folders. It writes a vision transformer that pools
    by attention and is not projected, and a text tower without a padding mask that
    pools its last position and is projected with a bias.
  """
  return _format.Format(_read, _write)


def _read(path: str | os.PathLike) -> _format.Weights:
  folder = pathlib.Path(path)
  config = _hf_config.read(folder, "hf_siglip")
  flexible = config.get("model_type") == "siglip2"
  text = _hf_config.section(
      config, "text_config", _TEXT, ("vocab_size", "max_position_embeddings"))
  image = _hf_config.section(
      config, "vision_config", _IMAGE,
      ("num_channels", "image_size", "patch_size", "num_patches"))
  grid = _grid(image, flexible)
  width = text.get("projection_size") or text["hidden_size"]
  _format.refuse("config.json does not describe two towers", _format.not_sizes(
      "text_config", {"projection_size": width}, ("projection_size",)))
  settings: dict[str, Any] = {
      "image": {
          **IMAGE, **_hf_config.tower(image), "patch": image["patch_size"],
      },
      "text": {
          **TEXT, **_hf_config.tower(text), "vocab": text["vocab_size"],
          "length": text["max_position_embeddings"],
      },
      "projection": {"width": width, "bias": True, "only": ("text",)},
  }
  flat = _table.read(
      _tables(settings, grid, image["num_channels"], flexible),
      _hugging_face.tensors(folder),
  )
  side = grid * image["patch_size"] if flexible else image["image_size"]
  pixels = _hugging_face.pixels(folder, side, PIXELS)
  stem = "image/encoder/stem"
  flat[f"{stem}/kernel"], flat[f"{stem}/bias"] = _format.to_signal(
      flat[f"{stem}/kernel"], flat[f"{stem}/bias"], pixels["mean"],
      pixels["std"],
  )
  places = flat["image/encoder/positions"]
  flat["image/encoder/positions"] = places.reshape(grid, grid, -1)
  settings["augment"] = _format.augment(pixels)
  settings["objective"] = {
      "name": "sigmoid",
      "scale": _format.scale(flat["objective/log_scale"], "logit_scale"),
      "bias": float(flat["objective/bias"]),
  }
  # transformers uses this class for SigLIP 2, whatever the folder names.
  words = _hugging_face.words(
      folder, text["max_position_embeddings"],
      "Siglip2Tokenizer" if flexible else None,
  )
  return _format.Weights(settings, paths.unflatten(flat), words, pixels)


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
  places, stem = flat["image/encoder/positions"], "image/encoder/stem"
  grid, channels = places.shape[1], flat[f"{stem}/kernel"].shape[2]
  width = settings["projection"]["width"]
  _format.refuse("the format cannot express these towers", [
      *([f"positions are learned on {places.shape[0]} by {grid} patches, the "
         "format has squares"] if places.shape[0] != grid else []),
      *([f"projection.width is {width}, the image tower's is "
         f"{image['width']}; without a projection they must be equal"]
        if width != image["width"] else []),
  ])
  kernel, bias = _format.from_signal(
      flat[f"{stem}/kernel"], flat[f"{stem}/bias"], pixels["mean"],
      pixels["std"],
  )
  tensors = _table.write(_tables(settings, grid, channels, False), {
      **flat, f"{stem}/kernel": kernel, f"{stem}/bias": bias,
      "image/encoder/positions": places.reshape(-1, image["width"]),
  })
  _files.write_json(pathlib.Path(path) / "config.json", {
      "architectures": ["SiglipModel"], "model_type": "siglip",
      "dtype": "float32",
      "text_config": {
          "model_type": "siglip_text_model",
          **_hf_config.tower_config(text), "vocab_size": text["vocab"],
          "max_position_embeddings": text["length"], "projection_size": width,
          "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
      },
      "vision_config": {
          "model_type": "siglip_vision_model",
          **_hf_config.tower_config(image), "num_channels": channels,
          "patch_size": image["patch"],
          "image_size": _format.side(pixels["size"], grid, image["patch"]),
      },
  })
  _files.write_json(
      pathlib.Path(path) / "preprocessor_config.json",
      _hugging_face.pixels_config(pixels, "SiglipImageProcessor"),
  )
  _hugging_face.save_words(path, words)
  _files.save(
      pathlib.Path(path) / "model.safetensors", _table.fuse(tensors)
  )


def refuse(settings: _format.Settings) -> None:
  """Raises ValueError with all settings that a SigLIP cannot have."""
  faults = [
      *_format.expect("image", settings["image"], IMAGE),
      *_format.expect("text", settings["text"], TEXT),
      *_format.expect("projection", settings["projection"], {"bias": True}),
      *_format.expect("objective", settings["objective"], {"name": "sigmoid"}),
  ]
  if tuple(settings["projection"].get("only") or ()) != ("text",):
    faults.append(
        f"projection.only is {settings['projection'].get('only')!r}, the "
        "format has ('text',)"
    )
  _format.refuse("the format cannot express these towers", faults)


def _grid(image, flexible) -> int:
  if not image["vision_use_head"]:
    raise ValueError(
        "vision_use_head is false: this image tower pools nothing, and ours "
        "is the one that pools by attention"
    )
  if not flexible:
    return image["image_size"] // image["patch_size"]
  grid = math.isqrt(image["num_patches"])
  if grid * grid != image["num_patches"]:
    raise ValueError(
        f"num_patches is {image['num_patches']}, expected a square number: "
        "positions are learned on a square grid"
    )
  return grid


def _tables(settings, grid, channels, flexible) -> tuple[_table.Table, ...]:
  image, text = settings["image"], settings["text"]
  row, names, head = _table.Row, "vision_model.embeddings", "vision_model.head"
  patch, pool = image["patch"], "image/encoder/pool"
  shape = f"d {patch * patch * channels}" if flexible else "d c p p"
  rows = (
      row(f"{names}.patch_embedding.weight", shape, "image/encoder/stem/kernel",
          "flat_patches" if flexible else "patches"),
      row(f"{names}.patch_embedding.bias", "d", "image/encoder/stem/bias"),
      row(f"{names}.position_embedding.weight", "n d",
          "image/encoder/positions"),
      *_hugging_face.blocks("vision_model", "image/encoder"),
      *_hugging_face.norm("vision_model.post_layernorm", "image/encoder/norm"),
      row(f"{head}.probe", "1 1 d", f"{pool}/probe", "vector"),
      *_hugging_face.attention(
          f"{head}.attention", f"{pool}/attention", "_in_proj_"),
      *_hugging_face.norm(f"{head}.layernorm", f"{pool}/mlp_norm"),
      *_hugging_face.mlp(f"{head}.mlp", f"{pool}/mlp"),
      row("logit_scale", "1", "objective/log_scale", "number"),
      row("logit_bias", "1", "objective/bias", "number"),
  )
  words = (
      *_hugging_face.text("text/encoder"),
      row("text_model.head.weight", "e d", "text/projection/kernel", "linear"),
      row("text_model.head.bias", "e", "text/projection/bias"),
  )
  return (
      _table.Table(rows, _hugging_face.sizes(
          image, c=channels, p=patch, n=grid * grid)),
      _table.Table(words, _hugging_face.sizes(
          text, v=text["vocab"], t=text["length"],
          e=settings["projection"]["width"])),
  )

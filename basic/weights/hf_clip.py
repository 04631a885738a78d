"""`CLIPModel` folders of transformers."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from basic import paths, types
from basic.data import vocabulary
from basic.weights import (
    _clip,
    _files,
    _format,
    _hf_config,
    _hugging_face,
    _table,
)

# The defaults of transformers for keys missing in config.json.
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
  """Reads and writes folders of `transformers.CLIPModel`.

  `MetaClip2Model` is read too. In these models the patch embedding has no bias and
  the class token has a position embedding. Here it is the other way round, so the
  bias is folded into the position embeddings, and the class token's position
  embedding into the token. Pixels here are in [-1, 1], which is folded into the
  patch embedding. Embeddings are equal; parameters need not be.

  Returns:
    A format whose paths are folders. It writes a vision transformer with a
    class token and an entry norm, and a causal text tower that pools at eos.
  """
  return _format.Format(_read, _write)


def _read(path: str | os.PathLike) -> _format.Weights:
  folder = pathlib.Path(path)
  config = {"projection_dim": 512, **_hf_config.read(folder, "hf_clip")}
  text = _hf_config.section(
      config, "text_config", _TEXT, ("vocab_size", "max_position_embeddings"))
  image = _hf_config.section(
      config, "vision_config", _IMAGE,
      ("num_channels", "image_size", "patch_size"))
  _format.refuse("config.json does not describe two towers", _format.not_sizes(
      "config", config, ("projection_dim",)))
  width = config["projection_dim"]
  words = _hugging_face.words(folder, text["max_position_embeddings"])
  settings = {
      "image": {
          **_clip.IMAGE, **_hf_config.tower(image), "patch": image["patch_size"],
      },
      "text": {
          **_clip.TEXT, **_hf_config.tower(text), "vocab": text["vocab_size"],
          "length": text["max_position_embeddings"], "pool": "eos",
          "padding": "read", "eos": _eos(config, text, words),
      },
      "projection": {"width": width, "bias": False, "only": None},
  }
  grid = image["image_size"] // image["patch_size"]
  flat = _table.read(
      _tables(settings, grid, image["num_channels"]),
      _hugging_face.tensors(folder),
  )
  pixels = _hugging_face.pixels(folder, image["image_size"], _clip.PIXELS)
  settings["augment"] = _format.augment(pixels)
  scale = _format.scale(flat["objective/log_scale"], "logit_scale")
  settings["objective"] = {"name": "softmax", "max_scale": max(100.0, scale)}
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
  family, model = _family(text)
  grid, channels = _clip.square(flat)
  tensors = _table.write(
      _tables(settings, grid, channels), _clip.to_theirs(flat, pixels)
  )
  width = settings["projection"]["width"]
  _files.write_json(pathlib.Path(path) / "config.json", {
      "architectures": [model], "model_type": family, "dtype": "float32",
      "projection_dim": width,
      "text_config": {
          "model_type": f"{family}_text_model", **_hf_config.tower_config(text),
          "vocab_size": text["vocab"],
          "max_position_embeddings": text["length"], "projection_dim": width,
          "eos_token_id": _clip.eos(text), "bos_token_id": None,
          "pad_token_id": None,
      },
      "vision_config": {
          "model_type": f"{family}_vision_model",
          **_hf_config.tower_config(image), "projection_dim": width,
          "num_channels": channels, "patch_size": image["patch"],
          "image_size": _format.side(pixels["size"], grid, image["patch"]),
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
      row("logit_scale", "", "objective/log_scale", "number"),
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


def _family(text: Mapping[str, Any]) -> tuple[str, str]:
  """(model_type, class) with which transformers pools at the same position.

  A CLIP with end token 2 would pool at the largest id instead.
  """
  if _clip.eos(text) == _OLD_EOS != text["vocab"] - 1:
    return "metaclip_2", "MetaClip2Model"
  return "clip", "CLIPModel"


def _eos(
    config: Mapping[str, Any],
    text: Mapping[str, Any],
    words: vocabulary.Vocabulary | None,
) -> int:
  """The id at which texts are pooled.

  In old files of CLIP, 2 means the largest id of each text, which is its end
  token. In MetaCLIP 2 it means id 2.
  """
  found = text["eos_token_id"]
  if found == _OLD_EOS and config.get("model_type") != "metaclip_2":
    return _clip.largest(words, text["vocab_size"])
  if type(found) is not int or not 0 <= found < text["vocab_size"]:
    raise ValueError(
        f"text_config.eos_token_id is {found!r}, expected an id from 0 to "
        f"{text['vocab_size'] - 1}: texts are pooled where it stands"
    )
  return found

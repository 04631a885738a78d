"""Converts open_clip_config.json to settings, and back."""

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from basic.data import cleaning, vocabulary
from basic.weights import _clip, _clip_resnet, _format

EPSILON = 1e-5
_NEEDED = {
    "vision_cfg": ("image_size", "width"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers"),
}
_ALLOWED = (
    "image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio",
    "context_length", "vocab_size", "heads", "hf_tokenizer_name",
    "tokenizer_kwargs",
)
# Settings of the text tower alone: at which id of a text it pools.
_POOLING = ("pool_type", "eos_id")
_CLIPS = (49_408, 49_407, "lower")  # CLIP's own: ids, the last of a text, cleaning
_log = logging.getLogger(__name__)
# The words of CLIP's tokenizer.json, as transformers writes it.
_NAMES = r"<\|startoftext\|>|<\|endoftext\|>|"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def settings(config: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
  """Settings of towers and projections, and the image size in pixels.

  Args:
    config: the content of the file.

  Raises:
    ValueError: if it describes other towers, or lacks a required setting.
  """
  known = config.get("model_cfg")
  if not isinstance(known, Mapping):
    raise ValueError(
        f"model_cfg is {known!r}, expected the settings of a model: this is no "
        "open_clip_config.json of open_clip's"
    )
  _format.refuse("open_clip's model_cfg leaves out its towers", [
      f"{name} is {known.get(name)!r}, expected settings of a tower"
      for name in _NEEDED if not isinstance(known.get(name), Mapping)
  ])
  image, text = known["vision_cfg"], known["text_cfg"]
  residual = isinstance(image.get("layers"), list)
  _format.refuse("these settings of open_clip mean other towers", [
      f"{name}.{key} is {value!r}"
      for name in _NEEDED for key, value in known[name].items()
      if key not in (*_ALLOWED, *(_POOLING if name == "text_cfg" else ()))
      or (isinstance(value, list) and (name, key) != ("vision_cfg", "layers"))
  ] + [
      f"{key} is {value!r}" for key, value in known.items()
      if key not in ("embed_dim", "quick_gelu", *_NEEDED)
  ])
  _format.refuse("these settings of open_clip say too little", [
      *_format.not_sizes("model_cfg", known, ("embed_dim",)),
      *_format.not_sizes("vision_cfg", image, _NEEDED["vision_cfg"]),
      *([] if residual else
        _format.not_sizes("vision_cfg", image, ("layers", "patch_size"))),
      *_format.not_sizes("text_cfg", text, _NEEDED["text_cfg"]),
      *_format.not_sizes(
          "vision_cfg", {"head_width": 64, **image}, ("head_width",)),
      *_ratio_faults("vision_cfg", image), *_ratio_faults("text_cfg", text),
      *_cleaning_faults(text.get("tokenizer_kwargs")), *_pooling_faults(text),
  ])
  both = {
      "activation": "quick_gelu" if known.get("quick_gelu") else "gelu",
      "epsilon": EPSILON,
  }
  return {
      "image": _clip_resnet.settings(known) if residual else _vit(image, both),
      "text": _text(text, both),
      "projection": {
          "width": known["embed_dim"], "bias": False,
          "only": ("text",) if residual else None,
      },
  }, image["image_size"]


def _pooling_faults(text: Mapping[str, Any]) -> list[str]:
  """Whether texts are pooled otherwise than at their largest or their end id."""
  kind, eos = text.get("pool_type", "argmax"), text.get("eos_id")
  if kind not in ("argmax", "eos"):
    return [f"text_cfg.pool_type is {kind!r}, expected 'argmax' or 'eos'"]
  if kind == "eos" and (type(eos) is not int or not 0 <= eos < 2**31):
    return [
        f"text_cfg.eos_id is {eos!r}, expected the id at which texts are pooled"
    ]
  return []


def _ratio_faults(name: str, tower: Mapping[str, Any]) -> list[str]:
  ratio = tower.get("mlp_ratio", 4.0)
  return [] if _format.is_number(ratio, 1e-3, 1e3) else [
      f"{name}.mlp_ratio is {ratio!r}, expected a number above 0"
  ]


def _cleaning_faults(found: Any) -> list[str]:
  good = found is None or (
      isinstance(found, Mapping) and found.keys() <= {"clean"}
      and found.get("clean", "lower") in cleaning.NAMES
  )
  return [] if good else [
      f"text_cfg.tokenizer_kwargs is {found!r}, expected a cleaning of texts, "
      f'{{"clean": "lower"}}, one of {cleaning.NAMES}'
  ]


def _vit(image: Mapping[str, Any], both: Mapping[str, Any]) -> dict[str, Any]:
  return {
      **_clip.IMAGE, **both, "width": image["width"],
      "depth": image["layers"], "patch": image["patch_size"],
      "heads": image["width"] // image.get("head_width", 64),
      "mlp": int(image["width"] * image.get("mlp_ratio", 4.0)),
  }


def _text(text: Mapping[str, Any], both: Mapping[str, Any]) -> dict[str, Any]:
  return {
      **_clip.TEXT, **both, "width": text["width"], "depth": text["layers"],
      "heads": text["heads"],
      "mlp": int(text["width"] * text.get("mlp_ratio", 4.0)),
      "vocab": text["vocab_size"], "length": text["context_length"],
      "pool": "eos", "padding": "read",
      "eos": text["eos_id"] if text.get("pool_type") == "eos" else None,
  }


def config(
    known: _format.Settings,
    grid: int,
    preprocessing: _format.Settings,
    words: vocabulary.Vocabulary | None = None,
) -> dict[str, Any]:
  """The inverse of `settings` and `pixels`.

  Args:
    known: settings of the towers, with all sizes.
    grid: patches of the image tower along each side.
    preprocessing: as in `_format.Weights`.
    words: the vocabulary; None: CLIP's.
  """
  _format.warn_of_offset(preprocessing, "round")
  image, text = known["image"], known["text"]
  if image["name"] == "clip_resnet":
    # A position is 32 pixels; average pooling drops the remainder.
    side = _format.side(preprocessing["size"], grid, 32)
    vision = _clip_resnet.vision_config(image, side)
  else:
    vision = {
        "image_size":
            _format.side(preprocessing["size"], grid, image["patch"]),
        "layers": image["depth"],
        "width": image["width"], "patch_size": image["patch"],
        "head_width": image["width"] // image["heads"],
        "mlp_ratio": ratio(image["width"], image["mlp"]),
    }
  return {
      "model_cfg": {
          "embed_dim": known["projection"]["width"],
          "quick_gelu": text["activation"] == "quick_gelu",
          "vision_cfg": vision,
          "text_cfg": {
              "context_length": text["length"], "vocab_size": text["vocab"],
              "width": text["width"], "heads": text["heads"],
              "layers": text["depth"],
              "mlp_ratio": ratio(text["width"], text["mlp"]),
              **_pooling(text), **_tokenizer(words),
          },
      },
      "preprocess_cfg": {
          "mean": list(preprocessing["mean"]),
          "std": list(preprocessing["std"]),
          "interpolation": preprocessing["method"],
          "resize_mode":
              "squash" if preprocessing["crop"] == "none" else "shortest",
      },
  }


def _pooling(text: Mapping[str, Any]) -> dict[str, Any]:
  """Where texts are pooled: at their largest id, or at another one."""
  end = _clip.eos(text)
  last = text["vocab"] - 1
  return {} if end == last else {"pool_type": "eos", "eos_id": end}


def clean(config: Mapping[str, Any]) -> str:
  """How texts are cleaned before they become ids, as in data/cleaning.py.

  Args:
    config: the content of open_clip_config.json.
  """
  text = config["model_cfg"]["text_cfg"]
  usual = "whitespace" if text.get("hf_tokenizer_name") else "lower"
  return (text.get("tokenizer_kwargs") or {}).get("clean", usual)


def as_trained(content: bytes) -> bytes:
  """A tokenizer.json of CLIP's that splits texts as open_clip does.

  That of transformers composes letters and accents once more (NFC), after
  entities were resolved, and has the names of its special tokens among its
  words. Other vocabularies are returned as they are.
  """
  words = json.loads(content)
  first = _list(words, "normalizer", "normalizers")
  split = _list(words, "pre_tokenizer", "pretokenizers")
  pattern = split[0].get("pattern") if split else None
  known = pattern.get("Regex") if isinstance(pattern, Mapping) else None
  if str(known).removeprefix(_NAMES) != _WORDS:
    return content
  split[0]["pattern"] = {"Regex": f"'\u017f|{_WORDS}"}  # Another form of 's.
  words["pre_tokenizer"]["pretokenizers"] = [split[0], *(
      {**each, "use_regex": False} for each in split[1:]  # Would part it again.
  )]
  words["normalizer"]["normalizers"] = [n for n in first if n != {"type": "NFC"}]
  return json.dumps(words).encode()


def _list(words: Any, part: str, name: str) -> list[Any]:
  """The members of a sequence in a tokenizer.json."""
  group = words.get(part) if isinstance(words, Mapping) else None
  found = group.get(name) if isinstance(group, Mapping) else None
  if isinstance(found, list) and all(isinstance(x, Mapping) for x in found):
    return found
  return []


def _tokenizer(words: vocabulary.Vocabulary | None) -> dict[str, Any]:
  """The settings with which open_clip gives texts the same ids."""
  if words is None or (words.vocab, words.end, words.clean) == _CLIPS:
    return {}
  if words.clean in (None, "none"):
    _log.warning(
        "this run does not clean texts, and open_clip always does: texts with "
        "mojibake or HTML entities have other ids there; tokenizer.clean="
        "'whitespace' trains as open_clip reads"
    )
    return {"hf_tokenizer_name": "."}
  # With a name, open_clip reads the files beside this one.
  return {"hf_tokenizer_name": ".", "tokenizer_kwargs": {"clean": words.clean}}


def ratio(width: int, mlp: int) -> float:
  """The ratio r for which open_clip computes int(width r) = mlp.

  The quotient itself may round down: int(376 (3072 / 376)) is 3071.
  """
  found = mlp / width
  return found if int(width * found) == mlp else math.nextafter(found, math.inf)


def pixels(found: Any, size: int) -> dict[str, Any]:
  """The preprocessing of a `preprocess_cfg`, as settings of images.augment.

  Raises:
    ValueError: if images.augment cannot do it.
  """
  if not isinstance(found, Mapping):
    raise ValueError(f"preprocess_cfg is {found!r}, expected a JSON object")
  found = {key: value for key, value in found.items() if value is not None}
  mode = found.get("resize_mode", "shortest")
  method = found.get("interpolation", "bicubic")
  _format.refuse("the preprocessing of preprocess_cfg is not one of ours", [
      *([f"resize_mode is {mode!r}, ours are 'shortest' and 'squash'"]
        if mode not in ("shortest", "squash") else []),
      *([f"interpolation is {method!r}, ours are 'bilinear' and 'bicubic'"]
        if method not in ("bilinear", "bicubic") else []),
  ])
  return {
      "size": size, "crop": "center" if mode == "shortest" else "none",
      "method": method, **_format.offset(mode == "shortest", "round"),
      "mean": _format.channels(
          found.get("mean", _clip.MEAN), "preprocess_cfg.mean"),
      "std": _format.channels(found.get("std", _clip.STD), "preprocess_cfg.std"),
  }

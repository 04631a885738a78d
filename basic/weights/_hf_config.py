"""Converts a config.json of transformers to settings of two towers, and back."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from basic.weights import _files, _format

ACTIVATIONS = {
    "gelu": "gelu", "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
}
_SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size",
)
# model_type -> the format that reads it.
_READERS = {
    "clip": "hf_clip", "metaclip_2": "hf_clip", "siglip": "hf_siglip",
    "siglip2": "hf_siglip",
}


def read(folder: str | os.PathLike, reader: str) -> dict[str, Any]:
  """A folder's config.json, if its `model_type` is one that a format reads.

  Many models of transformers share tensor names but pool, mask or resize
  differently, so only those that are known to compute the same are read.

  Args:
    folder: with config.json.
    reader: name of the format: "hf_clip" or "hf_siglip".

  Raises:
    ValueError: naming the `model_type`, if it is another one.
  """
  path = pathlib.Path(folder) / "config.json"
  config = _files.read_json(path)
  kind = config.get("model_type")
  if kind is None or _READERS.get(str(kind)) == reader:
    if reader == "hf_siglip":  # Only CLIP has the sections twice.
      config = {k: v for k, v in config.items() if not k.endswith("_dict")}
    return config
  known = [name for name, format in _READERS.items() if format == reader]
  if str(kind) in _READERS:
    why = f"which weights.name={_READERS[kind]!r} reads"
  elif str(kind).endswith("_vision_model"):
    why = "an image tower alone, and this format is of two towers"
  elif str(kind).endswith("_text_model"):
    why = "a text tower alone, and this format is of two towers"
  else:
    why = "another model, even where its tensors have the same names"
  raise ValueError(
      f"{path}: model_type is {kind!r}, {why}; {reader} reads "
      f"{' and '.join(map(repr, known))}"
  )


def section(
    config: Mapping[str, Any],
    name: str,
    defaults: Mapping[str, Any],
    sizes: tuple[str, ...] = (),
) -> dict[str, Any]:
  """The section of one tower in a config.json, with defaults filled in.

  Old files of CLIP have each section twice. `text_config_dict`, completed by the
  defaults, overrides `text_config`, as in transformers.

  Args:
    config: of the model.
    name: "text_config" or "vision_config".
    defaults: the defaults of transformers for missing keys.
    sizes: further keys whose values are positive integers.

  Raises:
    ValueError: if a size is not a positive integer, the heads do not divide the
      width, or the epsilon is not a small positive number.
  """
  given, override = config.get(name), config.get(f"{name}_dict")
  _format.refuse("config.json does not describe two towers", [
      f"{key} is {value!r}, expected a JSON object"
      for key, value in ((name, given), (f"{name}_dict", override))
      if not isinstance(value, Mapping | None)
  ])
  if override is None:
    found = {**defaults, **(given or {})}
  else:
    found = {**(given or {}), **defaults, **override}
  faults = _format.not_sizes(name, found, (*_SIZES, *sizes))
  if not faults and found["hidden_size"] % found["num_attention_heads"]:
    faults.append(
        f"{name}.num_attention_heads is {found['num_attention_heads']}, which "
        f"does not divide hidden_size, {found['hidden_size']}"
    )
  epsilon = found["layer_norm_eps"]
  if not _format.is_number(epsilon, 1e-30, 1.0):
    faults.append(
        f"{name}.layer_norm_eps is {epsilon!r}, expected a number between 0 "
        "and 1"
    )
  if not isinstance(found["hidden_act"], str) or (
      found["hidden_act"] not in ACTIVATIONS):
    faults.append(
        f"{name}.hidden_act is {found['hidden_act']!r}; our towers have "
        f"{', '.join(sorted(ACTIVATIONS))}"
    )
  _format.refuse("config.json does not describe towers of ours", faults)
  return found


def tower(config: Mapping[str, Any]) -> dict[str, Any]:
  """Settings that image and text encoders share, from a `section`."""
  return {
      "width": config["hidden_size"], "depth": config["num_hidden_layers"],
      "heads": config["num_attention_heads"],
      "mlp": config["intermediate_size"],
      "activation": ACTIVATIONS[config["hidden_act"]],
      "epsilon": config["layer_norm_eps"],
  }


def tower_config(settings: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `tower`."""
  names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
  return {
      "hidden_size": settings["width"],
      "num_hidden_layers": settings["depth"],
      "num_attention_heads": settings["heads"],
      "intermediate_size": settings["mlp"],
      "hidden_act": names[settings["activation"]],
      "layer_norm_eps": settings["epsilon"],
  }


def check_towers(tensors: Mapping[str, Any]) -> None:
  """Raises ValueError if all tensors of one tower are missing."""
  prefixes = {name.partition(".")[0] for name in tensors}
  present = prefixes & {"vision_model", "text_model"}
  if len(present) == 1:
    alone = "an image" if "vision_model" in present else "a text"
    raise ValueError(
        f"these tensors are {alone} tower alone: of the "
        f"{'text' if 'vision_model' in present else 'image'} tower there is "
        "nothing, and this format is of two towers"
    )

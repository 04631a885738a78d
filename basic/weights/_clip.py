"""Common parts of CLIP checkpoints, independent of tensor names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from basic.data import vocabulary
from basic.weights import _format

# Statistics of OpenAI's data, in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PIXELS = {
    "crop": "center", "method": "bicubic", "offset": "floor", "mean": MEAN,
    "std": STD,
}

# Settings that all towers of this format share.
IMAGE = dict(
    name="vit", stem="patch", positions="learned", pool="token",
    entry_norm=True,
)
TEXT = dict(name="text_transformer", causal=True, positions="learned")


def refuse(
    settings: _format.Settings,
    image: _format.Settings = IMAGE,
    only: tuple[str, ...] = (),
) -> None:
  """Raises ValueError with all settings that a CLIP cannot have.

  Args:
    settings: of a run.
    image: the required settings of the image tower.
    only: the towers to be projected; () for both.
  """
  faults = _format.expect("image", settings["image"], image)
  faults += _format.expect("text", settings["text"], TEXT)
  faults += _pooling(settings["text"])
  if settings["projection"]["width"] is None:
    faults.append("projection.width is None, the format has a projection")
  faults += _format.expect(
      "projection", settings["projection"], {"bias": False}
  )
  found = tuple(settings["projection"].get("only") or ())
  if found != only:
    faults.append(
        f"projection.only is {found or None}, the format has {only or None}"
    )
  faults += _format.expect(
      "objective", settings["objective"], {"name": "softmax"}
  )
  _format.refuse("the format cannot express these towers", faults)


def _pooling(text: _format.Settings | None) -> list[str]:
  """Reasons why a text tower pools elsewhere than the format."""
  if text is None or text["pool"] == "eos":
    return []
  if text["pool"] != "last":
    return [
        f"text.pool is {text['pool']!r}, the format has 'eos', and 'last' "
        "where texts end in eos, as our tokenizer's do"
    ]
  return [
      f"text.pool is 'last' and text.padding {text['padding']!r}: the last "
      "position is padding, and the format pools at eos; it has padding='masked'"
  ] if text["padding"] != "masked" else []


def to_ours(
    flat: Mapping[str, Any], grid: int, pixels: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Folds pixel statistics and the class token's position embedding into parameters.

  Args:
    flat: by path, with "image/encoder/table" [1 + grid^2, d], that of the class
      token first, and a stem without bias.
    grid: patches along each side.
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
  """The inverse of `to_ours`, with zeros as the class token's position embedding."""
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


def square(flat: Mapping[str, Any]) -> tuple[int, int]:
  """(patches along each side, channels) of an image tower, from its parameters.

  Raises:
    ValueError: if its position embeddings are not a square grid.
  """
  height, width = flat["image/encoder/positions"].shape[:2]
  _format.refuse("the format has square images", [
      f"positions are learned on {height} by {width} patches"
  ] if height != width else [])
  return width, flat["image/encoder/stem/kernel"].shape[2]


def largest(words: vocabulary.Vocabulary | None, vocab: int) -> int:
  """The end token of a tower that pools at the largest id of a text.

  Args:
    words: the tower's vocabulary; None: the end token is the last id.
    vocab: rows of the embedding table, which may exceed the vocabulary.
  """
  end = None if words is None else words.end
  return vocab - 1 if end is None else end


def eos(text: Mapping[str, Any]) -> int:
  """The end token at which a text tower pools."""
  return text["eos"] if text["pool"] == "eos" else 3  # this library's own

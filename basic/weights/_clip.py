"""What every checkpoint of a CLIP shares, however it names its tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from basic.data import vocabulary
from basic.weights import _format

# Of OpenAI's data, in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PIXELS = {"crop": "center", "method": "bicubic", "mean": MEAN, "std": STD}

# What every tower of this kind is, in our settings.
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
  """Raises ValueError with all that makes these towers no CLIP.

  Args:
    settings: of a run.
    image: what the image tower is to be.
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
  """Where a text tower of ours pools that the format's would not."""
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
  """Folds the position of the class token, and the pixels, into parameters.

  Args:
    flat: by path, with "image/encoder/table" [1 + grid^2, d], that of the class
      token first, and a stem without bias.
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
  """(patches each way, channels) of our image tower, by path.

  Raises:
    ValueError: if its positions are no square grid.
  """
  height, width = flat["image/encoder/positions"].shape[:2]
  _format.refuse("the format has square images", [
      f"positions are learned on {height} by {width} patches"
  ] if height != width else [])
  return width, flat["image/encoder/stem/kernel"].shape[2]


def largest(words: vocabulary.Vocabulary | None, vocab: int) -> int:
  """The id that ends texts of a tower that pools at each text's largest id.

  Args:
    words: the tower's vocabulary, which says it; None: it is the last id.
    vocab: ids that the tower knows; there may be more than the vocabulary's.
  """
  end = None if words is None else words.end
  return vocab - 1 if end is None else end


def eos(text: Mapping[str, Any]) -> int:
  """The id that ends a text, where a text tower of ours pools."""
  return text["eos"] if text["pool"] == "eos" else 3  # our tokenizer's

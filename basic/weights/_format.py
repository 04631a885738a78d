"""The interface of checkpoint formats: reading and writing pretrained weights."""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from basic import types
from basic.data import vocabulary

Settings = Mapping[str, Any]
_log = logging.getLogger(__name__)


class Weights(NamedTuple):
  """Pretrained towers, under the parameter paths and settings of this library.

  Attributes:
    settings: groups of an experiment's configuration that these weights need:
      "image", "text", "projection", "objective", "augment".
    params: {"image": ..., "text": ..., "objective": ...}, float32 NumPy.
    vocabulary: text -> ids; None if the checkpoint has none.
    preprocessing: how an image is resized and cropped: `size`, `crop`, `method`
      and `offset` as in images.augment, and the `mean` and `std` (of values in
      [0, 1]) that the original first layer expects. The layer read here is converted to
      [-1, 1], so these two matter only when weights are written back.
  """

  settings: Settings
  params: types.Params
  vocabulary: vocabulary.Vocabulary | None
  preprocessing: Settings


class Format(NamedTuple):
  """A checkpoint format of another library.

  Attributes:
    read: path -> Weights. Raises ValueError, with a list of missing and
      unexpected tensors, and of other shapes.
    write: (path, *weights) -> None: the fields of `Weights`, in that order.
      Raises ValueError, with a list of what the format cannot represent.
  """

  read: Callable[[str | os.PathLike], Weights]
  write: Callable[..., None]


# The towers of this library take values in [-1, 1] for values in [0, 1].
PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def to_signal(
    kernel: np.ndarray, bias: np.ndarray, mean: Any, std: Any
) -> tuple[np.ndarray, np.ndarray]:
  """A first layer over (x - mean) / std, as one over 2 x - 1, x in [0, 1].

      k * (x - m) / s + b  =  k / (2 s) * (2 x - 1)  +  b + sum k (1/2 - m) / s

  Exact for layers without padding, such as patch embeddings.

  Args:
    kernel: [h w c d].
    bias: [d].
    mean: c numbers.
    std: c numbers.

  Returns:
    (kernel, bias).

  Raises:
    ValueError: if there are not c numbers.
  """
  check_channels(kernel, mean, std)
  mean, std = (np.asarray(x, np.float64)[:, None] for x in (mean, std))
  exact = kernel.astype(np.float64)
  moved = bias + np.sum(exact * ((0.5 - mean) / std), (0, 1, 2))
  scaled = exact / (2 * std)
  return scaled.astype(np.float32), moved.astype(np.float32)


def from_signal(
    kernel: np.ndarray, bias: np.ndarray, mean: Any, std: Any
) -> tuple[np.ndarray, np.ndarray]:
  """The inverse of `to_signal`."""
  check_channels(kernel, mean, std)
  mean, std = (np.asarray(x, np.float64)[:, None] for x in (mean, std))
  exact = kernel.astype(np.float64) * 2 * std
  moved = bias - np.sum(exact * ((0.5 - mean) / std), (0, 1, 2))
  return exact.astype(np.float32), moved.astype(np.float32)


def channels(found: Any, name: str) -> tuple[float, ...]:
  """A mean or standard deviation from a file, a list or one number, as a tuple.

  Raises:
    ValueError: if it is neither, or a deviation is not positive.
  """
  values = found if isinstance(found, list | tuple) else [found]
  least = 1e-6 if "std" in name else -1e6
  if not values or not all(is_number(x, least, 1e6) for x in values):
    raise ValueError(
        f"{name} is {found!r}, expected a number for each channel, or one for "
        f"all{', above 0' if 'std' in name else ''}"
    )
  return tuple(float(x) for x in values)


def is_number(value: Any, least: float, most: float) -> bool:
  """Whether a JSON value is a number in this closed range; NaN is not."""
  return type(value) in (int, float) and least <= value <= most


def check_channels(kernel: np.ndarray, mean: Any, std: Any) -> None:
  """Raises ValueError if mean and deviation do not have one number per channel."""
  count = kernel.shape[2]
  refuse("the first layer does not fit the pixels", [
      f"it reads {count} channels, and {name} has {len(found)}: {tuple(found)}"
      for name, found in (("mean", mean), ("std", std)) if len(found) != count
  ])


def expect(name: str, found: Settings | None, wanted: Settings) -> list[str]:
  """Lists settings that differ from the only ones a format can represent."""
  if found is None:
    return [f"{name} is None, the format has {wanted.get('name', 'one')!r}"]
  return [
      f"{name}.{key} is {found.get(key)!r}, the format has {value!r}"
      for key, value in wanted.items()
      if found.get(key) != value
  ]


def not_sizes(
    name: str, found: Settings, keys: Sequence[str]
) -> list[str]:
  """Which of these values are not positive 32-bit integers."""
  return [
      f"{name}.{key} is {found.get(key)!r}, expected a whole number above 0"
      for key in keys
      if type(found.get(key)) is not int or not 0 < found[key] < 2**31
  ]


def scale(log_scale: Any, name: str) -> float:
  """The scale of the logits, the exponential of a parameter.

  Args:
    log_scale: the parameter, one number.
    name: of its tensor.

  Raises:
    ValueError: if the scale is not a finite float32.
  """
  log_scale = float(log_scale)
  if not -80 < log_scale < 80:  # Also for NaN.
    raise ValueError(
        f"{name} is {log_scale:g}, expected the logarithm of a scale, such as "
        "4.6 for 100: the file is damaged, or of a run that diverged"
    )
  return math.exp(log_scale)


def augment(preprocessing: Settings) -> dict[str, Any]:
  """The settings of images.augment in a preprocessing of weights."""
  return {
      key: preprocessing[key] for key in ("size", "crop", "method", "offset")
      if key in preprocessing
  }


def offset(centered: bool, rule: str) -> dict[str, str]:
  """The setting `offset` of images.augment; none where nothing is cropped."""
  return {"offset": rule} if centered else {}


def warn_of_offset(preprocessing: Settings, theirs: str) -> None:
  """Logs a warning where a format's readers crop another center than the run."""
  ours = preprocessing.get("offset", theirs)
  if preprocessing["crop"] == "center" and ours != theirs:
    _log.warning(
        "images were cropped with offset=%r, and readers of this format crop "
        "with %r: where margins are odd, images move by a pixel", ours, theirs,
    )


def side(size: int, grid: int, patch: int) -> int:
  """The image size that a file names, checked against a grid of patches.

  Pixels beyond the last whole patch are dropped by the first layer: 384 pixels are
  27 patches of 14 and 6 pixels.
  """
  return size if size // patch == grid else grid * patch


def refuse(what: str, faults: list[str]) -> None:
  """Raises ValueError with the list of all faults, if there are any."""
  if faults:
    raise ValueError("\n  ".join([f"{what}:", *faults]))

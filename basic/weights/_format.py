"""What a foreign checkpoint is to us: weights in our paths, and a way back."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from basic import types
from basic.data import vocabulary

Settings = Mapping[str, Any]


class Weights(NamedTuple):
  """A trained pair of towers, in our words.

  Attributes:
    settings: groups of an experiment's configuration that these weights need:
      "image", "text", "projection", "objective", "augment".
    params: {"image": ..., "text": ..., "objective": ...}, float32 NumPy.
    vocabulary: text to ids; None where the checkpoint holds none.
    preprocessing: how an image is resized and cropped: `size`, `crop` and `method` as
      in images.augment, and the `mean` and `std` (of values in [0, 1]) that
      the checkpoint's own first layer expects. Ours expects [-1, 1]: what was
      read is converted, so these two matter to who writes it back.
  """

  settings: Settings
  params: types.Params
  vocabulary: vocabulary.Vocabulary | None
  preprocessing: Settings


class Format(NamedTuple):
  """A foreign layout of weights on disk.

  Attributes:
    read: path -> Weights. Raises ValueError, with a list of what is missing,
      left over or of another shape.
    write: (path, *weights) -> None: what `Weights` holds, in that order.
      Raises ValueError, with a list of what the format cannot express.
  """

  read: Callable[[str | os.PathLike], Weights]
  write: Callable[..., None]


# Images as our towers take them: values in [0, 1] become values in [-1, 1].
PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def to_signal(
    kernel: np.ndarray, bias: np.ndarray, mean: Any, std: Any
) -> tuple[np.ndarray, np.ndarray]:
  """A first layer over (x - mean) / std, as one over 2 x - 1, x in [0, 1].

      k * (x - m) / s + b  =  k / (2 s) * (2 x - 1)  +  b + sum k (1/2 - m) / s

  Exact for patches, which no padding touches.

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
  """A mean or deviation as files have it, a list or one number, as numbers.

  Raises:
    ValueError: if it is neither, or a deviation is not above 0.
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
  """Whether JSON holds a number in this closed range, which no NaN is in."""
  return type(value) in (int, float) and least <= value <= most


def check_channels(kernel: np.ndarray, mean: Any, std: Any) -> None:
  """Refuses pixels [h w c d] does not read: one number would serve all c."""
  count = kernel.shape[2]
  refuse("the first layer does not fit the pixels", [
      f"it reads {count} channels, and {name} has {len(found)}: {tuple(found)}"
      for name, found in (("mean", mean), ("std", std)) if len(found) != count
  ])


def expect(name: str, found: Settings | None, wanted: Settings) -> list[str]:
  """What a format cannot express: settings other than those it stands for."""
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
  """Which of these values are no whole numbers above 0, or none of 32 bits."""
  return [
      f"{name}.{key} is {found.get(key)!r}, expected a whole number above 0"
      for key in keys
      if type(found.get(key)) is not int or not 0 < found[key] < 2**31
  ]


def scale(log_scale: Any, name: str) -> float:
  """The factor of the similarities, exp of a parameter.

  Args:
    log_scale: the parameter, one number.
    name: of its tensor.

  Raises:
    ValueError: if the factor is no finite float32.
  """
  log_scale = float(log_scale)
  if not -80 < log_scale < 80:  # Also for NaN.
    raise ValueError(
        f"{name} is {log_scale:g}, expected the logarithm of a scale, such as "
        "4.6 for 100: the file is damaged, or of a run that diverged"
    )
  return math.exp(log_scale)


def side(size: int, grid: int, patch: int) -> int:
  """The side of images that a file names, whose patches are `grid` each way.

  It is that of the images where so many patches fit into it: what is over, the
  first layer drops (384 pixels are 27 patches of 14, and 6 pixels).
  """
  return size if size // patch == grid else grid * patch


def refuse(what: str, faults: list[str]) -> None:
  """Raises ValueError with all faults, if there are any."""
  if faults:
    raise ValueError("\n  ".join([f"{what}:", *faults]))

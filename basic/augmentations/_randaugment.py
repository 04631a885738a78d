"""RandAugment: operations drawn from a table, all of one magnitude.

References:
  Cubuk et al., RandAugment, 2019. https://arxiv.org/abs/1909.13719
  The table and its ranges are torchvision's `transforms.RandAugment`.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from basic.augmentations import _photometric

GREATEST = 30  # magnitude
Pixels = _photometric.Pixels


def _affine(image: Pixels, matrix: list) -> Pixels:
  """Each pixel comes from `matrix` times its place; from outside, black."""
  height, width = image.shape[:2]
  moved = cv2.warpAffine(
      image, np.array(matrix, np.float64), (width, height),
      flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
      borderMode=cv2.BORDER_CONSTANT, borderValue=0,
  )
  return moved.reshape(image.shape)


def shear_x(image: Pixels, slope: float) -> Pixels:
  """Moves each row by its distance from the first one, times the slope."""
  return _affine(image, [[1, slope, 0], [0, 1, 0]])


def shear_y(image: Pixels, slope: float) -> Pixels:
  """Moves each column by its distance from the first one, times the slope."""
  return _affine(image, [[1, 0, 0], [slope, 1, 0]])


def translate_x(image: Pixels, share: float) -> Pixels:
  """Moves the image right by a share of its width, in whole pixels."""
  return _affine(image, [[1, 0, -int(share * image.shape[1])], [0, 1, 0]])


def translate_y(image: Pixels, share: float) -> Pixels:
  """Moves the image down by a share of its height, in whole pixels."""
  return _affine(image, [[1, 0, 0], [0, 1, -int(share * image.shape[0])]])


def rotate(image: Pixels, degrees: float) -> Pixels:
  """Turns the image about its center, counterclockwise."""
  cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  y, x = (image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2
  return _affine(image, [
      [cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y],
  ])


def _enhance(change: Callable) -> Callable:
  return lambda image, amount: change(image, 1 + amount)


def _signed(greatest: float) -> Callable[[float], float]:
  return lambda share: greatest * share


# name -> (operation, share of the greatest magnitude -> its amount, whether the
# amount is negative for half of the images).
OPERATIONS: dict[str, tuple[Callable, Callable, bool]] = {
    "identity": (lambda image, _: image, lambda share: share, False),
    "shear_x": (shear_x, _signed(0.3), True),
    "shear_y": (shear_y, _signed(0.3), True),
    "translate_x": (translate_x, _signed(150 / 331), True),
    "translate_y": (translate_y, _signed(150 / 331), True),
    "rotate": (rotate, _signed(30.0), True),
    "brightness": (_enhance(_photometric.brightness), _signed(0.9), True),
    "color": (_enhance(_photometric.saturation), _signed(0.9), True),
    "contrast": (_enhance(_photometric.contrast), _signed(0.9), True),
    "sharpness": (_enhance(_photometric.sharpness), _signed(0.9), True),
    "posterize": (
        _photometric.posterize, lambda share: 8 - round(4 * share), False),
    "solarize": (
        _photometric.solarize, lambda share: 255 - 255 * share, False),
    "autocontrast": (
        lambda image, _: _photometric.autocontrast(image),
        lambda share: share, False),
    "equalize": (
        lambda image, _: _photometric.equalize(image), lambda share: share, False),
}
_NAMES = tuple(OPERATIONS)


def randaugment(
    image: Pixels, count: int, magnitude: int, rng: np.random.Generator
) -> Pixels:
  """Applies `count` operations, drawn with replacement.

  Args:
    image: pixels.
    count: of operations.
    magnitude: of all of them, 0 to 30; the paper's best lie around 9.
    rng: where it draws.
  """
  for _ in range(count):
    change, amount, signed = OPERATIONS[_NAMES[rng.integers(len(_NAMES))]]
    sign = -1 if signed and rng.random() < 0.5 else 1
    image = change(image, sign * amount(magnitude / GREATEST))
  return image

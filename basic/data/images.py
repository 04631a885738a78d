"""Resizing, cropping and flipping of images for a tower."""

import dataclasses
import math
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

_METHODS = ("area", "bilinear", "bicubic")

# (image, generator or None) -> image. Without a generator it is deterministic.
Augment = Callable[
    [UInt8[np.ndarray, "h w c"], np.random.Generator | None],
    UInt8[np.ndarray, "i j c"],
]


def resize(
    image: UInt8[np.ndarray, "h w c"],
    size: int,
    crop: str = "center",
    method: str = "area",
) -> UInt8[np.ndarray, "s s c"]:
  """Resizes an image to a square, deterministically.

  Args:
    image: pixels.
    size: height and width of the result, in pixels.
    crop: "center" resizes the shorter side to `size` and crops the center;
      "none" resizes both sides, and does not keep the aspect ratio.
    method: "area" averages areas when shrinking and is bicubic when enlarging;
      "bilinear" and "bicubic" equal Pillow's bit for bit, for weights that were
      trained with them.

  Returns:
    Pixels, in a new array, or `image` itself if nothing changes.

  Raises:
    ValueError: if `crop` or `method` is not one of these.
  """
  if crop not in ("center", "none"):
    raise ValueError(f"crop is {crop!r}; expected 'center' or 'none'")
  if method not in _METHODS:
    raise ValueError(f"method is {method!r}; expected one of {_METHODS}")
  if method != "area":
    return _resize_as_pillow(image, size, crop, method)
  if crop == "center":
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[top:top + side, left:left + side]
  return _scale(image, size)


def _resize_as_pillow(image, size, crop, method):
  """Resizes, then crops: the other order changes pixels at the edges."""
  height, width = image.shape[:2]
  new_height, new_width = size, size
  if crop == "center":
    shorter = min(height, width)
    new_height = int(size * height / shorter)
    new_width = int(size * width / shorter)
  if (new_height, new_width) != (height, width):
    pixels = image if image.shape[2] > 1 else image[..., 0]
    image = np.asarray(Image.fromarray(pixels).resize(
        (new_width, new_height), Image.Resampling[method.upper()]
    )).reshape(new_height, new_width, image.shape[2])
  top, left = (new_height - size) // 2, (new_width - size) // 2
  return image[top:top + size, left:left + size]


def random_crop(
    image: UInt8[np.ndarray, "h w c"],
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.3, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, "s s c"]:
  """Crops a random rectangle of an image and resizes it to a square.

  The area of the crop is uniform in `scale`, its aspect ratio log-uniform in
  `ratio`. If ten draws do not fit in the image, the center is cropped, as in
  `resize`.

  Args:
    image: pixels.
    size: height and width of the result, in pixels.
    rng: of the draws.
    scale: least and greatest fraction of the image's area, in (0, 1].
    ratio: least and greatest width over height, positive.

  Returns:
    Pixels.

  References:
    Szegedy et al., Going Deeper with Convolutions, 2014, section 6.
    https://arxiv.org/abs/1409.4842
  """
  height, width = image.shape[:2]
  for _ in range(10):
    area = rng.uniform(*scale) * height * width
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
    if 0 < h <= height and 0 < w <= width:
      top = rng.integers(height - h, endpoint=True)
      left = rng.integers(width - w, endpoint=True)
      return _scale(image[top:top + h, left:left + w], size)
  return resize(image, size)


def flip(
    image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w c"]:
  """Flips an image horizontally, with probability 1/2.

  A flipped image no longer fits captions that say "left", or that quote text in
  the image.
  """
  return image[:, ::-1] if rng.random() < 0.5 else image


def augment(
    *,
    size: int | None = None,
    crop: str = "none",
    mirror: bool = False,
    scale: tuple[float, float] = (0.3, 1.0),
    method: str = "area",
) -> Augment:
  """Makes the function that a pipeline applies to every image.

  Called with an image and a generator, it crops and flips at random; called
  with None in place of the generator, it crops the center and does not flip.

  Args:
    size: height and width of the result in pixels; None does not resize.
    crop: "none" resizes without keeping the aspect ratio, "center" crops the
      center, "random" crops at random (`random_crop`).
    mirror: whether images are flipped horizontally at random (`flip`).
    scale: for random crops, the least and greatest fraction of the area.
    method: of resizing where the crop is not random (`resize`).

  Returns:
    (image, generator or None) -> image; it can be pickled.

  Raises:
    ValueError: if `crop` or `method` is not one of these, if `crop` has no
      size, or if `scale` is not ascending within (0, 1].

  Example:
    >>> image = np.zeros((6, 4, 3), np.uint8)
    >>> augment(size=2, crop="random")(image, None).shape
    (2, 2, 3)
  """
  if crop not in ("none", "center", "random"):
    raise ValueError(f"crop is {crop!r}; expected 'none', 'center' or 'random'")
  if crop != "none" and size is None:
    raise ValueError(f"crop={crop!r} needs a size in pixels")
  if not 0 < scale[0] <= scale[1] <= 1:
    raise ValueError(f"scale is {scale}; expected 0 < least <= greatest <= 1")
  if method not in _METHODS:
    raise ValueError(f"method is {method!r}; expected one of {_METHODS}")
  return _Augment(size, crop, mirror, (scale[0], scale[1]), method)


@dataclasses.dataclass(frozen=True)
class _Augment:
  size: int | None
  crop: str
  mirror: bool
  scale: tuple[float, float]
  method: str

  def __call__(
      self,
      image: UInt8[np.ndarray, "h w c"],
      rng: np.random.Generator | None = None,
  ) -> UInt8[np.ndarray, "i j c"]:
    if self.size is None:
      pass
    elif self.crop == "random" and rng is not None:
      image = random_crop(image, self.size, rng, self.scale)
    else:
      crop = "none" if self.crop == "none" else "center"
      image = resize(image, self.size, crop, self.method)
    if self.mirror and rng is not None:
      image = flip(image, rng)
    return np.ascontiguousarray(image)


def _scale(
    image: UInt8[np.ndarray, "h w c"], size: int
) -> UInt8[np.ndarray, "s s c"]:
  """Resizes to a square: area averages when shrinking, bicubic otherwise."""
  if image.shape[:2] == (size, size):
    return image
  smaller = size < max(image.shape[:2])
  method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
  scaled = cv2.resize(image, (size, size), interpolation=method)
  return scaled.reshape(size, size, image.shape[2])

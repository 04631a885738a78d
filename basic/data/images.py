"""Resizing, cropping and flipping of images for a tower."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from basic.data import decoding

# Examples are prepared by threads of the pipeline; more within each only wait.
cv2.setNumThreads(1)

_METHODS = ("area", "bilinear", "bicubic")
_OFFSETS = ("floor", "round")

Pixels = UInt8[np.ndarray, "h w c"] | decoding.Encoded
# (image or its file, generator or None) -> image. Without a generator it is
# deterministic.
Augment = Callable[
    [Pixels, np.random.Generator | None], UInt8[np.ndarray, "i j c"]
]


def resize(
    image: UInt8[np.ndarray, "h w c"],
    size: int,
    crop: str = "center",
    method: str = "area",
    offset: str = "floor",
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
    offset: where the center begins if the margins cannot be equal: "floor" at
      (h - s) // 2, as transformers does; "round" at round((h - s) / 2), half to
      even, as torchvision does, so also open_clip and timm.

  Returns:
    Pixels, in a new array, or `image` itself if nothing changes.

  Raises:
    ValueError: if `crop`, `method` or `offset` is not one of these.
  """
  if crop not in ("center", "none"):
    raise ValueError(f"crop is {crop!r}; expected 'center' or 'none'")
  if method not in _METHODS:
    raise ValueError(f"method is {method!r}; expected one of {_METHODS}")
  if offset not in _OFFSETS:
    raise ValueError(f"offset is {offset!r}; expected one of {_OFFSETS}")
  if method != "area":
    return _resize_as_pillow(image, size, crop, method, offset)
  if crop == "center":
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = _begin(height, side, offset), _begin(width, side, offset)
    image = image[top:top + side, left:left + side]
  return _scale(image, size)


def _begin(length: int, side: int, offset: str) -> int:
  """The first row or column of the center."""
  margins = length - side
  return margins // 2 if offset == "floor" else round(margins / 2)


def _resize_as_pillow(image, size, crop, method, offset):
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
  top = _begin(new_height, size, offset)
  left = _begin(new_width, size, offset)
  return image[top:top + size, left:left + size]


def random_crop(
    image: Pixels,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.3, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, "s s c"]:
  """Crops a random part of an image and resizes it to a square (Inception style).

  Where no part with a drawn area and aspect ratio fits, ten times in a row, it
  crops the center instead. A large JPEG file is decoded at a half, a quarter or
  an eighth of its size where the part then still has `size` pixels a side.

  Args:
    image: pixels, or the file that holds them.
    size: height and width of the result, in pixels.
    rng: where it draws.
    scale: least and greatest fraction of the image's area, in (0, 1].
    ratio: least and greatest width over height, positive.

  Returns:
    Pixels.

  Raises:
    types.Unreadable: if the file cannot be decoded.

  References:
    Szegedy et al., Going Deeper with Convolutions, 2014, section 6.
    https://arxiv.org/abs/1409.4842
  """
  encoded = isinstance(image, decoding.Encoded)
  height, width = image.size if encoded else image.shape[:2]
  box = draw_crop(height, width, rng, scale, ratio)
  if box is None:
    return resize(image.decode() if encoded else image, size)
  return cuts(image, [box], size)[0]


def draw_crop(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int] | None:
  """Draws the part of an image for `random_crop`.

  Args:
    height: of the image, in pixels.
    width: of the image, in pixels.
    rng: where it draws.
    scale: least and greatest fraction of the image's area, in (0, 1].
    ratio: least and greatest width over height, positive.

  Returns:
    (top, left, height, width) in pixels; None if nothing fitted ten times.
  """
  for _ in range(10):
    area = rng.uniform(*scale) * height * width
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
    if 0 < h <= height and 0 < w <= width:
      top = rng.integers(height - h, endpoint=True)
      left = rng.integers(width - w, endpoint=True)
      return int(top), int(left), h, w
  return None


def cuts(
    image: Pixels, boxes: Sequence[tuple[int, int, int, int]], size: int
) -> list[UInt8[np.ndarray, "s s c"]]:
  """Cuts parts out of an image, or of its file, and resizes them to squares.

  A file is decoded once, at the smallest size that leaves every part at least
  `size` pixels a side.

  Args:
    image: pixels, or the file that holds them.
    boxes: top, left, height and width of each part, in pixels of the whole image.
    size: height and width of the results, in pixels.

  Raises:
    types.Unreadable: if the file cannot be decoded.
  """
  reduced = 1
  if isinstance(image, decoding.Encoded):
    height = image.size[0]
    least = min(min(h, w) for _, _, h, w in boxes)
    reduce = next((n for n in (8, 4, 2) if least >= n * size), 1)
    image = image.decode(reduce)
    # Not every format can be reduced.
    reduced = reduce if image.shape[0] != height else 1
  return [
      _scale(image[top:top + h, left:left + w], size)
      for top, left, h, w in (
          tuple(n // reduced for n in box) for box in boxes)
  ]


def flip(
    image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w c"]:
  """Flips an image horizontally, with probability 1/2.

  A flipped image no longer fits captions that say "left", or that quote text in
  the image.
  """
  return mirror(image) if rng.random() < 0.5 else image


def mirror(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
  """Left to right; OpenCV takes a thirtieth of the time that NumPy does."""
  return cv2.flip(image, 1).reshape(image.shape)


def augment(
    *,
    size: int | None = None,
    crop: str = "none",
    mirror: bool = False,
    scale: tuple[float, float] = (0.3, 1.0),
    method: str = "area",
    offset: str = "floor",
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
    offset: where the center begins, "floor" or "round" (`resize`).

  Returns:
    (image or its file, generator or None) -> image; it can be pickled.

  Raises:
    ValueError: if `crop`, `method` or `offset` is not one of these, if `crop`
      has no size, or if `scale` is not ascending within (0, 1].

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
  if offset not in _OFFSETS:
    raise ValueError(f"offset is {offset!r}; expected one of {_OFFSETS}")
  return _Augment(size, crop, mirror, (scale[0], scale[1]), method, offset)


@dataclasses.dataclass(frozen=True)
class _Augment:
  size: int | None
  crop: str
  mirror: bool
  scale: tuple[float, float]
  method: str
  offset: str

  def __call__(
      self,
      image: Pixels,
      rng: np.random.Generator | None = None,
  ) -> UInt8[np.ndarray, "i j c"]:
    pixels = self._cropped(image, rng)
    if self.mirror and rng is not None:
      pixels = flip(pixels, rng)
    return np.ascontiguousarray(pixels)

  def _cropped(self, image, rng) -> np.ndarray:
    if self.size is not None and self.crop == "random" and rng is not None:
      return random_crop(image, self.size, rng, self.scale)
    if isinstance(image, decoding.Encoded):
      image = image.decode()
    if self.size is None:
      return image
    crop = "none" if self.crop == "none" else "center"
    return resize(image, self.size, crop, self.method, self.offset)


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

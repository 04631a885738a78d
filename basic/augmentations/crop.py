"""Random crops of an image, as contrastive learning takes them."""

import dataclasses
from typing import Any

import numpy as np

from basic import types
from basic.augmentations import _photometric, _randaugment
from basic.data import decoding, images

# Of a random erasing, the area and its aspect.
_ERASED = (0.02, 1 / 3)
_ERASED_RATIO = (0.3, 3.3)


def crop(
    *,
    size: int,
    of: str = "image",
    copies: int = 1,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    mirror: bool = True,
    randaugment: tuple[int, int] | None = None,
    jitter: tuple[float, float, float, float] | None = None,
    jittered: float = 0.8,
    gray: float = 0.0,
    blur: float = 0.0,
    blur_sigma: tuple[float, float] = (0.1, 2.0),
    solarize: float = 0.0,
    erase: float = 0.0,
    boxes: bool = False,
) -> types.Augment:
  """Random resized crops of one image, with changes of color.

  Each copy is drawn for itself: crop, mirror, RandAugment, jitter, gray, blur,
  solarize, erase, in this order. Multi-crop of two sizes is two looks:

      looks=dict(
          pair=dict(name="crop", copies=2, size=224, scale=(0.25, 1.0)),
          small=dict(name="crop", copies=6, size=96, scale=(0.05, 0.25)))

  A look named "image" changes the images that training sees, and leaves those
  of evaluations as `augment` makes them.

  Args:
    size: height and width of a crop, in pixels.
    of: field of the example with the image.
    copies: crops of each image.
    scale: least and greatest fraction of the image's area, in (0, 1].
    ratio: least and greatest width over height, positive.
    mirror: whether half of the crops are mirrored horizontally.
    randaugment: number of operations and their magnitude, 0 to 30: (2, 9).
    jitter: strengths of random brightness, contrast, saturation and hue: SimCLR
      has (0.8, 0.8, 0.8, 0.2), BYOL (0.4, 0.4, 0.2, 0.1).
    jittered: probability of the jitter.
    gray: probability of grayscale.
    blur: probability of a Gaussian blur.
    blur_sigma: least and greatest standard deviation of the blur, in pixels.
    solarize: probability that levels above 127 are inverted.
    erase: probability that a rectangle of 2% to 33% of the area is gray.
    boxes: whether to add where the crops lie.

  Returns:
    (example, generator or None, companion or None) -> arrays: "" uint8
    [size size c], or [copies size size c] if there are several; with `boxes`
    also "box" float32 [4] or [copies 4]: top, left, bottom, right as fractions
    of the image's height and width, and "mirrored" bool [] or [copies].
    Without a generator all copies are the center.

  Raises:
    ValueError: if a setting is out of its range.

  References:
    Chen et al., A Simple Framework for Contrastive Learning, 2020, appendix A.
    https://arxiv.org/abs/2002.05709
    Caron et al., Unsupervised Learning by Contrasting Cluster Assignments, 2020,
    section 3.2 (multi-crop). https://arxiv.org/abs/2006.09882
    Zhong et al., Random Erasing, 2017. https://arxiv.org/abs/1708.04896

  Example:
    >>> looks = crop(size=2, copies=3, jitter=(0.4, 0.4, 0.2, 0.1), gray=0.2)
    >>> example = {"image": np.zeros((6, 4, 3), np.uint8)}
    >>> looks(example, np.random.default_rng(0), None)[""].shape
    (3, 2, 2, 3)
  """
  made = _Crop(
      size, of, copies, scale, ratio, mirror, randaugment, jitter, jittered,
      gray, blur, blur_sigma, solarize, erase, boxes,
  )
  faults = _faults(made)
  if faults:
    raise ValueError("; ".join(faults))
  return made


def _faults(made: "_Crop") -> list[str]:
  """Settings out of their range, each as a sentence."""
  rules = [
      (name, getattr(made, name), "at least 1", getattr(made, name) >= 1)
      for name in ("size", "copies")
  ]
  rules += [
      (name, share, "a probability, 0 to 1", 0 <= share <= 1)
      for name in ("jittered", "gray", "blur", "solarize", "erase")
      for share in [getattr(made, name)]
  ]
  low, high = made.scale
  rules.append((
      "scale", made.scale, "0 < least <= greatest <= 1", 0 < low <= high <= 1))
  for name in ("ratio", "blur_sigma"):
    low, high = getattr(made, name)
    rules.append((
        name, (low, high), "0 < least <= greatest", 0 < low <= high))
  if made.jitter is not None:
    hue = made.jitter[3]
    rules.append((
        "jitter", made.jitter, "strengths of at least 0, that of the hue at most "
        "0.5", min(made.jitter) >= 0 and hue <= 0.5))
  if made.randaugment is not None:
    count, magnitude = made.randaugment
    rules.append((
        "randaugment", made.randaugment, "(operations, magnitude from 0 to 30)",
        count >= 0 and 0 <= magnitude <= _randaugment.GREATEST))
  return [
      f"{name} is {value!r}; it takes {expected}"
      for name, value, expected, holds in rules if not holds
  ]


@dataclasses.dataclass(frozen=True)
class _Crop:
  """See `crop`. A class, not a closure, so that it can be pickled."""

  size: int
  of: str
  copies: int
  scale: tuple[float, float]
  ratio: tuple[float, float]
  mirror: bool
  randaugment: tuple[int, int] | None
  jitter: tuple[float, float, float, float] | None
  jittered: float
  gray: float
  blur: float
  blur_sigma: tuple[float, float]
  solarize: float
  erase: float
  boxes: bool

  def __call__(
      self,
      example: types.Example,
      rng: np.random.Generator | None,
      companion: types.Example | None = None,
  ) -> dict[str, np.ndarray]:
    del companion  # Crops of one image depend on no other.
    image = _image(example, self.of)
    encoded = isinstance(image, decoding.Encoded)
    height, width = image.size if encoded else image.shape[:2]
    found = [self._box(height, width, rng) for _ in range(self.copies)]
    made = [
        self._changed(pixels, rng)
        for pixels in images.cuts(image, found, self.size)
    ]
    result = {"": _one_or_stacked([pixels for pixels, _ in made])}
    if self.boxes:
      sides = np.array([height, width, height, width])
      corners = [(t, x, t + h, x + w) / sides for t, x, h, w in found]
      result["box"] = _one_or_stacked(np.array(corners, np.float32))
      result["mirrored"] = _one_or_stacked(np.array([m for _, m in made]))
    return result

  def _box(self, height, width, rng):
    box = None
    if rng is not None:
      box = images.draw_crop(height, width, rng, self.scale, self.ratio)
    side = min(height, width)
    return box or ((height - side) // 2, (width - side) // 2, side, side)

  def _changed(self, image, rng) -> tuple[np.ndarray, bool]:
    """(pixels, whether they are mirrored)."""
    if rng is None:
      return image, False
    mirrored = self.mirror and rng.random() < 0.5
    if mirrored:
      image = images.mirror(image)
    if self.randaugment is not None:
      count, magnitude = self.randaugment
      image = _randaugment.randaugment(image, count, magnitude, rng)
    if self.jitter is not None and rng.random() < self.jittered:
      image = _photometric.jitter(image, self.jitter, rng)
    if self.gray and rng.random() < self.gray:
      image = _photometric.grayscale(image)
    if self.blur and rng.random() < self.blur:
      image = _photometric.blur(image, rng.uniform(*self.blur_sigma))
    if self.solarize and rng.random() < self.solarize:
      image = _photometric.solarize(image)
    if self.erase and rng.random() < self.erase:
      height, width = image.shape[:2]
      box = images.draw_crop(height, width, rng, _ERASED, _ERASED_RATIO)
      image = image if box is None else _photometric.erase(image, box)
    return image, mirrored


def _image(example: types.Example, of: str) -> Any:
  if of not in example:
    raise ValueError(
        f"a crop of {of!r} was asked for, and the example has {sorted(example)}; "
        "set `of` to a field with an image"
    )
  image = example[of]
  if isinstance(image, decoding.Encoded):
    return image
  array = np.asarray(image)
  if array.ndim != 3 or array.dtype != np.uint8:
    raise ValueError(
        f"{of!r} is {array.dtype} {list(array.shape)}; a crop takes uint8 "
        "[height width channels]"
    )
  return array


def _one_or_stacked(values: Any) -> np.ndarray:
  return np.asarray(values[0]) if len(values) == 1 else np.stack(values)

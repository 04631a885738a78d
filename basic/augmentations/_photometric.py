"""Changes of color on the host, as Pillow defines them.

All take and give pixels of 8 bits. Images of one channel have no saturation and
no hue, and stay as they are.
"""

import cv2
import numpy as np
from jaxtyping import UInt8

Pixels = UInt8[np.ndarray, "h w c"]
_LEVELS = np.arange(256, dtype=np.float32)


def look_up(image: Pixels, table: np.ndarray) -> Pixels:
  """Replaces every level by its entry in a table of 256, or one a channel."""
  return cv2.LUT(image, table.astype(np.uint8)).reshape(image.shape)


def _mixed(levels: np.ndarray, other: float, share: float) -> np.ndarray:
  """other + share (level - other), cut to 8 bits; Pillow's `Image.blend`."""
  mixed = np.float32(other) + np.float32(share) * (levels - np.float32(other))
  return np.clip(mixed, 0, 255).astype(np.uint8)


def luminance(image: Pixels) -> UInt8[np.ndarray, "h w"]:
  """ITU-R BT.601 luma, rounded."""
  if image.shape[2] == 1:
    return image[..., 0]
  return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def brightness(image: Pixels, factor: float) -> Pixels:
  """Multiplies every level: 0 is black, 1 changes nothing."""
  return look_up(image, _mixed(_LEVELS, 0.0, factor))


def contrast(image: Pixels, factor: float) -> Pixels:
  """Moves levels away from the mean luminance: 0 is gray, 1 changes nothing."""
  mean = float(int(luminance(image).mean() + 0.5))
  return look_up(image, _mixed(_LEVELS, mean, factor))


def saturation(image: Pixels, factor: float) -> Pixels:
  """Moves colors away from their luminance: 0 is gray, 1 changes nothing."""
  if image.shape[2] == 1:
    return image
  gray = cv2.cvtColor(luminance(image), cv2.COLOR_GRAY2RGB)
  return cv2.addWeighted(image, factor, gray, 1 - factor, 0)


def hue(image: Pixels, turn: float) -> Pixels:
  """Turns the circle of hues by a fraction of it, -0.5 to 0.5."""
  if image.shape[2] == 1:
    return image
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
  hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # It wraps, as hues do.
  return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grayscale(image: Pixels) -> Pixels:
  """The luminance in all channels."""
  if image.shape[2] == 1:
    return image
  return cv2.cvtColor(luminance(image), cv2.COLOR_GRAY2RGB)


def blur(image: Pixels, sigma: float) -> Pixels:
  """Convolves with a Gaussian of `sigma` pixels, mirrored at the edges."""
  side = 2 * max(1, round(4 * sigma)) + 1
  blurred = cv2.GaussianBlur(image, (side, side), sigma)
  return blurred.reshape(image.shape)


def solarize(image: Pixels, threshold: float = 128.0) -> Pixels:
  """Inverts levels from a threshold on."""
  return look_up(image, np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS))


def posterize(image: Pixels, bits: int) -> Pixels:
  """Keeps the upper bits of every level, 0 to 8 of them."""
  return look_up(image, np.arange(256) & (0xFF << 8 - bits & 0xFF))


def autocontrast(image: Pixels) -> Pixels:
  """Stretches each channel to all levels; a channel of one level stays."""
  tables = []
  for channel in range(image.shape[2]):
    low, high = int(image[..., channel].min()), int(image[..., channel].max())
    table = _LEVELS
    if high > low:
      table = np.clip((_LEVELS - low) * np.float32(255 / (high - low)), 0, 255)
    tables.append(table)
  return look_up(image, np.stack(tables, -1)[None])


def equalize(image: Pixels) -> Pixels:
  """Makes all levels of a channel about as frequent (Pillow's rule)."""
  tables = []
  for channel in range(image.shape[2]):
    counts = np.bincount(image[..., channel].ravel(), minlength=256)
    present = counts[counts > 0]
    step = int(present[:-1].sum()) // 255
    table = np.arange(256)
    if len(present) > 1 and step:
      before = np.concatenate([[0], np.cumsum(counts)[:-1]])
      table = np.minimum((step // 2 + before) // step, 255)
    tables.append(table)
  return look_up(image, np.stack(tables, -1)[None])


def sharpness(image: Pixels, factor: float) -> Pixels:
  """Moves pixels away from a smoothed image: 0 smooths, 1 changes nothing.

  The outermost pixels are not smoothed, as in Pillow.
  """
  kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
  smooth = image.copy()
  if min(image.shape[:2]) > 2:
    whole = cv2.filter2D(image, -1, kernel).reshape(image.shape)
    smooth[1:-1, 1:-1] = whole[1:-1, 1:-1]
  mixed = cv2.addWeighted(image, factor, smooth, 1 - factor, 0)
  return mixed.reshape(image.shape)


def erase(image: Pixels, box: tuple[int, int, int, int], level: int = 128) -> Pixels:
  """Covers a rectangle (top, left, height, width) with a gray level.

  128 is the level nearest to 0 after pixels are scaled to [-1, 1].
  """
  top, left, height, width = box
  covered = image.copy()
  covered[top:top + height, left:left + width] = level
  return covered


def jitter(
    image: Pixels,
    strengths: tuple[float, float, float, float],
    rng: np.random.Generator,
) -> Pixels:
  """Random brightness, contrast, saturation and hue, in random order.

  Factors are uniform in [max(0, 1 - strength), 1 + strength], turns of the hue in
  [-strength, strength]; a strength of 0 leaves a change out.

  References:
    Chen et al., A Simple Framework for Contrastive Learning, 2020, appendix A.
    https://arxiv.org/abs/2002.05709
  """
  changes = (brightness, contrast, saturation)
  for n in rng.permutation(4):
    strength = strengths[n]
    if not strength:
      continue
    if n == 3:
      image = hue(image, rng.uniform(-strength, strength))
    else:
      factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
      image = changes[n](image, factor)
  return image

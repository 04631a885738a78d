"""Changes of color are Pillow's, or those of their formula."""

import colorsys
import math

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from basic.augmentations import _photometric, _randaugment


def noise(height=23, width=19):
  return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def smooth():
  """Few levels, none of them at the ends."""
  few = np.random.default_rng(1).integers(60, 180, (5, 6, 3), np.uint8)
  return cv2.resize(few, (40, 32))


PICTURES = pytest.mark.parametrize(
    "image", [noise(), smooth()], ids=["noise", "smooth"])


def distance(found, expected):
  assert found.dtype == np.uint8
  return np.abs(found.astype(int) - np.asarray(expected)).max()


@PICTURES
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize(("change", "enhance", "off"), [
    (_photometric.brightness, ImageEnhance.Brightness, 0),
    (_photometric.contrast, ImageEnhance.Contrast, 0),
    # Rounded here and cut there, of a luminance rounded in another place.
    (_photometric.saturation, ImageEnhance.Color, 2),
    (_photometric.sharpness, ImageEnhance.Sharpness, 1),
])
def test_an_enhancement_is_pillows(image, factor, change, enhance, off):
  expected = enhance(Image.fromarray(image)).enhance(factor)
  assert distance(change(image, factor), expected) <= off
  if factor == 1:
    np.testing.assert_array_equal(change(image, 1.0), image)


@PICTURES
def test_an_operation_is_pillows(image):
  theirs = Image.fromarray(image)
  gray = theirs.convert("L").convert("RGB")
  assert distance(_photometric.grayscale(image), gray) <= 1  # rounding
  assert distance(_photometric.solarize(image), ImageOps.solarize(theirs)) == 0
  assert distance(
      _photometric.solarize(image, 40.0), ImageOps.solarize(theirs, 40)) == 0
  for bits in range(1, 9):
    assert distance(
        _photometric.posterize(image, bits), ImageOps.posterize(theirs, bits)) == 0
  stretched = ImageOps.autocontrast(theirs)
  assert distance(_photometric.autocontrast(image), stretched) <= 1  # rounding
  assert distance(_photometric.equalize(image), ImageOps.equalize(theirs)) == 0


@PICTURES
@pytest.mark.parametrize("turn", [-0.3, 0.0, 0.1, 0.5])
def test_hue_turns_the_circle_of_colors(image, turn):
  def turned(pixel):
    h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
    return np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v)) * 255

  expected = np.apply_along_axis(turned, 2, image)
  error = np.abs(_photometric.hue(image, turn) - expected)
  # Hue and saturation have 8 bits in between.
  assert error.max() <= 10 and error.mean() < 1


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_the_convolution_with_a_gaussian(sigma):
  image = noise()
  reach = max(1, round(4 * sigma))
  at = np.arange(-reach, reach + 1)
  weights = np.exp(-at**2 / (2 * sigma**2))
  weights /= weights.sum()
  padded = np.pad(image.astype(float), ((reach,) * 2, (reach,) * 2, (0, 0)), "reflect")
  expected = np.zeros(image.shape)
  height, width = image.shape[:2]
  for i, a in enumerate(weights):
    for j, b in enumerate(weights):
      expected += a * b * padded[i:i + height, j:j + width]
  # The weights have 8 bits in OpenCV.
  assert np.abs(_photometric.blur(image, sigma) - expected).max() <= 2


def test_erasing_covers_the_rectangle_alone():
  image = noise()
  found = _photometric.erase(image, (2, 3, 5, 7))
  assert (found[2:7, 3:10] == 128).all()
  found[2:7, 3:10] = image[2:7, 3:10]
  np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("name", _randaugment.OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_keeps_shape_and_input(name, channels):
  image = noise()[..., :channels].copy()
  before = image.copy()
  change, amount, _ = _randaugment.OPERATIONS[name]
  for magnitude in (0, 9, 30):
    found = change(image, amount(magnitude / 30))
    assert found.shape == image.shape and found.dtype == np.uint8
  np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", [
    name for name, (_, _, signed) in _randaugment.OPERATIONS.items() if signed])
def test_a_signed_operation_of_no_magnitude_is_none(name):
  change, amount, _ = _randaugment.OPERATIONS[name]
  np.testing.assert_array_equal(change(noise(), amount(0.0)), noise())


def by_place(image, source):
  """Pixel by pixel from where `source` says; black from outside."""
  found = np.zeros(image.shape)
  height, width = image.shape[:2]
  for y in range(height):
    for x in range(width):
      a, b = source(y, x)
      for i in (math.floor(a), math.floor(a) + 1):
        for j in (math.floor(b), math.floor(b) + 1):
          weight = (1 - abs(a - i)) * (1 - abs(b - j))
          if weight > 0 and 0 <= i < height and 0 <= j < width:
            found[y, x] += weight * image[i, j]
  return found


def rotation(degrees, height, width):
  cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  y0, x0 = (height - 1) / 2, (width - 1) / 2

  def source(y, x):
    y, x = y - y0, x - x0
    return y0 + sin * x + cos * y, x0 + cos * x - sin * y

  return source


@pytest.mark.parametrize(("change", "amount", "source"), [
    (_randaugment.shear_x, 0.3, lambda y, x: (y, x + 0.3 * y)),
    (_randaugment.shear_y, -0.2, lambda y, x: (y - 0.2 * x, x)),
    (_randaugment.translate_x, 0.25, lambda y, x: (y, x - 4)),  # of 19
    (_randaugment.translate_y, -0.2, lambda y, x: (y + 4, x)),  # of 23
    (_randaugment.rotate, 25.0, rotation(25.0, 23, 19)),
])
def test_a_movement_takes_pixels_from_their_place(change, amount, source):
  image = smooth()[:23, :19].copy()
  error = np.abs(change(image, amount) - by_place(image, source))
  assert error.max() <= 8 and error.mean() < 1  # OpenCV has 32nds of a pixel.


def test_rotation_is_counterclockwise_as_pillows():
  image = smooth()
  expected = np.asarray(
      Image.fromarray(image).rotate(20, Image.Resampling.BILINEAR))
  inner = (slice(8, -8), slice(8, -8))
  assert distance(_randaugment.rotate(image, 20.0)[inner], expected[inner]) <= 2


def test_the_table_is_torchvisions():
  # transforms.RandAugment._augmentation_space at magnitudes 0, 9 and 30 of 31
  # bins, translations over 331 pixels.
  bins = np.array([0, 9, 30])
  expected = {
      "shear_x": np.linspace(0, 0.3, 31), "shear_y": np.linspace(0, 0.3, 31),
      "translate_x": np.linspace(0, 150 / 331, 31),
      "translate_y": np.linspace(0, 150 / 331, 31),
      "rotate": np.linspace(0, 30, 31), "brightness": np.linspace(0, 0.9, 31),
      "color": np.linspace(0, 0.9, 31), "contrast": np.linspace(0, 0.9, 31),
      "sharpness": np.linspace(0, 0.9, 31),
      "posterize": 8 - np.round(np.arange(31) / (30 / 4)),
      "solarize": np.linspace(255, 0, 31),
  }
  for name, values in expected.items():
    found = [_randaugment.OPERATIONS[name][1](n / 30) for n in bins]
    np.testing.assert_allclose(found, values[bins], atol=1e-12)
  rest = {"identity", "autocontrast", "equalize"}
  assert set(_randaugment.OPERATIONS) == set(expected) | rest

"""Images are resized, cropped and flipped as towers expect them."""

import pickle

import numpy as np
import pytest
from PIL import Image

from basic.data import images

HEIGHT, WIDTH = 12, 20


def picture():
  """Every edge has its own colour."""
  y, x = np.mgrid[:HEIGHT, :WIDTH]
  channels = [x * 12, y * 20, 255 - x * 6 - y * 6]
  return np.stack(channels, axis=-1).astype(np.uint8)


def test_resize_keeps_the_middle_in_its_proportions():
  image = np.zeros((10, 30, 3), np.uint8)
  image[:, 10:20] = 200
  assert (images.resize(image, 5) == 200).all()
  squashed = images.resize(image, 6, crop="none")
  assert (squashed[:, 2:4] == 200).all() and (squashed[:, :2] == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [3, 10, 17])
def test_resize_keeps_channels_and_flat_images(size, channels):
  image = np.full((10, 14, channels), 77, np.uint8)
  found = images.resize(image, size)
  np.testing.assert_array_equal(found, np.full((size, size, channels), 77))


def test_shrinking_takes_means_of_areas():
  image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  expected = image.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
  # Halves are rounded either way.
  assert np.abs(images.resize(image, 4) - expected).max() <= 0.5


def test_a_random_crop_is_a_part_of_the_image():
  image = np.zeros((40, 40, 3), np.uint8)
  y, x = np.mgrid[:40, :40]
  image[..., 0], image[..., 1] = y * 4, x * 4
  rng = np.random.default_rng(0)
  areas, corners = [], set()
  for _ in range(300):
    found = images.random_crop(image, 40, rng, scale=(0.25, 0.5))
    # Cubic enlarging overshoots the ramp by less than a pixel of it.
    height = np.ptp(found[..., 0].astype(int)) / 4 + 1
    width = np.ptp(found[..., 1].astype(int)) / 4 + 1
    areas.append(height * width / 1600)
    corners.add(tuple(found[0, 0, :2]))
    assert 0.7 < width / height < 1.43
  assert 0.22 < min(areas) < 0.3 and 0.45 < max(areas) < 0.56
  assert len(corners) > 100


def test_a_crop_that_never_fits_is_the_middle():
  image = np.zeros((10, 200, 3), np.uint8)
  image[:, 95:105] = 200
  rng = np.random.default_rng(0)
  found = images.random_crop(image, 4, rng, scale=(1.0, 1.0))
  assert (found == 200).all()


def test_flip_mirrors_half_of_the_time():
  rng = np.random.default_rng(0)
  mirrored = [
      np.array_equal(images.flip(picture(), rng), picture()[:, ::-1])
      for _ in range(200)
  ]
  assert 60 < sum(mirrored) < 140  # six standard deviations


@pytest.mark.parametrize("crop", ["none", "center", "random"])
def test_no_generator_no_noise(crop):
  change = images.augment(size=8, crop=crop, mirror=True)
  expected = images.resize(picture(), 8, "none" if crop == "none" else "center")
  np.testing.assert_array_equal(change(picture(), None), expected)


def test_the_same_generator_gives_the_same_noise():
  change = images.augment(size=8, crop="random", mirror=True)
  again = pickle.loads(pickle.dumps(change))
  one, two, other = (
      f(picture(), np.random.default_rng(seed))
      for f, seed in ((change, 1), (again, 1), (change, 2))
  )
  np.testing.assert_array_equal(one, two)
  assert not np.array_equal(one, other)


def test_without_a_size_an_image_keeps_its_own():
  change = images.augment()
  rng = np.random.default_rng(0)
  np.testing.assert_array_equal(change(picture(), rng), picture())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crop": "centre", "size": 8}, "'none', 'center' or 'random'"),
        ({"crop": "random"}, "needs a size"),
        ({"size": 8, "crop": "random", "scale": (0.0, 1.0)}, "least <= greatest"),
        ({"size": 8, "crop": "random", "scale": (0.9, 0.5)}, "least <= greatest"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused(settings, said):
  with pytest.raises(ValueError, match=said):
    images.augment(**settings)


def test_a_crop_that_is_not_known_is_refused():
  with pytest.raises(ValueError, match="'center' or 'none'"):
    images.resize(picture(), 8, crop="middle")


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_foreign_scaling_is_pillows_whole_image_first(method):
  pixels = np.random.default_rng(0).integers(0, 256, (30, 21, 3), np.uint8)
  # The shorter side to 10, the longer to int(10 * 30 / 21) = 14.
  scaled = np.asarray(Image.fromarray(pixels).resize(
      (10, 14), Image.Resampling[method.upper()]))
  found = images.augment(size=10, crop="center", method=method)(pixels, None)
  np.testing.assert_array_equal(found, scaled[2:12])
  gray = images.resize(pixels[..., :1], 10, "none", method)
  assert gray.shape == (10, 10, 1)


def test_an_unknown_method_is_refused():
  with pytest.raises(ValueError, match="method is 'nearest'"):
    images.augment(size=4, method="nearest")
  with pytest.raises(ValueError, match="method is 'nearest'"):
    images.resize(np.zeros((4, 4, 3), np.uint8), 2, "none", "nearest")


@pytest.mark.parametrize("method", ["area", "bicubic"])
def test_the_center_begins_where_each_library_begins(method):
  for length in range(8, 40):
    rows = np.arange(length, dtype=np.uint8)
    tall = np.broadcast_to(rows[:, None, None], (length, 8, 3)).copy()
    first = {
        # transformers' center_crop, and torchvision's.
        "floor": (length - 8) // 2,
        "round": round((length - 8) / 2.0),
    }
    for offset, top in first.items():
      found = images.augment(size=8, crop="center", method=method, offset=offset)
      np.testing.assert_array_equal(found(tall, None)[:, 0, 0], rows[top:top + 8])
      wide = tall.swapaxes(0, 1).copy()
      np.testing.assert_array_equal(found(wide, None)[0, :, 0], rows[top:top + 8])
  assert round((11 - 8) / 2.0) == 2  # So the two do differ.


def test_an_unknown_offset_is_refused():
  with pytest.raises(ValueError, match="offset is 'ceil'"):
    images.augment(size=4, crop="center", offset="ceil")
  with pytest.raises(ValueError, match="offset is 'ceil'"):
    images.resize(np.zeros((4, 4, 3), np.uint8), 2, offset="ceil")

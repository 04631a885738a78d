"""Perceptual hashes: what is the same picture to them, and what is not."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import fft
from sklearn import datasets

from basic.data import hashing

DISTANCE = 6  # the default of `filter`


@pytest.fixture(scope="module")
def photographs():
  """Twelve parts of two photographs, 213 by 213 pixels each."""
  return [
      photo[top:top + 213, left:left + 213]
      for photo in datasets.load_sample_images().images
      for top in (0, 213) for left in (0, 213, 426)
  ]


def jpeg(image, quality):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "JPEG", quality=quality)
  return np.asarray(Image.open(file))


def cropped(image, top, left, bottom, right):
  height, width = image.shape[:2]
  return image[
      round(top * height):height - round(bottom * height),
      round(left * width):width - round(right * width),
  ]


CHANGES = {
    "same": lambda image: image,
    "JPEG of quality 90": lambda image: jpeg(image, 90),
    "JPEG of quality 30": lambda image: jpeg(image, 30),
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5),
    "double": lambda image: cv2.resize(image, None, fx=2, fy=2),
    "64 by 64": lambda image: cv2.resize(
        image, (64, 64), interpolation=cv2.INTER_AREA
    ),
    "grey": lambda image: image @ np.array([0.299, 0.587, 0.114]),
    "centre of 95%": lambda image: cropped(image, *[0.025] * 4),
    "centre of 90%": lambda image: cropped(image, *[0.05] * 4),
    "without 5% at the top": lambda image: cropped(image, 0.05, 0, 0, 0),
    "without 10% at the right": lambda image: cropped(image, 0, 0, 0, 0.1),
    "without 5% at a corner": lambda image: cropped(image, 0, 0.05, 0.05, 0),
}


def distance(image, others):
  pixels = np.asarray(image, np.uint8)
  pixels = pixels if pixels.ndim == 3 else pixels[..., None]
  found = hashing.perceptual(np.ascontiguousarray(pixels))
  if found is None:
    return 255
  return int(hashing.nearest(
      hashing.unsigned([found]), hashing.unsigned(others)
  )[0])


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_of_a_photograph_is_found(photographs, change):
  missed = [
      place for place, photo in enumerate(photographs)
      if distance(CHANGES[change](photo), hashing.views(photo)) > DISTANCE
  ]
  assert len(missed) <= 1, missed  # of 12


def test_most_crops_would_be_missed_without_views(photographs):
  crop = CHANGES["without 10% at the right"]
  found = sum(
      distance(crop(photo), [hashing.perceptual(photo)]) <= DISTANCE
      for photo in photographs
  )
  assert found <= 4  # of 12


def test_other_photographs_are_not_found(photographs):
  views = [hashing.views(photo) for photo in photographs]
  nearest = [
      distance(photo, views[k])
      for i, photo in enumerate(photographs)
      for k in range(len(views)) if i != k
  ]
  assert min(nearest) > DISTANCE


def test_the_hash_is_the_median_test_of_scipys_cosine_transform(photographs):
  for photo in photographs[:4]:
    small = cv2.resize(photo, (32, 32), interpolation=cv2.INTER_AREA)
    grey = small @ np.array([0.299, 0.587, 0.114])
    low = fft.dctn(grey, norm="ortho")[:8, :8]
    bits = (low > np.median(low)).reshape(-1)
    expected = sum(1 << 63 - place for place in range(64) if bits[place])
    assert hashing.perceptual(photo) == expected


@pytest.mark.parametrize("noise", [0, 1, 3])
def test_pictures_of_one_colour_have_no_hash(noise):
  rng = np.random.default_rng(0)
  for colour in (0, 100, 250):
    image = (colour + rng.integers(0, noise + 1, (40, 40, 3))).astype(np.uint8)
    assert hashing.perceptual(image) is None and hashing.views(image) == []


def test_a_faint_picture_has_a_hash():
  image = np.full((40, 40, 1), 100, np.uint8)
  image[:20] += 12
  assert hashing.perceptual(image) is not None


def test_nearest_is_the_least_number_of_different_bits():
  rng = np.random.default_rng(0)
  one = rng.integers(0, 2**64, 20, np.uint64)
  two = rng.integers(0, 2**64, 30, np.uint64)
  two[3] = one[5] ^ np.uint64(0b1011)
  expected = [min((int(a) ^ int(b)).bit_count() for b in two) for a in one]
  assert hashing.nearest(one, two).tolist() == expected
  assert expected[5] == 3
  assert (hashing.nearest(one, two[:0]) == 255).all()


def test_blocks_of_a_long_table_give_the_same():
  rng = np.random.default_rng(0)
  one = rng.integers(0, 2**64, 9, np.uint64)
  two = rng.integers(0, 2**64, 1_500_000, np.uint64)  # two rows a block
  expected = [int(np.bitwise_count(two ^ a).min()) for a in one]
  assert hashing.nearest(one, two).tolist() == expected


def test_among_finds_what_is_in_a_table():
  table = hashing.unsigned([3, 7, 2**64 - 1])
  values = hashing.unsigned([0, 3, 4, 7, 2**64 - 1, 8])
  assert hashing.among(values, table).tolist() == [
      False, True, False, True, True, False
  ]
  assert not hashing.among(values, table[:0]).any()


def test_content_tells_shapes_apart():
  pixels = np.arange(12, dtype=np.uint8)
  hashes = {
      hashing.content(pixels.reshape(shape))
      for shape in ((2, 6, 1), (6, 2, 1), (2, 2, 3))
  } | {hashing.content("a"), hashing.content("b"), hashing.content(b"c")}
  assert len(hashes) == 6

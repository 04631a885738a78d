"""What training draws has the distribution that its docstring states."""

import math

import numpy as np
import pytest

from basic import types
from basic.data import examples, images

DRAWS = 8_000
# Dvoretzky, Kiefer and Wolfowitz: P(sup |F_n - F| > d) <= 2 exp(-2 n d^2),
# here 2e-8. Seeds are fixed, so what holds once holds always.
FAR = 0.034
SIDE = 4_000  # pixels; rounding to whole ones moves an aspect by less than 1e-3
SCALE = (0.2, 0.4)


class Watched(np.ndarray):
  """An image that notes which part is cut out of it."""

  parts: list

  def __getitem__(self, at):
    rows, columns = at
    self.parts.append((rows.start, rows.stop, columns.start, columns.stop))
    return np.zeros((1, 1, 1), np.uint8)


@pytest.fixture(scope="module")
def crops():
  """top, bottom, left, right of many random crops."""
  # One byte serves as all pixels, which nobody reads.
  image = np.broadcast_to(np.uint8(0), (SIDE, SIDE, 1)).view(Watched)
  image.parts = []
  rng = np.random.default_rng(0)
  for _ in range(DRAWS):
    images.random_crop(image, 1, rng, scale=SCALE)
  return np.array(image.parts, float).T


def uniform_distance(values, low, high):
  """Kolmogorov's distance of a sample from the uniform distribution."""
  cdf = (np.sort(values) - low) / (high - low)
  steps = np.arange(len(cdf) + 1) / len(cdf)
  return max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max())


def test_the_aspect_of_a_crop_is_log_uniform(crops):
  top, bottom, left, right = crops
  bound = math.log(4 / 3)
  aspect = np.log((right - left) / (bottom - top))
  assert uniform_distance(aspect, -bound, bound) < FAR


def test_the_area_of_a_crop_is_uniform(crops):
  top, bottom, left, right = crops
  area = (right - left) * (bottom - top) / SIDE**2
  assert uniform_distance(area, *SCALE) < FAR


def test_a_crop_lies_anywhere_that_it_fits(crops):
  top, bottom, left, right = crops
  assert uniform_distance(top / (SIDE - bottom + top), 0, 1) < FAR
  assert uniform_distance(left / (SIDE - right + left), 0, 1) < FAR


def test_half_of_all_images_are_mirrored():
  rng = np.random.default_rng(0)
  image = np.arange(2, dtype=np.uint8).reshape(1, 2, 1)
  mirrored = [images.flip(image, rng)[0, 0, 0] for _ in range(DRAWS)]
  # Five standard deviations of a fair coin.
  assert abs(np.mean(mirrored) - 0.5) < 5 * 0.5 / math.sqrt(DRAWS)


def test_every_caption_of_an_example_is_drawn_as_often():
  captions, rng = ("a", "b", "c"), np.random.default_rng(0)
  arrays = examples.prepare(
      tokenize=lambda text: np.array([captions.index(text)], np.int32)
  )
  drawn = [arrays({"text": captions}, rng)["text"][0] for _ in range(DRAWS)]
  shares = np.bincount(drawn, minlength=3) / DRAWS
  # Five standard deviations of a share of a third.
  assert np.abs(shares - 1 / 3).max() < 5 * math.sqrt(2 / 9 / DRAWS)


def test_a_broken_stretch_of_a_source_is_replaced_from_all_over_it():
  count, broken = 1_024, 512

  class Torn:
    def __len__(self):
      return count

    def __getitem__(self, index):
      if index < broken:
        raise types.Unreadable("truncated image", "it ends after 12 bytes")
      return {"label": index}

  arrays = examples.prepare(tokenize=None)
  replaced = [
      examples.read_or_substitute(Torn(), arrays, index, None)
      for index in range(broken)
  ]
  # Half of all substitutes are broken too: two reads fail on average, and 17,
  # which would end the run, once in 2^17.
  failures = np.array([len(row.failures) for row in replaced])
  assert abs(failures.mean() - 2) < 5 * math.sqrt(2 / broken)
  found = np.array([int(row.arrays["label"]) for row in replaced])
  assert uniform_distance(found, broken, count) < math.sqrt(9 / broken)


def test_substitutes_of_neighbours_are_no_neighbours():
  count = 1_024
  first, second = (
      np.array([examples.substitute(n, attempt, count) for n in range(count)])
      for attempt in (1, 2)
  )
  # As many different ones as `count` balls fill boxes: (1 - 1/e) of them, with
  # a standard deviation of sqrt(count (1/e - 2/e^2)).
  for drawn in (first, second, (first - second) % count):
    filled = len(set(drawn))
    expected = count * (1 - 1 / math.e)
    spread = math.sqrt(count * (1 / math.e - 2 / math.e**2))
    assert abs(filled - expected) < 5 * spread
  assert len(set(np.diff(first) % count)) > count / 2

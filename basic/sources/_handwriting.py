"""The handwritten digits of scikit-learn: their split and their enlargement.

    digit at size s = A_s g A_s^T,   g [8 8] in [0, 1],  A_s [s 8]

with A_s the cubic convolution of Keys (1981), a = -1/2, edges replicated.
"""

import functools
import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

_SIDE = 8  # pixels of a scanned digit
_INK = 16.0  # the largest pixel value


class Handwritten(NamedTuple):
  """The handwritten digits of one split.

  Attributes:
    images: ink from 0 to 1.
    digits: the label of each image.
    ids: the index of each in the whole collection; no id is in both splits.
    rows: for each digit from 0 to 9, the rows that show it.
  """

  images: Float32[np.ndarray, "n 8 8"]
  digits: Int[np.ndarray, "n"]
  ids: Int[np.ndarray, "n"]
  rows: tuple[Int[np.ndarray, "_"], ...]


@functools.cache
def handwritten(split: str) -> Handwritten:
  """Loads a split: a fifth of the images of each digit is "test".

  The split is determined by a hash of the pixels, so that it depends neither on
  a seed nor on the version of a library.
  """
  images, digits = _collection()
  hashes = np.array([hashlib.sha256(x.tobytes()).hexdigest() for x in images])
  chosen = []
  for digit in range(10):
    members = np.flatnonzero(digits == digit)
    members = members[np.argsort(hashes[members])]
    fifth = len(members) // 5
    chosen.append(members[:fifth] if split == "test" else members[fifth:])
  ids = np.sort(np.concatenate(chosen))
  rows = tuple(np.flatnonzero(digits[ids] == digit) for digit in range(10))
  return Handwritten(images[ids], digits[ids], ids, rows)


@functools.cache
def digest() -> str:
  """A hash of the collection's images and labels."""
  images, digits = _collection()
  return hashlib.sha256(images.tobytes() + digits.tobytes()).hexdigest()[:16]


def enlarge(
    image: Float32[np.ndarray, "8 8"], size: int
) -> Float32[np.ndarray, "s s"]:
  """Resizes a digit to `size` pixels, ink from 0 to 1."""
  matrix = _interpolation(size)
  large = matrix @ image @ matrix.T
  return np.clip(large, 0.0, 1.0, out=large)


@functools.cache
def _collection():
  from sklearn import datasets  # slow to import, and only needed here

  loaded = datasets.load_digits(return_X_y=True)
  pixels, digits = map(np.asarray, loaded)
  images = (pixels.reshape(-1, _SIDE, _SIDE) / _INK).astype(np.float32)
  return images, np.asarray(digits, np.int64)


@functools.cache
def _interpolation(size: int) -> Float32[np.ndarray, "s 8"]:
  centres = (np.arange(size) + 0.5) * _SIDE / size - 0.5
  matrix = np.zeros((size, _SIDE))
  for tap in range(-1, 3):
    source = np.floor(centres).astype(int) + tap
    weight = _keys(centres - source)
    np.add.at(matrix, (np.arange(size), source.clip(0, _SIDE - 1)), weight)
  return matrix.astype(np.float32)


def _keys(x: Float[np.ndarray, "s"]) -> Float[np.ndarray, "s"]:
  x = np.abs(x)
  near = 1.5 * x**3 - 2.5 * x**2 + 1
  far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

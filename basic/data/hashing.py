"""Hashes of pictures and texts, by which equal and similar ones are found."""

import hashlib
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt64

from basic.data import images

_SIDE = 32  # pixels of the thumbnail
_KEPT = 8  # lowest frequencies of each axis
# A smaller standard deviation, of 255 grey levels: nothing but noise to hash.
_FLAT = 4.0
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
# Parts of the height and width that are cut off an evaluation image, which is
# what web pages do most often to a picture, and the sides that they are cut off.
_CUTS = (0.05, 0.1)
_OFF = (
    *itertools.product((0.0, 0.5, 1.0), repeat=2),
    (0.0, None), (1.0, None), (None, 0.0), (None, 1.0),
)
_LARGE = 320  # pixels; evaluation images are shrunk to this before they are cut


def _cosines() -> Float32[np.ndarray, "k n"]:
  """The rows of the orthonormal discrete cosine transform (type II)."""
  k, n = np.arange(_KEPT)[:, None], np.arange(_SIDE)[None]
  rows = np.sqrt(2 / _SIDE) * np.cos(np.pi * k * (2 * n + 1) / (2 * _SIDE))
  rows[0] /= np.sqrt(2)
  return rows.astype(np.float32)


_COSINES = _cosines()


def perceptual(image: UInt8[np.ndarray, "h w c"]) -> int | None:
  """The perceptual hash (pHash) of a picture: similar ones differ in few bits.

      d = C g C^T,    g the grey picture of 32 by 32 pixels,  C_kn = cosines
      bit 8 u + v  =  d_uv > median of the 64 d_uv,   0 <= u, v < 8

  A picture without structure, whose grey values have a standard deviation below
  4 of 255 levels, has no such hash: all bits but one would be noise, and all
  such pictures would be near-duplicates of each other.

  Args:
    image: pixels, of 1 or 3 channels.

  Returns:
    64 bits, the first one in the highest place; None for a flat picture.

  References:
    Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions,
    2010, section 3.2. http://phash.org/docs/pubs/thesis_zauner.pdf
  """
  return _of_grey(_grey(image))


def _grey(image: UInt8[np.ndarray, "h w c"]) -> Float32[np.ndarray, "n n"]:
  small = images.resize(image, _SIDE, "none").astype(np.float32)
  return small @ _LUMA if small.shape[-1] == 3 else small[..., 0]


def _of_grey(grey: Float32[np.ndarray, "n n"]) -> int | None:
  if grey.std() < _FLAT:
    return None
  low = (_COSINES @ grey @ _COSINES.T).reshape(-1)
  return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def views(image: UInt8[np.ndarray, "h w c"]) -> list[int]:
  """Perceptual hashes of an evaluation image and of what is cropped from it.

  Args:
    image: pixels.

  Returns:
    Hashes of the whole image, and of what is left where 5 or 10% of the height,
    the width or both are cut off: at one side, or half at each of two.
  """
  if min(image.shape[:2]) > _LARGE:
    image = images.resize(image, _LARGE, "none")
  height, width = image.shape[:2]
  parts = [image]
  for cut, (down, across) in itertools.product(_CUTS, _OFF):
    rows = 0 if down is None else round(cut * height)
    columns = 0 if across is None else round(cut * width)
    top, left = round((down or 0) * rows), round((across or 0) * columns)
    parts.append(image[
        top:top + height - rows, left:left + width - columns
    ])
  found = [perceptual(np.ascontiguousarray(part)) for part in parts]
  return sorted({each for each in found if each is not None})


def nearest(
    hashes: UInt64[np.ndarray, "n"], others: UInt64[np.ndarray, "m"]
) -> UInt8[np.ndarray, "n"]:
  """Least number of bits in which each hash differs from one of the others.

  Args:
    hashes: to be looked up.
    others: at any number, in any order.

  Returns:
    Hamming distances, 0 to 64; 255 where there are no others.
  """
  least = np.full(len(hashes), 255, np.uint8)
  step = max(1, 4_000_000 // max(1, len(others)))  # 32 MB of differing bits
  for start in range(0, len(hashes) if len(others) else 0, step):
    block = hashes[start:start + step]
    least[start:start + step] = np.bitwise_count(
        block[:, None] ^ others[None]
    ).min(axis=1)
  return least


def content(value: Any) -> int:
  """A 64-bit hash of bytes, text, or the shape and pixels of an image."""
  digest = hashlib.blake2b(digest_size=8)
  if isinstance(value, np.ndarray):
    digest.update(repr(value.shape).encode())
    value = np.ascontiguousarray(value).tobytes()
  digest.update(value.encode("utf-8", "replace") if isinstance(value, str) else value)
  return int.from_bytes(digest.digest(), "big")


def among(
    values: UInt64[np.ndarray, "n"], table: UInt64[np.ndarray, "m"]
) -> Bool[np.ndarray, "n"]:
  """Whether each value is in a sorted table."""
  if not len(table):
    return np.zeros(len(values), bool)
  places = np.searchsorted(table, values)
  return table[np.minimum(places, len(table) - 1)] == values


def unsigned(values: Iterable[int]) -> UInt64[np.ndarray, "n"]:
  """64-bit hashes as an array, which NumPy would not choose by itself."""
  return np.array(list(values), np.uint64)

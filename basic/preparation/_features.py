"""What the rules need to know of each example, in numbered parts of a source.

The expensive pass over the data: every image is decoded once. A part is stored as
one file, whole or not at all, so a run that was stopped goes on with the parts
that are missing.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt64

from basic import types
from basic.data import hashing
from basic.preparation import _folder


class Features(NamedTuple):
  """The features of n examples, which have m captions of t tokens in all.

  Attributes:
    reasons: why examples are unreadable; reasons[0] is "".
    reason: of each example, an index into `reasons`; 0: it is readable.
    height: in pixels; 0 where unreadable.
    width: in pixels.
    image: hash of the image file, or of the pixels where there is no file.
    look: perceptual hash; 0 for a flat picture.
    flat: whether the picture has too little structure for a perceptual hash.
    captions: captions i of example k have captions[k] <= i < captions[k + 1].
    caption: hash of each caption.
    words: number of words of each caption.
    tokens: tokens j of caption i have tokens[i] <= j < tokens[i + 1].
    token: hash of each unigram and bigram, without repetitions.
  """

  reasons: np.ndarray
  reason: UInt8[np.ndarray, "n"]
  height: Int32[np.ndarray, "n"]
  width: Int32[np.ndarray, "n"]
  image: UInt64[np.ndarray, "n"]
  look: UInt64[np.ndarray, "n"]
  flat: Bool[np.ndarray, "n"]
  captions: Int64[np.ndarray, "n+1"]
  caption: UInt64[np.ndarray, "m"]
  words: Int32[np.ndarray, "m"]
  tokens: Int64[np.ndarray, "m+1"]
  token: UInt64[np.ndarray, "t"]

  def owner(self) -> Int64[np.ndarray, "m"]:
    """The example of each caption, counted within the part."""
    return np.repeat(np.arange(len(self.reason)), np.diff(self.captions))


class _One(NamedTuple):
  """The features of one example."""

  height: int = 0
  width: int = 0
  image: int = 0
  look: int | None = None
  captions: tuple[tuple[int, int, tuple[int, ...]], ...] = ()


def words(caption: str) -> list[str]:
  """The words of a caption, case-folded: what spaces separate.

  Example:
    >>> words("A red  Cat.")
    ['a', 'red', 'cat.']
  """
  return caption.casefold().split()


def ngrams(caption: str) -> set[str]:
  """The unigrams and bigrams of a caption.

  Example:
    >>> sorted(ngrams("a red cat"))
    ['a', 'a red', 'cat', 'red', 'red cat']
  """
  found = words(caption)
  return {*found, *(f"{one} {two}" for one, two in itertools.pairwise(found))}


def extract(source: types.Source, start: int, stop: int) -> Features:
  """Reads examples and extracts their features.

  Args:
    source: of the examples, which have "image", and "text" or not.
    start: the first.
    stop: one after the last.

  Returns:
    Features of stop - start examples.

  Raises:
    ValueError: if an example has no image.
  """
  reasons, found, reason = [""], [], []
  for index in range(start, stop):
    try:
      found.append(_one(source[index], index))
      reason.append(0)
    except types.Unreadable as error:
      found.append(_One())
      if error.reason not in reasons:
        reasons.append(error.reason)
      reason.append(reasons.index(error.reason))
    except Exception as error:
      error.add_note(f"while reading example {index} of {len(source)}")
      raise
  captions = [each for one in found for each in one.captions]
  return Features(
      reasons=np.array(reasons, np.str_),
      reason=np.array(reason, np.uint8),
      height=np.array([one.height for one in found], np.int32),
      width=np.array([one.width for one in found], np.int32),
      image=hashing.unsigned(one.image for one in found),
      look=hashing.unsigned(one.look or 0 for one in found),
      flat=np.array([one.look is None for one in found], np.bool_),
      captions=_offsets(len(one.captions) for one in found),
      caption=hashing.unsigned(caption for caption, _, _ in captions),
      words=np.array([count for _, count, _ in captions], np.int32),
      tokens=_offsets(len(tokens) for _, _, tokens in captions),
      token=hashing.unsigned(
          token for _, _, tokens in captions for token in tokens
      ),
  )


def _offsets(lengths: Iterator[int]) -> Int64[np.ndarray, "k"]:
  return np.array([0, *itertools.accumulate(lengths)], np.int64)


def _one(example: Mapping[str, Any], index: int) -> _One:
  identity, pixels = picture(example, index)
  text = example.get("text", ())
  texts = (text,) if isinstance(text, str) else tuple(text)
  return _One(
      height=pixels.shape[0], width=pixels.shape[1], image=identity,
      look=hashing.perceptual(pixels), captions=tuple(map(_caption, texts)),
  )


def _caption(text: str) -> tuple[int, int, tuple[int, ...]]:
  """(hash, number of words, hashes of unigrams and bigrams) of a caption."""
  found = words(text)
  tokens = sorted(map(hashing.content, ngrams(text)))
  return hashing.content(" ".join(found)), len(found), tuple(tokens)


def picture(
    example: Mapping[str, Any], index: int
) -> tuple[int, UInt8[np.ndarray, "h w c"]]:
  """The hash of an image file, or of pixels that are no file, and the pixels.

  Raises:
    types.Unreadable: if it cannot be decoded.
    ValueError: if the example has no image.
  """
  if "image" not in example:
    raise ValueError(
        f"example {index} has the fields {sorted(example)} and no image; the "
        "rules judge pictures, with captions or without."
    )
  image = example["image"]
  if hasattr(image, "decode"):
    return hashing.content(image.data), image.decode()
  pixels = np.asarray(image)
  return hashing.content(pixels), pixels


def looks(source: types.Source, start: int, stop: int) -> dict[str, np.ndarray]:
  """What near-duplicates of the images of an evaluation set are found by.

  Args:
    source: the evaluation set.
    start: its first example.
    stop: one after the last.

  Returns:
    "look" uint64: perceptual hashes (`hashing.views`); "image" uint64: hashes
    of files; "flat" and "unreadable" int64: numbers of images that have no
    perceptual hash, and that cannot be read.
  """
  found: list[int] = []
  images, flat, unreadable = [], 0, 0
  for index in range(start, stop):
    try:
      identity, pixels = picture(source[index], index)
    except types.Unreadable:
      unreadable += 1
      continue
    hashes = hashing.views(pixels)
    found += hashes
    images.append(identity)
    flat += not hashes
  return {
      "look": np.unique(hashing.unsigned(found)),
      "image": np.unique(hashing.unsigned(images)),
      "flat": np.array(flat, np.int64),
      "unreadable": np.array(unreadable, np.int64),
  }


def load(path: str) -> Features:
  """The features of a part that was stored by its `_asdict()`."""
  return Features(**_folder.read_arrays(path))

"""ALIGN's rules: which images and which captions are kept.

Pure functions from the features of a part, and from tables that were counted over
all parts, to a decision; the same on a laptop and in a Beam pipeline.
"""

import collections
import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from basic.data import hashing
from basic.preparation import _features, _folder

# The code of a reason in `Decision.reason` is its place in this list.
REASONS = (
    "kept", "unreadable", "image/shorter side", "image/aspect ratio",
    "image/too many texts", "image/evaluation set", "image/no caption left",
)
_NO_CAPTION = len(REASONS) - 1


class Rules(NamedTuple):
  """The limits; None, where allowed, turns a rule off. See `filter`."""

  shorter_side: int
  aspect_ratio: float | None
  image_texts: int | None
  text_images: int | None
  fewest_words: int
  most_words: int | None
  common_tokens: int | None
  distance: int


class Tables(NamedTuple):
  """What was counted over all parts; sorted hashes.

  Attributes:
    shared: captions of more than `text_images` images.
    crowded: images with more than `image_texts` captions.
    common: unigrams and bigrams that are not rare; None: none is rare.
  """

  shared: UInt64[np.ndarray, "a"]
  crowded: UInt64[np.ndarray, "b"]
  common: UInt64[np.ndarray, "c"] | None


class Evaluation(NamedTuple):
  """Hashes of the images of evaluation sets: files (sorted), and perceptual."""

  image: UInt64[np.ndarray, "f"]
  look: UInt64[np.ndarray, "p"]


class Decision(NamedTuple):
  """What is kept of a part.

  Attributes:
    reason: of each example, a code in `REASONS`; 0: it is kept.
    caption: whether each caption of a kept example is kept.
    counts: examples, and captions of those that pass the rules of images, by
      the first rule that each breaks.
  """

  reason: UInt8[np.ndarray, "n"]
  caption: Bool[np.ndarray, "m"]
  counts: Mapping[str, int]


@functools.lru_cache(maxsize=1)  # once for each worker process
def load(folder: str) -> tuple[Tables, Evaluation]:
  """Reads the tables of a folder, whose name says what they were counted over.

  A table "common" that is not there means that no token is rare; others are
  empty. A table is one file, or several of which the second begins where the
  first ends.
  """
  names = sorted(_folder.names(folder))
  found = {}
  for table in (*Tables._fields, *Evaluation._fields):
    parts = [
        _folder.read_array(f"{folder}/{name}") for name in names
        if name.startswith(f"{table}-")
    ]
    found[table] = np.concatenate([hashing.unsigned(()), *parts])
  common = found["common"] if len(found["common"]) else None
  return (
      Tables(found["shared"], found["crowded"], common),
      Evaluation(found["image"], found["look"]),
  )


def store(folder: str, table: str, hashes: np.ndarray, number: int = 0) -> None:
  """Writes a table of sorted hashes, or the numbered part of one, for `load`."""
  _folder.write(
      f"{folder}/{table}-{number:03}.npy", _folder.array_bytes(hashes)
  )


def pairs(features: _features.Features) -> UInt64[np.ndarray, "p 2"]:
  """The different pairs of a caption and an image of a part."""
  images = features.image[features.owner()]
  return np.unique(np.stack([features.caption, images], axis=1), axis=0)


def token_counts(
    features: _features.Features,
) -> tuple[UInt64[np.ndarray, "k"], Int64[np.ndarray, "k"]]:
  """(different unigrams and bigrams of a part, number of captions with each)."""
  found, counts = np.unique(features.token, return_counts=True)
  return found, counts.astype(np.int64)


def rare_below(histogram: Iterable[tuple[int, int]], most: int) -> int:
  """The count below which a token is rare: that of the `most`-th most frequent.

  Tokens as frequent as the last one are not rare either, so that the result
  depends on nothing but the counts.

  Args:
    histogram: (count, number of tokens with this count), in any order.
    most: how many of the most frequent tokens are not rare.

  Returns:
    A count; 0 if there are no more than `most` tokens.

  Example:
    >>> rare_below([(1, 5), (2, 3), (9, 1)], most=2)
    2
  """
  seen = 0
  rows = sorted(histogram, reverse=True)
  if sum(number for _, number in rows) <= most:
    return 0
  for count, number in rows:
    seen += number
    if seen >= most:
      return count
  raise AssertionError  # The sum is larger.


def decide(
    features: _features.Features,
    rules: Rules,
    tables: Tables,
    evaluation: Evaluation,
) -> Decision:
  """Applies the rules to a part.

  Args:
    features: of the part.
    rules: the limits.
    tables: counted over all parts.
    evaluation: hashes of the images that must not be trained on.

  Returns:
    The decision.
  """
  reason = np.zeros(len(features.reason), np.uint8)
  for code, broken in enumerate(
      _images(features, rules, tables, evaluation), start=1
  ):
    reason[(reason == 0) & broken] = code
  owner = features.owner()
  passed = reason[owner] == 0
  kept = passed.copy()
  counts = collections.Counter({
      "examples": len(reason), "captions": int(passed.sum())
  })
  for name, broken in _captions(features, rules, tables):
    counts[name] = int((kept & broken).sum())
    kept &= ~broken
  left = np.bincount(owner[kept], minlength=len(reason))
  had = np.diff(features.captions)
  reason[(reason == 0) & (had > 0) & (left == 0)] = _NO_CAPTION
  for code, name in enumerate(REASONS[2:], start=2):
    counts[name] = int((reason == code).sum())
  for code in features.reason[features.reason > 0].tolist():
    counts[f"unreadable/{features.reasons[code]}"] += 1
  counts["kept"] = int((reason == 0).sum())
  counts["kept captions"] = int(kept.sum())
  return Decision(reason, kept, dict(counts))


def _images(features, rules: Rules, tables: Tables, evaluation: Evaluation):
  """Whether each example breaks each rule of images, in the order of REASONS."""
  shorter = np.minimum(features.height, features.width)
  longer = np.maximum(features.height, features.width)
  none = np.zeros(len(shorter), bool)
  wide = rules.aspect_ratio
  return (
      features.reason > 0,
      shorter <= rules.shorter_side,
      none if wide is None else longer >= wide * shorter,
      hashing.among(features.image, tables.crowded),
      hashing.among(features.image, evaluation.image) | (
          ~features.flat
          & (hashing.nearest(features.look, evaluation.look) <= rules.distance)
      ),
  )


def _captions(features, rules: Rules, tables: Tables):
  """(name of a rule, whether each caption breaks it), in order."""
  none = np.zeros(len(features.caption), bool)
  rare = none
  if tables.common is not None:
    unknown = ~hashing.among(features.token, tables.common)
    total = np.concatenate([[0], np.cumsum(unknown)])
    rare = total[features.tokens[1:]] > total[features.tokens[:-1]]
  most = rules.most_words
  return (
      ("caption/too many images", hashing.among(features.caption, tables.shared)),
      ("caption/rare words", rare),
      ("caption/too few words", features.words < rules.fewest_words),
      ("caption/too many words", none if most is None else features.words > most),
  )

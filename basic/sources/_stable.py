"""What depends on settings alone: keys, generators, fingerprints, positions.

An example is a pure function of (settings, index). Each one draws from its own
generator, so order, threads and processes cannot change what it holds.
"""

import hashlib
import operator
from collections.abc import Callable, Hashable
from typing import Any, SupportsIndex

import numpy as np


def key(*settings: Any) -> int:
  """Makes a 64-bit key of plain settings, the same in every process.

  Example:
    >>> key("train", 0) == key("train", 0), key("train", 0) == key("test", 0)
    (True, False)
  """
  return int(fingerprint(*settings), 16)


def fingerprint(*settings: Any) -> str:
  """Names plain settings by 16 hex digits."""
  return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]


def generator(stream: int, index: int) -> np.random.Generator:
  """The noise of one example: Philox, keyed by (stream, index)."""
  return np.random.Generator(np.random.Philox(key=(stream << 64) | index))


def position(index: SupportsIndex, length: int) -> int:
  """Checks an index, counted from 0 and never from the end."""
  found = operator.index(index)
  if not 0 <= found < length:
    raise IndexError(
        f"example {found} was asked for; this source holds 0 to {length - 1}"
    )
  return found


def distinct(draw: Callable[[int], Hashable], length: int) -> tuple[int, ...]:
  """Counts 0, 1, 2, ... and keeps the counters whose draws are new.

  A longer length only appends, so examples keep their place.

  Args:
    draw: counter -> what must not repeat.
    length: how many to keep.

  Returns:
    `length` counters, ascending.

  Raises:
    ValueError: if after 100 tries for each there are still too few.
  """
  seen: set[Hashable] = set()
  kept: list[int] = []
  for counter in range(100 * length):
    if len(kept) == length:
      break
    drawn = draw(counter)
    if drawn not in seen:
      seen.add(drawn)
      kept.append(counter)
  if len(kept) < length:
    raise ValueError(
        f"{length} different scenes were asked for and only {len(kept)} were "
        "found; ask for fewer, so that no two scenes share their captions"
    )
  return tuple(kept)

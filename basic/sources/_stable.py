"""Reproducible sources: keys, generators, fingerprints and checks of indices.

An example is a pure function of (settings, index). Each example has its own
generator, so it does not depend on order, threads or processes.
"""

import hashlib
import operator
from collections.abc import Callable, Hashable
from typing import Any, SupportsIndex

import numpy as np


def key(*settings: Any) -> int:
  """Hashes settings of plain types to a 64-bit key, the same in every process.

  Example:
    >>> key("train", 0) == key("train", 0), key("train", 0) == key("test", 0)
    (True, False)
  """
  return int(fingerprint(*settings), 16)


def fingerprint(*settings: Any) -> str:
  """Hashes settings of plain types to 16 hexadecimal digits."""
  return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]


def generator(stream: int, index: int) -> np.random.Generator:
  """The generator of one example: Philox, keyed by (stream, index)."""
  return np.random.Generator(np.random.Philox(key=(stream << 64) | index))


def position(index: SupportsIndex, length: int) -> int:
  """Checks an index from 0 to length - 1; negative ones are refused."""
  checked = operator.index(index)
  if not 0 <= checked < length:
    raise IndexError(
        f"example {checked} does not exist; this source has 0 to {length - 1}"
    )
  return checked


def distinct(draw: Callable[[int], Hashable], length: int) -> tuple[int, ...]:
  """The first counters 0, 1, 2, ... whose draws differ from all before.

  A larger length only appends, so existing examples keep their indices.

  Args:
    draw: counter -> a value that must not repeat.
    length: the number of counters to return.

  Returns:
    `length` counters, ascending.

  Raises:
    ValueError: if 100 * length counters have fewer distinct draws.
  """
  seen: set[Hashable] = set()
  counters: list[int] = []
  for counter in range(100 * length):
    if len(counters) == length:
      break
    drawn = draw(counter)
    if drawn not in seen:
      seen.add(drawn)
      counters.append(counter)
  if len(counters) < length:
    raise ValueError(
        f"{length} different scenes were requested, but only {len(counters)} "
        "were found; request fewer, so that no two scenes share their captions"
    )
  return tuple(counters)

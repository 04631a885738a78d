"""Whether a step fits a memory, and the fewest chunks with which it would."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

GIB = 2**30
_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": GIB, "TIB": 2**40,
}


class Fit(NamedTuple):
  """What a memory allows.

  Attributes:
    memory: bytes that a device has.
    needs: bytes that the step as configured takes on one.
    fits: whether that is enough.
    chunks: into how many the configuration cuts a batch; 1 where it does not.
    fewest_chunks: that fit; None: no number of chunks does.
    largest_chunk: rows of the global batch in one of these.
    least: bytes that the step takes with as many chunks as can be, where even
      these do not fit.
  """

  memory: int
  needs: int
  fits: bool
  chunks: int
  fewest_chunks: int | None
  largest_chunk: int | None
  least: int | None


def size(text: str) -> int:
  """Bytes from "80GiB", "32 GB" or a bare number.

  Raises:
    ValueError: if it is none of those.

  Example:
    >>> size("1.5 KiB")
    1536
  """
  found = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]*)\s*", text)
  try:
    return int(float(found[1]) * _UNITS[found[2].upper()])
  except (TypeError, ValueError, KeyError):
    raise ValueError(
        f"memory is {text!r}; it takes a size such as '80GiB' or '80GB'."
    ) from None


def counts(batch_size: int, devices: int) -> list[int]:
  """Numbers of chunks that leave each device whole rows, ascending.

  Args:
    batch_size: rows of the global batch.
    devices: over which its rows are split.

  Example:
    >>> counts(64, 8)
    [1, 2, 4, 8]
  """
  rows = batch_size // devices
  return [n for n in range(1, rows + 1) if rows % n == 0]


def fit(
    needs: Callable[[int], int],
    *,
    memory: int,
    chunks: int,
    counts: Sequence[int],
    batch_size: int,
    configured: int,
) -> Fit:
  """Finds the fewest chunks that fit, by compiling a few numbers of them.

  More chunks need no more memory, unless activations are kept up to a budget, so
  halving the range finds the boundary.

  Args:
    needs: chunks -> bytes on one device, from the compiler.
    memory: bytes that a device has.
    chunks: of the configuration.
    counts: numbers of chunks to choose from, ascending.
    batch_size: rows of the global batch.
    configured: bytes that the configuration takes as it stands.

  Returns:
    What fits. The fewest chunks were compiled, not extrapolated.
  """
  low, high = 0, len(counts)  # counts[high] fits, everything below low does not
  known: dict[int, int] = {}
  while low < high:
    middle = (low + high) // 2
    known[middle] = needs(counts[middle])
    if known[middle] <= memory:
      high = middle
    else:
      low = middle + 1
  found = counts[high] if high < len(counts) else None
  return Fit(
      memory, configured, configured <= memory, chunks, found,
      None if found is None else batch_size // found,
      known[len(counts) - 1] if found is None else None,
  )


def sentence(fit: Fit) -> str:
  """Says it in one line: "needs 93 GiB, has 80; 32 chunks would fit".

  Example:
    >>> sentence(Fit(80 * GIB, 93 * GIB, False, 8, 32, 2048, None))
    'needs 93 GiB, has 80; 32 chunks would fit'
  """
  has = _number(fit.memory)
  if fit.fits:
    least = (
        "" if fit.fewest_chunks is None
        else f"; {_chunks(fit.fewest_chunks)} of {fit.largest_chunk} rows "
        "would do"
    )
    return f"fits: needs {_number(fit.needs)} GiB, has {has}{least}"
  refused = f"needs {_number(fit.needs)} GiB, has {has}; "
  if fit.fewest_chunks is None:
    return (
        refused + "no number of chunks fits, the most still need "
        f"{_number(fit.least or fit.needs)} GiB: use more devices"
    )
  return f"{refused}{_chunks(fit.fewest_chunks)} would fit"


def _chunks(count: int) -> str:
  return f"{count} chunk{'' if count == 1 else 's'}"


def _number(size: int) -> str:
  """GiB with three digits: 1024, 93, 9.3, 0.093."""
  gib = size / GIB
  return f"{gib:.0f}" if gib >= 100 else f"{gib:.3g}"

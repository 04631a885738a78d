"""Whether a step fits in memory, and the fewest chunks with which it fits."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

GIB = 2**30
_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": GIB, "TIB": 2**40,
}


class Fit(NamedTuple):
  """Whether a step fits in memory, and with how many chunks.

  Attributes:
    memory: bytes of one device.
    needs: bytes that the step, as configured, takes on one device.
    fits: whether the memory is enough.
    chunks: number of chunks in the configuration; 1 if it has none.
    fewest_chunks: fewest chunks that fit; None: no number of chunks does.
    largest_chunk: rows of the global batch in one of these chunks.
    least: bytes that the step takes with the most chunks possible, if even that
      does not fit.
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
    ValueError: if it is none of those, or 0.

  Example:
    >>> size("1.5 KiB")
    1536
  """
  match = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]*)\s*", text)
  number, unit = match.groups() if match else ("", "")
  try:
    bytes_ = int(float(number) * _UNITS[unit.upper()])
  except (ValueError, KeyError, OverflowError):
    bytes_ = 0
  if not bytes_:
    raise ValueError(
        f"memory is {text!r}; it takes a size such as '80GiB' or '80GB'."
    )
  return bytes_


def counts(batch_size: int, devices: int) -> list[int]:
  """Numbers of chunks that divide the rows of each device, ascending.

  Args:
    batch_size: rows of the global batch.
    devices: number of devices over which the rows are split.

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
  """Finds the fewest chunks that fit, by binary search with compilation.

  This assumes that more chunks never need more memory, which holds unless
  activations are kept up to a budget.

  Args:
    needs: chunks -> bytes on one device, from the compiler.
    memory: bytes of one device.
    chunks: number of chunks in the configuration.
    counts: numbers of chunks to choose from, ascending.
    batch_size: rows of the global batch.
    configured: bytes on one device with the configuration as it is.

  Returns:
    A `Fit`. The step was compiled with the fewest chunks, not extrapolated.
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
  fewest = counts[high] if high < len(counts) else None
  return Fit(
      memory, configured, configured <= memory, chunks, fewest,
      None if fewest is None else batch_size // fewest,
      known[len(counts) - 1] if fewest is None else None,
  )


def sentence(fit: Fit) -> str:
  """The result in one line: "needs 93 GiB, has 80; 32 chunks would fit".

  Example:
    >>> sentence(Fit(80 * GIB, 93 * GIB, False, 8, 32, 2048, None))
    'needs 93 GiB, has 80; 32 chunks would fit'
  """
  has = _number(fit.memory)
  if fit.fits:
    least = (
        "" if fit.fewest_chunks is None
        else f"; {_chunks(fit.fewest_chunks)} of {fit.largest_chunk} rows "
        f"{'is' if fit.fewest_chunks == 1 else 'are'} enough"
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

"""Calls that succeed on all processes of a run, or count as failed on all."""

from collections.abc import Callable
from typing import Any

import jax

from basic.engine import checksums


class BrokenError(Exception):
  """A process could not read or write its part of a checkpoint."""


def together(call: Callable[[], Any]) -> Any:
  """Calls a function on all processes together.

  Args:
    call: what each of them calls; it waits for no other process.

  Returns:
    What the call returned on this process.

  Raises:
    BrokenError: on all processes, if the call raised on one of them; its cause
      is the error of this process, if there was one.
  """
  result, error = None, None
  try:
    result = call()
  except Exception as caught:
    error = caught
  failed = int(checksums.total([error is not None])[0])
  if failed:
    cause = _cause(error) if error else "not in this one"
    raise BrokenError(
        f"{cause} (in {failed} of {jax.process_count()} processes)") from error
  return result


def _cause(error: Exception) -> str:
  """The first lines of an error, without the pages that TensorStore appends."""
  text = f"{type(error).__name__}: {error}"
  full = "No space left on device"
  return f"{full}: {text[:200]}" if full in text[200:] else text[:400]

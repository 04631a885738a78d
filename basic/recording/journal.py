"""Stores metrics in a file that survives a kill: one JSON object per line.

    {"step": 10, "time": 1767225600.0, "loss": 2.5}

Lines are only ever appended, so a kill can truncate only the last one, which
readers skip. JSON cannot represent NaN and infinity: these are the strings
"nan", "inf" and "-inf" in the file, and become floats when read.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from basic import files

NAME = "metrics.jsonl"
_NOT_FINITE = ("nan", "inf", "-inf")


def line(row: Mapping[str, float | int]) -> bytes:
  """Encodes metrics, by name, as one line of the file.

  Example:
    >>> line({"step": 1, "loss": math.inf})
    b'{"step": 1, "loss": "inf"}\\n'
  """
  finite = {n: x if math.isfinite(x) else str(x) for n, x in row.items()}
  return json.dumps(finite, allow_nan=False).encode() + b"\n"


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads the metrics that a run has written so far.

  Returns:
    One dict per line, oldest first: "step", "time" in seconds since 1970, and
    the metrics. Empty if nothing was written.

  Raises:
    ValueError: if a line other than the last is not a JSON object of numbers.
  """
  rows = _rows(pathlib.Path(workdir) / NAME)
  return [
      {n: float(x) if x in _NOT_FINITE else x for n, x in row.items()}
      for _, row in rows
  ]


def curve(
    rows: Sequence[Mapping[str, Any]], name: str
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
  """The values of one metric over the steps of a run.

  Returns:
    (steps, values) of the lines that have it, int64 and float64.

  Example:
    >>> steps, values = curve([{"step": 1, "loss": 2.5}, {"step": 2}], "loss")
    >>> steps.tolist(), values.tolist()
    ([1], [2.5])
  """
  points = [(row["step"], row[name]) for row in rows if name in row]
  steps = np.array([step for step, _ in points], np.int64)
  return steps, np.array([x for _, x in points], np.float64)


def truncate(workdir: str | os.PathLike, start: int) -> int:
  """Removes the lines that a run resumed at `start` will write again.

  Args:
    workdir: the run's folder; the file need not exist yet.
    start: steps already taken. Lines of later steps are removed, and so is an
      incomplete last line.

  Returns:
    The number of lines removed.

  Raises:
    ValueError: if a line other than the last is not valid.
  """
  path = pathlib.Path(workdir) / NAME
  if not path.exists():
    return 0
  before = path.read_bytes()
  remaining = [line for line, row in _rows(path) if row["step"] <= start]
  content = b"".join(line.rstrip(b"\n") + b"\n" for line in remaining)
  if content != before:
    files.replace(path, content)
  return len(before.splitlines()) - len(remaining)


def _row(line: bytes) -> dict[str, Any]:
  """Parses one line; ValueError if it is not an object with a step."""
  row = json.loads(line)
  if not isinstance(row, dict) or not _is_number(row.get("step")):
    raise ValueError("not an object with a step")
  if not isinstance(row["step"], int):
    raise ValueError("a step is an integer")
  invalid = [
      name for name, x in row.items() if x not in _NOT_FINITE and not _is_number(x)
  ]
  if invalid:
    raise ValueError(f"{invalid[0]!r} is not a number")
  return row


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _rows(path: pathlib.Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """Yields all lines, raw and parsed, except an incomplete last one."""
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  for number, line in enumerate(lines, 1):
    try:
      row = _row(line)
    except ValueError as error:
      if not line.endswith(b"\n"):
        return
      raise ValueError(
          f"Line {number} of {path} is not a line of metrics ({error}). Another "
          "program changed the file: remove that line, or restore the file."
      ) from error
    yield line, row

"""The list of the examples that could not be read, in the folder of a run.

    {"index": 12, "where": "pictures/a.png", "reason": "truncated image",
     "message": "truncated image: ...", "source": "0123456789abcdef"}

One JSON object a line, each example once, in the order in which they were found.
Lines are only ever appended, so a kill can truncate only the last one, which
readers skip.
"""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax

from basic import files
from basic.data import damage
from basic.recording import redact

NAME = "quarantine.jsonl"
_LONGEST = 500  # characters of a message, or of a place


class Quarantine:
  """Adds examples to the list. In a run of several processes the first writes.

  All processes read the list at the start and add the same examples, so all know
  which are new.

  Args:
    workdir: the folder of the run.
    most: examples that are listed; later ones are only counted.

  Attributes:
    path: of the file, which exists once an example is listed.

  Raises:
    ValueError: if a line of the file, other than the last, is damaged.
  """

  def __init__(self, workdir: str | os.PathLike, most: int = 10_000):
    self.path = pathlib.Path(workdir) / NAME
    self._most = most
    content, rows = _content(self.path)
    self._known = {(row["source"], row["index"]) for row in rows}
    # A line that a kill has cut off is removed, or the next would continue it.
    if self.path.exists() and jax.process_index() == 0:
      if content != self.path.read_bytes():
        files.replace(self.path, content)

  def new(self, source: str | None, index: int) -> bool:
    """Whether an example would be added: neither listed, nor the list full."""
    return len(self._known) < self._most and (source, index) not in self._known

  def add(
      self, source: str | None, failures: Iterable[damage.Failure]
  ) -> None:
    """Appends the examples that are new, and syncs them to disk.

    Args:
      source: fingerprint of the source, which tells the sources of stages apart.
      failures: failed reads, with messages.
    """
    lines = []
    for failure in failures:
      if self.new(source, failure.example):
        self._known.add((source, failure.example))
        lines.append(_line(source, failure))
    if not lines or jax.process_index() != 0:
      return
    with open(self.path, "ab") as file:
      file.write(b"".join(lines))
      file.flush()
      os.fsync(file.fileno())


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads the list of a run, oldest first; empty if there is none.

  Raises:
    ValueError: if a line other than the last is damaged.
  """
  return _content(pathlib.Path(workdir) / NAME)[1]


def _line(source: str | None, failure: damage.Failure) -> bytes:
  message = redact.value("message", failure.message)[:_LONGEST]
  where = redact.value("where", failure.where)[:_LONGEST]
  return json.dumps({
      "index": failure.example, "where": where, "reason": failure.reason,
      "message": message, "source": source,
  }).encode() + b"\n"


def _content(path: pathlib.Path) -> tuple[bytes, list[dict[str, Any]]]:
  """(the whole lines of the file, the same parsed)."""
  whole, rows = [], []
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  for number, line in enumerate(lines, 1):
    if not line.endswith(b"\n"):
      break
    try:
      rows.append(_parsed(line))
    except ValueError as error:
      raise ValueError(
          f"line {number} of {path} does not describe an example ({error}). "
          "Another program changed the file: remove that line, or the file."
      ) from error
    whole.append(line)
  return b"".join(whole), rows


def _parsed(line: bytes) -> dict[str, Any]:
  row = json.loads(line)
  if isinstance(row, dict):
    row = {"where": "", **row}  # Lists of older runs do not have it.
  expected = {
      "index": int, "where": str, "reason": str, "message": str,
      "source": str | None,
  }
  for name, kind in expected.items():
    if not isinstance(row, dict) or not isinstance(row.get(name), kind):
      raise ValueError(f"it has no {name!r}")
  return row

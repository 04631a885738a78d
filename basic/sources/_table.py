"""Rows of CSV, TSV and JSONL files by number, of which only offsets are held.

A row that cannot be used is `types.Unreadable`, and no other row is lost for it:

    broken row: a quote that is not closed, or a line that is no JSON object
    ragged row: another number of fields than the table has columns
    row is not UTF-8
"""

import contextlib
import csv
import hashlib
import io
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from basic import types
from basic.sources import _storage

# Extension -> the separator of fields; "" finds it in the header.
SEPARATORS = {".csv": "", ".tsv": "\t", ".tab": "\t", ".txt": ""}
LINES = (".jsonl", ".ndjson")
KINDS = (*SEPARATORS, *LINES)
SNIFFED = ("\t", ",", ";", "|")  # separators that are looked for in a header

_PIECE = 1 << 24  # bytes scanned at once
_PIECE_LINES = 1 << 16
_LONGEST_ROW = 1 << 24  # bytes
_MOST_LINES = 100  # of a row; a quote that spans more is not closed
_BOM = b"\xef\xbb\xbf"
_PAST_THE_END = "the line after the last one"


class Table:
  """An open table. Threads may read it concurrently.

  Attributes:
    names: of its columns.
    separator: of its fields; "" for JSONL.
  """

  def __init__(
      self,
      path: str,
      separator: str | None = None,
      names: Sequence[str] | None = None,
  ):
    """Finds where rows start, in one pass over the file.

    Args:
      path: a local path, or a URL of fsspec, which is held in memory.
      separator: of fields; None: that of the file's extension, or the one that
        occurs most often in the header.
      names: of the columns, for a file without a header; None: its first row.

    Raises:
      ValueError: if it is no table, is empty, or its header cannot be read; or if
        the separator is no single character.
      OSError: if it cannot be read.
    """
    _check_separator(path, separator)
    self._path = path
    self._json = os.path.splitext(path)[1].lower() in LINES
    self._content = _storage.read(path) if _storage.is_remote(path) else None
    self.size = _storage.size(path)
    with self._mapped() as content:
      _check(path, content)
      first = len(_BOM) if content[:3] == _BOM else 0
      self.separator = "" if self._json else (
          separator or _separator(path, content, first)
      )
      self._starts = self._scan(content, first)
    self._header = 0 if self._json or names is not None else 1
    if len(self._starts) - 1 <= self._header:
      raise ValueError(f"{path} has no rows; a table has one for each picture.")
    self.names = tuple(names) if names is not None else self._names()

  def __len__(self) -> int:
    return len(self._starts) - 1 - self._header

  def row(self, number: int) -> Mapping[str, Any]:
    """The fields of a row, from 0, by name.

    Raises:
      types.Unreadable: for one of the reasons at the top of this file.
    """
    text = self._text(number + self._header)
    if self._json:
      return _object(text)
    fields = _fields(text, self.separator)
    if len(fields) != len(self.names):
      raise types.Unreadable(
          "ragged row",
          f"found {len(fields)} fields, expected {len(self.names)}: {text!r:.80}",
      )
    return dict(zip(self.names, fields, strict=True))

  def digest(self) -> str:
    """Hashes all of the content."""
    with self._mapped() as content:
      digest = hashlib.sha256()
      for _, piece in _pieces(content):
        digest.update(piece)
    return digest.hexdigest()

  @contextlib.contextmanager
  def _mapped(self) -> Iterator[Any]:
    """The content of the file, for one pass over it."""
    if self._content is not None or not self.size:
      yield self._content or b""
      return
    with _storage.open_binary(self._path) as file:
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content

  def _text(self, line: int) -> str:
    start, stop = int(self._starts[line]), int(self._starts[line + 1])
    if stop - start > _LONGEST_ROW:
      raise types.Unreadable("broken row", f"its length is {stop - start} bytes")
    if self._content is not None:
      data = self._content[start:stop]
    else:
      data = _storage.read(self._path, start, stop)
    try:
      return data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
      raise types.Unreadable(
          "row is not UTF-8", f"{error}; save the table as UTF-8"
      ) from error

  def _names(self) -> tuple[str, ...]:
    """The names of the columns, from the header or the first objects."""
    if self._json:
      return _keys(self)
    try:
      names = _fields(self._text(0), self.separator)
    except types.Unreadable as error:
      raise ValueError(
          f"the header of {self._path} cannot be read: {error}. Save the table "
          "as UTF-8."
      ) from error
    names = [name.strip() for name in names]
    filled = [name for name in names if name]  # Spreadsheets add blank ones.
    if len(set(filled)) < len(filled):
      raise ValueError(
          f"{self._path} has the columns {names}, two of which have the same "
          "name; rename one."
      )
    return tuple(names)

  def _scan(self, content, first: int) -> np.ndarray:
    """Offsets of all rows that are not blank, and of the end, int64."""
    starts, quoted = [np.array([first])], False
    for at, piece in _pieces(content):
      ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
      starts.append(ends + (at + 1))
      quoted = quoted or b'"' in piece
    starts = np.concatenate(starts)
    starts = starts[starts < len(content)]
    if quoted and not self._json:
      rows = _row_starts(content, starts, self.separator)
      starts = starts[np.fromiter(rows, np.int64)]
    lengths = np.diff(starts, append=len(content))
    short = np.flatnonzero(lengths <= 2)  # Only these can be blank.
    blank = [
        n for n in short
        if not content[starts[n] : starts[n] + lengths[n]].strip(b"\r\n")
    ]
    return np.append(np.delete(starts, blank), len(content))


def _check_separator(path: str, separator: str | None) -> None:
  """Refuses what cannot separate fields."""
  if separator is None:
    return
  if len(separator) != 1 or separator in '"\r\n':
    raise ValueError(
        f"separator is {separator!r}; it takes one character, such as ',' or "
        "'\\t', or leave it out, and it is found in the header."
    )
  if os.path.splitext(path)[1].lower() in LINES:
    raise ValueError(
        f"separator is {separator!r}, and the fields of {path} have none, since "
        "its lines are JSON; leave it out."
    )


def _check(path: str, content) -> None:
  """Refuses what is no table of UTF-8 text."""
  if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
    raise ValueError(f"{path} is UTF-16; save it as UTF-8.")
  if content[:2] == b"\x1f\x8b":
    raise ValueError(f"{path} is compressed; unpack it with gunzip.")
  if content[:4] == b"PK\3\4":
    raise ValueError(f"{path} is an archive or a spreadsheet; save it as CSV.")
  if path.lower().endswith(LINES) and content[:1] == b"[":
    raise ValueError(f"{path} is one JSON array; write one object a line.")
  start = content[:_PIECE]
  if b"\r" in start and b"\n" not in start:
    raise ValueError(f"the lines of {path} end in \\r alone; end them in \\n.")


def _pieces(content) -> Iterator[tuple[int, bytes]]:
  """(offset, bytes) of all of the content, of which little is in memory."""
  for at in range(0, len(content), _PIECE):
    yield at, content[at : at + _PIECE]
    _forget(content)


def _forget(content) -> None:
  """Gives the pages of a mapped file back that have been read."""
  if isinstance(content, mmap.mmap):
    content.madvise(mmap.MADV_DONTNEED)


def _separator(path: str, content, first: int) -> str:
  known = SEPARATORS.get(os.path.splitext(path)[1].lower())
  if known:
    return known
  end = content.find(b"\n", first)
  header = bytes(content[first : end if end >= 0 else len(content)])
  return max(SNIFFED, key=lambda each: header.count(each.encode()))


def _row_starts(content, lines: np.ndarray, separator: str) -> Iterator[int]:
  """Numbers of the lines at which rows begin: fields in quotes hold several.

  A quote that is not closed within `_MOST_LINES` lines makes a row of its line
  alone, and the next line begins another.
  """
  stops = np.append(lines[1:], len(content))
  begin = 0

  def read() -> Iterator[str]:
    for at in range(begin, len(lines)):
      if at - begin > _MOST_LINES:
        return
      if at % _PIECE_LINES == 0:
        _forget(content)
      yield content[lines[at] : stops[at]].decode("latin-1")
    yield _PAST_THE_END

  while begin < len(lines):
    reader, restarted = csv.reader(read(), delimiter=separator), begin
    while begin < len(lines):
      try:
        next(reader)
        after = restarted + reader.line_num
      except (csv.Error, StopIteration):
        after = len(lines) + 1
      yield begin
      broken = after > len(lines) or after - begin > _MOST_LINES
      begin = begin + 1 if broken else after
      if broken:
        break


def _fields(text: str, separator: str) -> list[str]:
  """The fields of one row, which may have line feeds in quotes."""
  lines = list(io.StringIO(text, newline="\n"))
  reader = csv.reader([*lines, _PAST_THE_END], delimiter=separator)
  try:
    fields = next(reader)
  except csv.Error as error:
    raise types.Unreadable("broken row", f"{error}: {text!r:.80}") from error
  if reader.line_num > len(lines):
    raise types.Unreadable("broken row", f"a quote is not closed: {text!r:.80}")
  return fields


def _object(text: str) -> Mapping[str, Any]:
  try:
    found = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise types.Unreadable("broken row", f"{error}: {text!r:.80}") from error
  if not isinstance(found, dict):
    raise types.Unreadable("broken row", f"expected an object: {text!r:.80}")
  return found


def _keys(table: Table) -> tuple[str, ...]:
  """The keys of the first objects of a JSONL file."""
  keys: dict[str, None] = {}
  for number in range(min(len(table), _MOST_LINES)):
    try:
      keys |= dict.fromkeys(table.row(number))
    except types.Unreadable:
      continue  # Counted where it is read.
  return tuple(keys)

"""Rows of Parquet files by number, a row group at a time."""

import collections
import dataclasses
import functools
import io
import threading
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from basic import types
from basic.sources import _storage

# What pyarrow raises for damaged files; pyarrow.ArrowInvalid is a ValueError.
_DAMAGED = (OSError, ValueError, pyarrow.ArrowException, EOFError, MemoryError)
_OPEN_FOOTERS = 32
_DAMAGE = "damaged row group"


@dataclasses.dataclass(frozen=True)
class Footer:
  """What the end of a file says of it.

  Attributes:
    schema: of its columns, with the metadata that the writer added.
    rows: of each row group.
    sizes: bytes of each row group when decoded, as the writer says.
  """

  schema: pyarrow.Schema
  rows: tuple[int, ...]
  sizes: tuple[int, ...]


def footers(paths: Sequence[str]) -> list[Footer]:
  """Reads the footers of files, several at a time.

  Raises:
    ValueError: if some are no whole Parquet files: how many, and the first.
    OSError: if one cannot be read.
  """
  with futures.ThreadPoolExecutor(16) as pool:
    found = list(pool.map(_footer, paths))
  broken = [
      (path, error) for path, error in zip(paths, found, strict=True)
      if isinstance(error, str)
  ]
  if broken:
    path, error = broken[0]
    raise ValueError(
        f"{len(broken)} of {len(paths)} files are no whole Parquet files, the "
        f"first of them {path}: {error}. How many rows they have is not known: "
        "restore them, or leave them out of the pattern."
    )
  return [each for each in found if isinstance(each, Footer)]


def _footer(path: str) -> Footer | str:
  """The footer of a file, or why it has none."""
  size = _storage.size(path)
  if size < 12:
    return f"it has {size} bytes"
  ends = _storage.read(path, 0, 4), _storage.read(path, size - 4)
  if ends[0] != b"PAR1":
    return f"it starts with {ends[0]!r} instead of b'PAR1'"
  if ends[1] != b"PAR1":
    return "its end is missing, so it was cut off while it was written or copied"
  try:
    found = _read_footer(path, size)
    groups = [found.row_group(n) for n in range(found.num_row_groups)]
    return Footer(
        found.schema.to_arrow_schema(),
        tuple(group.num_rows for group in groups),
        tuple(group.total_byte_size for group in groups),
    )
  except _DAMAGED as error:
    return f"its footer is damaged: {error}"


def _read_footer(path: str, size: int) -> parquet.FileMetaData:
  return parquet.read_metadata(pyarrow.PythonFile(_Retrying(path, size), "r"))


class _Retrying(io.RawIOBase):
  """A file of any storage, each read of which is tried again if it fails.

  Attributes:
    failed: whether a read failed in all attempts.
  """

  def __init__(self, path: str, size: int):
    super().__init__()
    self._path = path
    self._size = size
    self._at = 0
    self.failed = False

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def size(self) -> int:
    return self._size

  def tell(self) -> int:
    return self._at

  def seek(self, offset: int, whence: int = 0) -> int:
    self._at = offset + (0, self._at, self._size)[whence]
    return self._at

  def read(self, count: int = -1) -> bytes:
    stop = self._size if count < 0 else min(self._size, self._at + count)
    if stop <= self._at:
      return b""
    try:
      data = _storage.read(self._path, self._at, stop)
    except OSError:
      self.failed = True
      raise
    self._at += len(data)
    return data


class RowGroups:
  """Decoded row groups of files, the last ones kept in memory.

  Threads may read it concurrently; a row group that several want is decoded
  once.
  """

  def __init__(
      self, paths: Sequence[str], columns: Sequence[str], memory: int
  ):
    """Makes a cache.

    Args:
      paths: of the files.
      columns: to be decoded.
      memory: most bytes of decoded row groups to keep, but for the last one.
    """
    self._paths = tuple(paths)
    self._columns = list(columns)
    self._memory = memory
    self._lock = threading.Lock()
    self._kept: collections.OrderedDict[tuple[int, int], futures.Future] = (
        collections.OrderedDict()
    )
    self._sizes: dict[tuple[int, int], int] = {}
    self._footer = functools.lru_cache(_OPEN_FOOTERS)(self._read_footer)

  def table(self, file: int, group: int) -> pyarrow.Table:
    """The columns of a row group.

    Raises:
      types.Unreadable: if it is damaged, or cannot be read.
    """
    key = (file, group)
    with self._lock:
      kept = self._kept.get(key)
      mine = kept is None
      if mine:
        kept = self._kept[key] = futures.Future()
      self._kept.move_to_end(key)
    if mine:
      try:
        table = self._decode(file, group)
        kept.set_result(table)
        self._make_room(key, table.nbytes)
      except BaseException as error:
        kept.set_exception(error)
        if getattr(error, "reason", None) != _DAMAGE:  # May be read later.
          with self._lock:
            self._kept.pop(key, None)
    return kept.result()

  @property
  def nbytes(self) -> int:
    """Bytes of the row groups that are kept."""
    with self._lock:
      return sum(self._sizes.values())

  def _make_room(self, key: tuple[int, int], size: int) -> None:
    """Forgets row groups that were not used for long."""
    with self._lock:
      self._sizes[key] = size
      while sum(self._sizes.values()) > self._memory and len(self._sizes) > 1:
        oldest = next(each for each in self._kept if each in self._sizes)
        del self._kept[oldest], self._sizes[oldest]

  def _decode(self, file: int, group: int) -> pyarrow.Table:
    path, source = self._paths[file], None
    try:
      size, footer = self._footer(file)
      source = _Retrying(path, size)
      opened = parquet.ParquetFile(
          pyarrow.PythonFile(source, "r"), metadata=footer,
          page_checksum_verification=True,
      )
      table = opened.read_row_group(
          group, columns=self._columns, use_threads=False
      )
      expected = footer.row_group(group).num_rows
    except _DAMAGED as error:
      failed = source is None or source.failed
      raise types.Unreadable(
          "failed read" if failed else _DAMAGE, f"{group} of {path}: {error}"
      ) from error
    if table.num_rows != expected:
      raise types.Unreadable(
          _DAMAGE,
          f"{group} of {path} has {table.num_rows} rows instead of {expected}",
      )
    return table

  def _read_footer(self, file: int) -> tuple[int, parquet.FileMetaData]:
    size = _storage.size(self._paths[file])
    return size, _read_footer(self._paths[file], size)


@dataclasses.dataclass(frozen=True)
class Places:
  """From the number of a row to its file, row group, and place in it.

  Attributes:
    starts: number of the first row of each row group that has rows, and of all
      rows, int64.
    files: file of each of these row groups, int32.
    groups: number of each in its file, int32.
  """

  starts: np.ndarray
  files: np.ndarray
  groups: np.ndarray

  def find(self, row: int) -> tuple[int, int, int]:
    """(file, row group, row in the row group)."""
    at = int(np.searchsorted(self.starts, row, side="right")) - 1
    return (
        int(self.files[at]), int(self.groups[at]), row - int(self.starts[at])
    )


def places(found: Sequence[Footer]) -> Places:
  """Where the rows of files are, in their order."""
  rows = np.array([n for each in found for n in each.rows], np.int64)
  files = np.repeat(
      np.arange(len(found), dtype=np.int32), [len(each.rows) for each in found]
  )
  groups = np.array(
      [n for each in found for n in range(len(each.rows))], np.int32
  )
  some = rows > 0
  starts = np.concatenate([[0], np.cumsum(rows[some])]).astype(np.int64)
  return Places(starts, files[some], groups[some])


def value(table: pyarrow.Table, column: str, row: int) -> Any:
  """A value of a decoded row group as Python has it.

  Raises:
    types.Unreadable: if it is text that is not UTF-8.
  """
  try:
    return table.column(column)[row].as_py()
  except UnicodeDecodeError as error:
    raise types.Unreadable("caption is not text", str(error)) from error

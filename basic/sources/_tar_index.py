"""Indexes of tar shards: where each sample lies, in a file for each shard.

A file is a line of JSON, padded to a multiple of 64 bytes, and the rows of a
NumPy array of `ROW`, which can be mapped into memory. The line says to which
shard it belongs, by size and samples of its content, which patterns of members
occur and how often, and what is lost.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from basic import files
from basic.sources import _storage, _tar_format, _tar_samples

ROW = np.dtype([
    ("start", "<u8"),  # offset of the sample in the shard
    ("key", "<u8"),  # hash of its key
    ("length", "<u4"),  # bytes from there to the end of its last member
    ("pattern", "<u2"),  # number of its pattern
    ("zero", "<u2"),
])
SUFFIX = ".index"
_FORMAT = "basic tar index 1"
_LONGEST_LINE = 1 << 26
_ROWS = 1 << 20  # rows read at once
_MOST_PATTERNS = 1 << 16
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gunzip"), (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ", "xz", "unxz"), (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
)


@dataclasses.dataclass(frozen=True)
class Shard:
  """A shard and its index.

  Attributes:
    path: of the shard.
    file: of the index.
    size: of the shard, in bytes.
    content: samples of its content, hashed (`_storage.fingerprint`).
    patterns: each with the number of its samples.
    lost: reason -> count of what is of no sample.
    offset: of the rows in the index, in bytes.
    crc: of the rows.
  """

  path: str
  file: str
  size: int
  content: str
  patterns: tuple[tuple[_tar_samples.Pattern, int], ...]
  lost: Mapping[str, int]
  offset: int
  crc: int

  @property
  def name(self) -> str:
    """The name of the shard without its folder."""
    return os.path.basename(self.path)

  @property
  def samples(self) -> int:
    """Samples in the shard, usable or not."""
    return sum(count for _, count in self.patterns)


def beside(path: str) -> str | None:
  """The index of a local shard that lies beside it; None for other storage."""
  return None if _storage.is_remote(path) else path + SUFFIX


def inside(folder: str | os.PathLike, path: str) -> str:
  """The index of a shard in a folder of indexes."""
  full = path if _storage.is_remote(path) else os.path.abspath(path)
  digest = hashlib.sha256(full.encode("utf-8", "surrogateescape")).hexdigest()[:12]
  name = f"{os.path.basename(path)}.{digest}{SUFFIX}"
  return str(pathlib.Path(folder) / name)


def cache() -> str:
  """The folder of indexes that nobody asked for."""
  base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return os.path.join(base, "basic", "tar")


class _Window:
  """Reads a shard in larger pieces than are asked for."""

  def __init__(self, path: str, size: int):
    self._path, self._size = path, size
    # Other storage answers late: all is read in turn. Locally, images are
    # skipped.
    self._least = 8 << 20 if _storage.is_remote(path) else 16 << 10
    self._first, self._data = 0, b""

  def __call__(self, start: int, stop: int) -> bytes:
    if start < self._first or stop > self._first + len(self._data):
      last = min(self._size, max(stop, start + self._least))
      self._first = start
      self._data = _storage.read(self._path, start, last)
    return self._data[start - self._first : stop - self._first]


def build(path: str, file: str) -> Shard:
  """Reads the headers of a shard and writes its index.

  Args:
    path: of the shard.
    file: of the index; an older one is replaced when the new one is complete.

  Raises:
    ValueError: if the shard is compressed, or its names make no samples.
    OSError: if the shard cannot be read, or the index cannot be written.
  """
  size = _storage.size(path)
  read = _Window(path, size)
  _refuse_compressed(path, read(0, min(size, 8)))
  lost: Counter[str] = Counter()
  numbers: dict[_tar_samples.Pattern, int] = {}
  rows = []

  def count(reason: str, number: int) -> None:
    lost[reason] += number

  for each in _tar_samples.samples(_tar_format.members(read, size), count):
    number = numbers.setdefault(each.pattern, len(numbers))
    length = min(each.stop - each.start, _tar_samples.LARGEST_SAMPLE)
    rows.append((each.start, each.key, length, number, 0))
    if len(numbers) > _MOST_PATTERNS:
      raise ValueError(
          f"{path} has over {_MOST_PATTERNS} combinations of extensions, the "
          f"last of them {[e for e, _ in each.pattern][:4]}. The key of a member "
          "ends at the first dot of its name: name members KEY.jpg and KEY.txt."
      )
  content = _storage.fingerprint((path,))
  return write(path, file, size, content, numbers, np.array(rows, ROW), lost)


def _refuse_compressed(path: str, start: bytes) -> None:
  for magic, name, program in _COMPRESSED:
    if start.startswith(magic):
      raise ValueError(
          f"{path} is compressed with {name}, where samples cannot be read one "
          f"by one. Unpack it once: {program} FILE. (Images are compressed "
          "already; the shard hardly grows.)"
      )


def write(
    path: str,
    file: str,
    size: int,
    content: str,
    numbers: Mapping[_tar_samples.Pattern, int],
    rows: np.ndarray,
    lost: Mapping[str, int],
) -> Shard:
  """Writes the index of a shard.

  Args:
    path: of the shard.
    file: of the index.
    size: of the shard, in bytes.
    content: `_storage.fingerprint` of the shard.
    numbers: pattern -> its number in `rows`, in ascending order.
    rows: of `ROW`.
    lost: reason -> count.

  Raises:
    OSError: if it cannot be written.
  """
  counts = np.bincount(rows["pattern"], minlength=len(numbers)).tolist()
  data = rows.tobytes()
  said = {
      "format": _FORMAT, "shard": os.path.basename(path), "size": size,
      "content": content, "lost": dict(lost), "crc": zlib.crc32(data),
      "patterns": list(zip(numbers, counts, strict=True)),
  }
  line = json.dumps(said).encode()
  line += b" " * (-(len(line) + 1) % 64) + b"\n"
  try:
    files.replace(file, line + data)
  except OSError as error:
    error.add_note(
        f"The index {file} could not be written: set `index` to a folder that can "
        "be written, or free space there."
    )
    raise
  return _shard(path, file, said, len(line))


def _shard(path: str, file: str, said: Mapping[str, Any], offset: int) -> Shard:
  patterns = tuple(
      (tuple((str(extension), str(why)) for extension, why in pattern), int(count))
      for pattern, count in said["patterns"]
  )
  return Shard(
      path, file, int(said["size"]), str(said["content"]), patterns,
      {str(k): int(v) for k, v in said["lost"].items()}, offset, int(said["crc"]),
  )


def read(path: str, file: str) -> Shard:
  """Reads the index of a shard, without its rows.

  Args:
    path: of the shard.
    file: of the index.

  Raises:
    FileNotFoundError: if there is no index.
    ValueError: if it is damaged, or not of this shard.
  """
  line = _line(file)
  try:
    said = json.loads(line)
    if said["format"] != _FORMAT:
      raise ValueError(f"its format is {said['format']!r}")
    shard = _shard(path, file, said, len(line))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise damaged(file, f"{type(error).__name__}: {error}") from error
  expected = len(line) + shard.samples * ROW.itemsize
  if os.path.getsize(file) != expected:
    raise damaged(file, f"{os.path.getsize(file)} bytes where {expected} belong")
  size = _storage.size(path)
  if size != shard.size:
    raise stale(shard, f"{size} bytes, the index is of one with {shard.size}")
  return shard


def _line(file: str) -> bytes:
  """The line of JSON at the start of an index; b"" if there is none."""
  with open(file, "rb") as opened:
    return opened.readline(_LONGEST_LINE)


def damaged(file: str, found: str) -> ValueError:
  """An error that says what to do with a damaged index."""
  return ValueError(
      f"the index {file} is damaged ({found}); build it again: python -m "
      "basic.prepare index --shards=..."
  )


def stale(shard: Shard, found: str) -> ValueError:
  """An error that says what to do with the index of another file."""
  return ValueError(
      f"the index {shard.file} is not of the shard {shard.path} as it is now: "
      f"{found}. If the shard was written again, build the index again: python "
      "-m basic.prepare index --shards=..."
  )


def check_content(shard: Shard) -> None:
  """Raises ValueError if samples of a shard's content are not those indexed."""
  if _storage.fingerprint((shard.path,)) != shard.content:
    raise stale(shard, "it has other content")


def unusable(shard: Shard, wrong: np.ndarray) -> np.ndarray:
  """The rows of a shard whose patterns are unusable.

  Where no pattern is, nothing is read: a row that leads astray is noticed by the
  key of the sample.

  Args:
    shard: to be read, in pieces of bounded size.
    wrong: bool [patterns], which ones cannot be used.

  Returns:
    Numbers of rows, ascending, uint32.

  Raises:
    ValueError: if the rows are damaged.
  """
  if not wrong.any():
    return np.zeros(0, np.uint32)
  crc, found = 0, []
  for first in range(0, shard.samples, _ROWS):
    rows = read_rows(shard, first, min(first + _ROWS, shard.samples))
    crc = zlib.crc32(rows.tobytes(), crc)
    bad = wrong[np.minimum(rows["pattern"], len(wrong) - 1)]
    found.append((np.flatnonzero(bad) + first).astype(np.uint32))
  if crc != shard.crc:
    raise damaged(shard.file, "its rows have another checksum")
  return np.concatenate(found)


def read_rows(shard: Shard, first: int, stop: int) -> np.ndarray:
  """Rows of a shard, from `first` to before `stop`: an array of `ROW`."""
  begin, end = (shard.offset + ROW.itemsize * n for n in (first, stop))
  data = _storage.read(shard.file, begin, end)
  if len(data) != end - begin:
    raise damaged(shard.file, "it has become shorter")
  return np.frombuffer(data, ROW)

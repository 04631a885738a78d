"""What changes whenever a file of a data set changes, without reading the files."""

import hashlib
import itertools
import os
import threading
from collections.abc import Iterable
from concurrent import futures
from typing import Any

import fsspec

from basic import types
from basic.sources import _image_files, _storage

_TOGETHER = 1024  # files that a thread looks at
_PARTS = 64
# What storage says of a file's version, under the names of its systems.
_FACTS = (
    "size", "mtime", "etag", "ETag", "LastModified", "last_modified", "updated",
    "generation", "created", "blob_id",
)


def state(paths: Iterable[str]) -> str:
  """Hashes names, sizes and times of all files of a data set.

  Args:
    paths: of local files, or URLs of fsspec, whose folders are listed: of them
      counts what the storage says, a size and a time or an ETag. A file that is
      not there counts as such.

  Returns:
    16 hexadecimal digits.

  Raises:
    OSError: if remote storage cannot be listed.
  """
  digest, listed, rest = hashlib.sha256(), _Listed(), iter(paths)
  with futures.ThreadPoolExecutor(16) as pool:  # Network storage has latency.
    while part := list(itertools.islice(rest, _TOGETHER * _PARTS)):
      chunks = [part[n:n + _TOGETHER] for n in range(0, len(part), _TOGETHER)]
      for content in pool.map(lambda chunk: _said(chunk, listed), chunks):
        digest.update(content)
  return digest.hexdigest()[:16]


def _said(paths: list[str], listed: "_Listed") -> bytes:
  lines = (
      f"{path}\0{listed.of(path) if _storage.is_remote(path) else _local(path)}\0"
      for path in paths
  )
  return "".join(lines).encode("utf-8", "surrogatepass")


def _local(path: str) -> str:
  """Size and time of a local file, also where its name is spelled otherwise."""
  try:
    try:
      found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
      found = os.stat(_image_files.check(path))
  except (OSError, ValueError, types.Unreadable):
    return "missing"
  return f"{found.st_size} {found.st_mtime_ns}"


class _Listed:
  """Files of remote folders, each of which is listed once."""

  def __init__(self):
    self._folders: dict[str, dict[str, str]] = {}
    self._lock = threading.Lock()

  def of(self, path: str) -> str:
    """What the storage says of a file."""
    folder, _, name = path.rpartition("/")
    with self._lock:
      if folder not in self._folders:
        self._folders[folder] = _folder(folder)
      return self._folders[folder].get(name, "missing")


def _folder(folder: str) -> dict[str, str]:
  """What the storage says of each file of a folder, by name."""
  system, base = fsspec.core.url_to_fs(folder)
  system.invalidate_cache(base)  # Listings of some are kept for long.
  try:
    found = _storage.retry(lambda: system.ls(base, detail=True), folder)
  except (FileNotFoundError, NotADirectoryError):
    return {}
  return {each["name"].rpartition("/")[2]: _version(each) for each in found}


def _version(facts: dict[str, Any]) -> str:
  return repr([(name, str(facts[name])) for name in _FACTS if name in facts])

"""Pictures in a folder and those below it, and the text files beside them."""

import collections
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow

from basic import types
from basic.sources import _columns, _storage

# Extensions of the formats that data/decoding reads.
PICTURES = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
)
_NONE, _TXT, _JSON = 0, 1, 2  # what is beside a picture
_HIDDEN = (".", "__MACOSX")  # Copies by macOS have the names of pictures.
_log = logging.getLogger(__name__)


class Tree:
  """The pictures of a folder, sorted by folder and then by name.

  Attributes:
    others: number of files that are no pictures, by extension.
    lonely: number of text files without a picture of their name.
  """

  def __init__(self, root: str):
    """Lists the folder.

    Raises:
      OSError: if it cannot be listed.
    """
    self.root = root.rstrip("/")
    self.others: collections.Counter[str] = collections.Counter()
    self.lonely = 0
    names, beside = [], []
    for folder, files in _walk(root):
      found, companions = self._split(files)
      names.append(pyarrow.array(
          [os.fsencode(os.path.join(folder, name)) for name in found],
          pyarrow.large_binary(),
      ))
      beside.append(np.array(companions, np.int8))
    self._names = pyarrow.concat_arrays(names) if names else pyarrow.array(
        [], pyarrow.large_binary()
    )
    self._beside = np.concatenate(beside) if beside else np.zeros(0, np.int8)

  def __len__(self) -> int:
    return len(self._names)

  @property
  def with_text(self) -> int:
    """Number of pictures with a text file of their name."""
    return int(np.count_nonzero(self._beside))

  def name(self, index: int) -> str:
    """The path of a picture below the root."""
    return os.fsdecode(self._names[index].as_py())

  def path(self, index: int) -> str:
    """The whole path of a picture."""
    return f"{self.root}/{self.name(index)}"

  def fields(self, index: int) -> dict[str, Any]:
    """The captions beside a picture, as fields of an example.

    Raises:
      types.Unreadable: if there is none.
      OSError: if the file cannot be read.
    """
    stem = os.path.splitext(self.path(index))[0]
    if self._beside[index] == _TXT:
      return _columns.texts([_without_bom(_storage.read(f"{stem}.txt"))], None)
    if self._beside[index] == _JSON:
      return _columns.texts([_in_json(_storage.read(f"{stem}.json"))], None)
    raise types.Unreadable("no caption", f"nothing is beside {self.path(index)}")

  def classes(self) -> tuple[tuple[str, ...], np.ndarray]:
    """(names of the first folders, sorted; class of each picture, int32).

    The class of a picture outside of these folders is -1.
    """
    seen: dict[bytes, int] = {}
    classes = np.empty(len(self), np.int32)
    for start, names in self._parts():
      for index, name in enumerate(names, start):
        folder, slash, _ = name.partition(b"/")
        classes[index] = seen.setdefault(folder if slash else b"", len(seen))
    ordered = sorted(seen.keys() - {b""})
    numbers = {name: number for number, name in enumerate(ordered)} | {b"": -1}
    new = np.array([numbers[name] for name in seen], np.int32)
    return tuple(map(os.fsdecode, ordered)), new[classes]

  def keep(self, chosen: np.ndarray) -> None:
    """Keeps some of the pictures; `chosen` is a bool for each."""
    self._names = self._names.filter(pyarrow.array(chosen))
    self._beside = self._beside[chosen]

  def digest(self) -> str:
    """Hashes all names, and what is beside each picture."""
    digest = hashlib.sha256(self._beside.tobytes())
    for _, names in self._parts():
      digest.update(b"\0".join([*names, b""]))
    return digest.hexdigest()

  def files(self, *, with_text: bool) -> Iterator[str]:
    """The whole paths of all pictures and, if asked, of the captions beside them."""
    for start, names in self._parts():
      for index, name in enumerate(names, start):
        path = f"{self.root}/{os.fsdecode(name)}"
        yield path
        if with_text and self._beside[index]:
          end = ".txt" if self._beside[index] == _TXT else ".json"
          yield os.path.splitext(path)[0] + end

  def _parts(self) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first, names), for all names in parts."""
    for start in range(0, len(self), 1 << 16):
      yield start, self._names.slice(start, 1 << 16).to_pylist()

  def _split(self, files: Iterable[str]) -> tuple[list[str], list[int]]:
    """(names of pictures, what is beside each) of one folder."""
    stems: dict[str, int] = {}
    pictures, texts = [], set()
    for name in sorted(files):
      stem, end = os.path.splitext(name)
      if end.lower() in PICTURES:
        pictures.append(name)
        continue
      self.others[end.lower()] += 1
      if end == ".txt":
        texts.add(stem)
        stems[stem] = _TXT
      elif end == ".json":
        stems.setdefault(stem, _JSON)
    found = [stems.get(os.path.splitext(name)[0], _NONE) for name in pictures]
    self.lonely += len(texts - {os.path.splitext(name)[0] for name in pictures})
    return pictures, found


def names(folder: str) -> list[str]:
  """Names of the files and folders directly in a folder, but for hidden ones."""
  if _storage.is_remote(folder):
    system, base = fsspec.core.url_to_fs(folder)
    found = _storage.retry(lambda: system.ls(base, detail=False), folder)
    listed = [path.rstrip("/").rpartition("/")[2] for path in found]
  else:
    listed = os.listdir(folder)
  return [name for name in listed if not name.startswith(_HIDDEN)]


def _walk(root: str) -> Iterator[tuple[str, list[str]]]:
  """(folder below the root, names of its files), sorted by folder."""
  if _storage.is_remote(root):
    yield from sorted(_remote(root).items())
    return
  folders = [("", frozenset({os.path.realpath(root)}))]
  found: dict[str, list[str]] = {}
  while folders:
    folder, above = folders.pop()
    files = found.setdefault(folder, [])
    with os.scandir(os.path.join(root, folder)) as entries:
      for entry in entries:
        below = f"{folder}/{entry.name}" if folder else entry.name
        if entry.name.startswith(_HIDDEN):
          continue
        if not entry.is_dir():
          files.append(entry.name)
          continue
        real = os.path.realpath(entry.path)
        if real in above:
          _log.warning("%s links to a folder that it is in; left out", entry.path)
          continue
        folders.append((below, above | {real}))
  for folder in sorted(found):
    yield folder, found.pop(folder)


def _remote(root: str) -> dict[str, list[str]]:
  """The names of files by folder, of storage that fsspec reads."""
  system, base = fsspec.core.url_to_fs(root)
  found: dict[str, list[str]] = {}
  for path in _storage.retry(lambda: system.find(base), root):
    folder, _, name = path[len(base) :].strip("/").rpartition("/")
    if not any(part.startswith(_HIDDEN) for part in (*folder.split("/"), name)):
      found.setdefault(folder, []).append(name)
  return found


def _without_bom(data: bytes) -> bytes:
  return data.removeprefix(b"\xef\xbb\xbf")


def _in_json(data: bytes) -> Any:
  """The captions in the JSON file of a picture."""
  try:
    found = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise types.Unreadable("broken caption file", str(error)) from error
  if not isinstance(found, dict):
    raise types.Unreadable("broken caption file", "expected an object")
  return next((found[key] for key in _columns.TEXTS if key in found), None)

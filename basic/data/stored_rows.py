"""Arrays on disk that are written row by row, by a pass that may be interrupted.

While it is written, the folder has another name; what was kept last is where the
next process goes on. A folder of the final name is complete.
"""

import json
import os
import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import Any

import numpy as np

from basic import files

ABOUT = "about.json"
_PROGRESS = "progress.json"


class Writer:
  """Writes the rows of named arrays in order.

  Args:
    folder: of the final name; it does not exist yet.
    count: rows of each array when it is complete.

  Attributes:
    done: rows that are kept, from where the caller goes on.
    notes: what was kept with them; {} at the beginning.
  """

  def __init__(self, folder: str | os.PathLike, count: int):
    self._final, self._count = pathlib.Path(folder), count
    self._folder = self._final.with_name(f"{self._final.name}.unfinished")
    self._arrays: dict[str, np.memmap] = {}
    self.done, self.notes = _progress(self._folder)
    self._next = self.done

  def append(self, rows: Mapping[str, np.ndarray]) -> None:
    """Writes further rows; the same arrays each time.

    Args:
      rows: by name [b ...]; those beyond the last row are left out.

    Raises:
      ValueError: if the arrays differ from the kept ones in shape or dtype.
      OSError: if they cannot be written.
    """
    end = self._next
    for name, array in rows.items():
      part = array[: self._count - self._next]
      self._open(name, array)[self._next : self._next + len(part)] = part
      end = self._next + len(part)
    self._next = end

  def keep(self, notes: Mapping[str, Any]) -> None:
    """Makes all rows so far, and JSON data beside them, survive a kill."""
    for array in self._arrays.values():
      array.flush()
    self.done, self.notes = self._next, dict(notes)
    content = json.dumps({"done": self.done, "notes": self.notes})
    files.replace(self._folder / _PROGRESS, content.encode())

  def finish(self, about: Mapping[str, Any]) -> None:
    """Gives the folder its name, with JSON data that say what it holds.

    Raises:
      ValueError: if rows are missing.
    """
    if self._next < self._count:
      raise ValueError(f"{self._next} of {self._count} rows were written")
    self.keep(self.notes)
    self._arrays.clear()
    files.replace(self._folder / ABOUT, json.dumps(about, indent=2).encode())
    (self._folder / _PROGRESS).unlink()
    os.replace(self._folder, self._final)

  def _open(self, name: str, like: np.ndarray) -> np.memmap:
    """The array of a name on disk, made when it is first written."""
    if name not in self._arrays:
      path = _file(self._folder, name)
      shape = (self._count, *like.shape[1:])
      if self.done:
        array = np.lib.format.open_memmap(path, "r+")
      else:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(path, "w+", like.dtype, shape)
      self._arrays[name] = array
      if (array.shape, array.dtype) != (shape, like.dtype):
        raise ValueError(
            f"{path} holds {array.dtype}{list(array.shape)}, and the rows to add "
            f"make {like.dtype}{list(shape)}; remove {self._folder}."
        )
    return self._arrays[name]


def read(folder: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The arrays of a complete folder, memory-mapped and read-only.

  Args:
    folder: that a `Writer` finished.

  Returns:
    (arrays by name, what was said about them).

  Raises:
    FileNotFoundError: if the folder is not there, or not complete.
  """
  folder = pathlib.Path(folder)
  about = json.loads((folder / ABOUT).read_text())
  arrays = {
      urllib.parse.unquote(path.stem): np.load(path, mmap_mode="r")
      for path in sorted(folder.glob("*.npy"))
  }
  return arrays, about


def _file(folder: pathlib.Path, name: str) -> pathlib.Path:
  return folder / f"{urllib.parse.quote(name, safe='')}.npy"


def _progress(folder: pathlib.Path) -> tuple[int, dict[str, Any]]:
  """(rows that were kept, notes beside them)."""
  if not (folder / _PROGRESS).exists():
    return 0, {}
  content = json.loads((folder / _PROGRESS).read_text())
  return content["done"], content["notes"]

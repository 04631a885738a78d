"""Pictures in folders: with text files beside them, in a folder a class, or alone."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from basic import types
from basic.sources import _columns, _folder_rows, _storage, _table, _tree


def _beside(folder: str) -> str:
  """A sentence about tables that lie beside a folder, not in it."""
  if _storage.is_remote(folder):
    return ""
  above = os.path.dirname(os.path.abspath(folder))
  ends = tuple(end for end in _table.KINDS if end != ".txt")
  tables = [
      os.path.join(os.path.dirname(folder), name)
      for name in sorted(_tree.names(above)) if name.lower().endswith(ends)
  ]
  if not tables:
    return ""
  return f" Beside it is {tables[0]}: if that is its table, set table={tables[0]!r}."


class _TreeRows:
  """What all of them say of the pictures in `_tree`."""

  _tree: _tree.Tree

  def __len__(self) -> int:
    return len(self._tree)

  def place(self, index: int) -> str:
    return self._tree.path(index)

  def seen(self) -> str:
    return f"{len(self)} pictures with names of the digest {self.digest()[:16]}"

  def digest(self) -> str:
    return self._tree.digest()

  def files(self) -> Iterator[str]:
    return self._tree.files(with_text=False)


class TextRows(_TreeRows):
  """Pictures with a text file of the same name beside each. See `Rows`."""

  def __init__(self, settings: _folder_rows.Settings, tree: _tree.Tree):
    self._tree = tree
    self.settings = settings
    self.where = self.base = tree.root
    self.classes: tuple[str, ...] = ()
    self.meaning = ("text",)
    self.left_out = tree.lonely
    self.found = (
        f"pictures with a text file of the same name, {len(tree) - tree.with_text} "
        f"without, {tree.lonely} text files without a picture"
    )

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    try:
      return self._tree.path(index), self._tree.fields(index)
    except OSError as error:
      raise types.Unreadable("failed read", str(error)) from error

  def files(self) -> Iterator[str]:
    return self._tree.files(with_text=True)


class ClassRows(_TreeRows):
  """Pictures in a folder for each class. See `Rows`."""

  def __init__(self, settings: _folder_rows.Settings, tree: _tree.Tree):
    names, labels = tree.classes()
    outside = int(np.count_nonzero(labels < 0))
    if not names:
      raise ValueError(
          f"{tree.root} has {len(tree)} pictures, and neither captions nor "
          f"classes for them.{_beside(tree.root)} Put a table into it, or set "
          "`table` to the path of one, with a column of files (filepath, "
          "file_name, ...) and one of captions (title, caption, text, ...); or "
          "put a text file of the same name beside each picture, or the pictures "
          "into a folder for each class. To embed or search pictures alone, set "
          "`layout` to 'pictures'."
      )
    tree.keep(labels >= 0)
    self._tree, self._labels = tree, labels[labels >= 0]
    self.settings = settings
    self.where = self.base = tree.root
    self.classes = _columns.Labels(self.where, names).names
    self.meaning = ("classes", names)
    self.left_out = outside
    self.found = (
        f"pictures in {len(names)} folders, which are classes, whose names are the "
        f"captions; {outside} pictures outside of them are left out"
    )

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    label = self._labels[index]
    return self._tree.path(index), {
        "label": np.int32(label), "text": (self.classes[label],)
    }


class PictureRows(_TreeRows):
  """Pictures at any depth, without captions and labels. See `Rows`."""

  def __init__(self, settings: _folder_rows.Settings, tree: _tree.Tree):
    self._tree = tree
    self.settings = settings
    self.where = self.base = tree.root
    self.classes: tuple[str, ...] = ()
    self.meaning = ("pictures",)
    self.left_out = 0
    self.found = "pictures alone"

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    return self._tree.path(index), {}

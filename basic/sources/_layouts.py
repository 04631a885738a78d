"""How pictures, captions and labels lie in a folder: a table, text files, classes."""

import dataclasses
import os
from typing import Any, Protocol, runtime_checkable

import numpy as np

from basic import types
from basic.sources import _columns, _storage, _table, _tree

_METADATA = ("metadata.csv", "metadata.jsonl")  # of Hugging Face's imagefolder
_TRIED = 32  # rows, to find where relative paths start
_OTHER_SOURCES = {".tar": "tar", ".parquet": "parquet", ".tfrecord": "tfrecord"}


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of the source folder; after opening, with what was decided."""

  path: str
  table: str | None = None
  layout: str | None = None
  image: str | None = None
  text: str | tuple[str, ...] | None = None
  weights: tuple[float, ...] | None = None
  label: str | None = None
  classes: tuple[str, ...] | None = None
  columns: tuple[str, ...] | None = None
  separator: str | None = None
  base: str | None = None


@runtime_checkable
class Rows(Protocol):
  """Paths of pictures and the other fields of examples, by number.

  Attributes:
    where: the folder or the table, for messages.
    found: what was found there, for messages.
    left_out: number of files that should belong to an example and do not.
    base: where relative paths of pictures start.
    classes: names of the labels.
    settings: that open the same again.
    meaning: what of the settings changes examples, without paths.
  """

  where: str
  found: str
  left_out: int
  base: str
  classes: tuple[str, ...]
  settings: Settings
  meaning: tuple[Any, ...]

  def __len__(self) -> int: ...

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    """(path of the picture, captions and label); may raise `Unreadable`."""
    ...

  def seen(self) -> str:
    """What tells that the files have changed, in words."""
    ...

  def digest(self) -> str:
    """Hashes what the table, or the names of the files, say."""
    ...


def opened(settings: Settings) -> Rows:
  """Opens a folder: the first layout that applies, or the one that is set.

  Raises:
    FileNotFoundError: if the folder or table does not exist.
    ValueError: if no layout applies, or settings do not fit it.
  """
  _storage.checked("path", settings.path)
  if settings.table is not None:
    _storage.checked("table", settings.table)
  if not _storage.exists(settings.path):
    raise FileNotFoundError(
        f"{settings.path} does not exist; `path` takes the folder of the pictures."
    )
  table = _find_table(settings)
  if table is not None:
    return TableRows(dataclasses.replace(settings, table=table, layout="table"))
  if settings.layout == "table":
    raise ValueError(
        f"{settings.path} has no table directly in it; set `table` to its path."
    )
  _refuse_columns(settings)
  tree = _tree.Tree(settings.path)
  if not len(tree):
    raise ValueError(f"{settings.path} has no pictures{_advice(tree)}")
  layout = settings.layout or ("text" if tree.with_text else "classes")
  settings = dataclasses.replace(settings, layout=layout)
  rows = {"text": TextRows, "classes": ClassRows, "pictures": PictureRows}
  return rows[layout](settings, tree)


def _find_table(settings: Settings) -> str | None:
  """The path of the table that is set or found."""
  path, table = settings.path, settings.table
  if settings.layout in ("text", "classes", "pictures"):
    return None
  if table is not None:
    inside = table if os.path.isabs(table) else f"{path.rstrip('/')}/{table}"
    for choice in (inside, table):
      if _storage.is_folder(choice):
        raise ValueError(
            f"table is {table!r}, which is a folder; it takes the file with the "
            "captions, or leave it out if that is found by its name."
        )
      if _storage.exists(choice):
        return choice
    raise FileNotFoundError(f"there is no table {table}, nor {inside}.")
  if _is_file(path):
    return path
  names = sorted(_tree.names(path))
  tables = [name for name in _METADATA if name in names] or [
      name for name in names
      if name.lower().endswith(_table.KINDS) and not name.lower().endswith(".txt")
  ]
  if len(tables) > 1 and tables[0] not in _METADATA:
    raise ValueError(f"{path} has the tables {tables}; set `table` to one.")
  return f"{path.rstrip('/')}/{tables[0]}" if tables else None


def _is_file(path: str) -> bool:
  """Whether a path names a file, which must then be a table."""
  end = os.path.splitext(path)[1].lower()
  if not (end in _table.KINDS if _storage.is_remote(path) else os.path.isfile(path)):
    return False
  if end in _table.KINDS:
    return True
  other = _OTHER_SOURCES.get(end)
  raise ValueError(
      f"{path} is no table; expected {', '.join(_table.KINDS)}, or a folder."
      + (f" The source {other!r} reads it." if other else "")
  )


def _refuse_columns(settings: Settings) -> None:
  """Refuses settings of tables where there is none."""
  names = ("image", "text", "weights", "label", "classes", "columns", "separator")
  given = [name for name in names if getattr(settings, name) is not None]
  if given:
    raise ValueError(
        f"{given} are settings of tables, and {settings.path} is read without "
        "one; set `table`, or leave them out."
    )


def _advice(tree: _tree.Tree) -> str:
  """What a folder without pictures has instead, and what reads that."""
  has = ", ".join(f"{n} {end or 'other'}" for end, n in tree.others.most_common(5))
  other = next(
      (name for end, name in _OTHER_SOURCES.items() if tree.others[end]), None
  )
  advice = f" The source {other!r} reads those." if other else ""
  return f"; it has {has or 'no files'}.{advice}"


class TableRows:
  """Pictures, captions and labels that a table lists. See `Rows`."""

  def __init__(self, settings: Settings):
    self.where = settings.table or ""
    self.left_out = 0
    self._table = _table.Table(
        self.where, settings.separator, settings.columns
    )
    self._columns = self._choose(settings)
    self.base = settings.base or self._find_base(settings.path)
    names = settings.classes
    if names is None and self._columns.label is not None:
      names = self._names(self._columns.label)
    self._labels = _columns.Labels(self.where, names or ())
    self.classes = self._labels.names
    self._labels.check_captions(self._columns.text, "columns", list(self._table.names))
    self.settings = dataclasses.replace(
        settings, separator=self._table.separator or None, base=self.base,
        classes=tuple(names or ()), layout="table",
    )
    self.meaning = (self._columns, self._table.separator, names)
    self.found = (
        f"a table with the files in {self._columns.image!r}, captions in "
        f"{list(self._columns.text)} and labels in {self._columns.label!r}"
    )

  def __len__(self) -> int:
    return len(self._table)

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    row = self._table.row(index)
    fields: dict[str, Any] = {}
    if self._columns.label is not None:
      fields["label"] = self._labels.number(row.get(self._columns.label))
    if self._columns.text:
      values = [row.get(name) for name in self._columns.text]
      fields |= _columns.texts(values, self._columns.weights)
    else:
      fields["text"] = (self.classes[fields["label"]],)
    return self._path(row), fields

  def seen(self) -> str:
    return f"{self._table.size} bytes with {len(self)} rows"

  def digest(self) -> str:
    return self._table.digest()

  def _choose(self, settings: Settings) -> _columns.Columns:
    names = self._table.names
    if settings.columns is None and any(
        name.lower().endswith(_tree.PICTURES) for name in names
    ):
      raise ValueError(
          f"{self.where} has no header: its first row is {list(names)}. Set "
          "`columns` to the names of its columns, such as ('filepath', 'title')."
      )
    return _columns.choose(
        self.where, names, usual=_columns.FILES, image=settings.image,
        text=settings.text, weights=settings.weights, label=settings.label,
    )

  def _path(self, row, base: str | None = None) -> str:
    """The path of the picture of a row."""
    path = row.get(self._columns.image)
    if not isinstance(path, str) or not path.strip():
      raise types.Unreadable("no image", f"the path is {path!r}")
    path = path.strip()
    if path.startswith(("http://", "https://")):
      raise types.Unreadable(
          "web address", f"{path:.200}; img2dataset downloads such lists"
      )
    if _storage.is_remote(path) or os.path.isabs(path):
      return path
    return f"{self.base if base is None else base}/{path}"

  def _find_base(self, path: str) -> str:
    """The folder below which the pictures of the first rows are found."""
    own = os.path.dirname(self.where) or "."
    if _is_file(path) or own == path.rstrip("/"):
      return own
    return max((own, path.rstrip("/")), key=self._found_below)

  def _found_below(self, base: str) -> int:
    return sum(
        _storage.exists(path) for path in self._paths(base, _TRIED)
    )

  def _paths(self, base: str, most: int) -> list[str]:
    paths = []
    for number in range(min(len(self), most)):
      try:
        paths.append(self._path(self._table.row(number), base))
      except types.Unreadable:
        continue  # Counted where it is read.
    return paths

  def _names(self, column: str) -> tuple[str, ...]:
    """The names that a column of labels holds, sorted; () for numbers."""
    seen: set[str] = set()
    for number in range(len(self)):
      try:
        value = self._table.row(number).get(column)
      except types.Unreadable:
        continue  # Counted where it is read.
      if isinstance(value, str) and value.strip():
        seen.add(value.strip())
    numbers = all(map(_columns.is_number, seen))
    return () if numbers else tuple(sorted(seen))


class TextRows:
  """Pictures with a text file of the same name beside each. See `Rows`."""

  def __init__(self, settings: Settings, tree: _tree.Tree):
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

  def __len__(self) -> int:
    return len(self._tree)

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    try:
      return self._tree.path(index), self._tree.fields(index)
    except OSError as error:
      raise types.Unreadable("failed read", str(error)) from error

  def seen(self) -> str:
    return f"{len(self)} pictures with names of the digest {self.digest()[:16]}"

  def digest(self) -> str:
    return self._tree.digest()


class ClassRows:
  """Pictures in a folder for each class. See `Rows`."""

  def __init__(self, settings: Settings, tree: _tree.Tree):
    names, labels = tree.classes()
    outside = int(np.count_nonzero(labels < 0))
    if not names:
      raise ValueError(
          f"{tree.root} has {len(tree)} pictures, and neither captions nor "
          "classes for them. Add a table with the columns file_name and caption, "
          "a text file of the same name beside each picture, or a folder for "
          "each class. To embed or search pictures alone, set `layout` to "
          "'pictures'."
      )
    tree.keep(labels >= 0)
    self._tree, self._labels = tree, labels[labels >= 0]
    self.settings = settings
    self.where = self.base = tree.root
    self.classes = _columns.Labels(self.where, names).names
    self.meaning = ("classes", names)
    self.left_out = outside
    self.found = (
        f"pictures in {len(names)} folders, which are classes; {outside} pictures "
        "outside of them are left out"
    )

  def __len__(self) -> int:
    return len(self._tree)

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    label = self._labels[index]
    return self._tree.path(index), {
        "label": np.int32(label), "text": (self.classes[label],)
    }

  def seen(self) -> str:
    return f"{len(self)} pictures with names of the digest {self.digest()[:16]}"

  def digest(self) -> str:
    return self._tree.digest()


class PictureRows:
  """Pictures at any depth, without captions and labels. See `Rows`."""

  def __init__(self, settings: Settings, tree: _tree.Tree):
    self._tree = tree
    self.settings = settings
    self.where = self.base = tree.root
    self.classes: tuple[str, ...] = ()
    self.meaning = ("pictures",)
    self.left_out = 0
    self.found = "pictures alone"

  def __len__(self) -> int:
    return len(self._tree)

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    return self._tree.path(index), {}

  def seen(self) -> str:
    return f"{len(self)} pictures with names of the digest {self.digest()[:16]}"

  def digest(self) -> str:
    return self._tree.digest()

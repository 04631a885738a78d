"""How pictures, captions and labels lie in a folder: a table, text files, classes."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from basic import types
from basic.sources import (
    _columns,
    _folder_rows,
    _image_files,
    _karpathy,
    _picture_trees,
    _storage,
    _table,
    _tree,
)

_METADATA = ("metadata.csv", "metadata.jsonl")  # of Hugging Face's imagefolder
_TRIED = 32  # rows, to find where relative paths start
_OTHER_SOURCES = {".tar": "tar", ".parquet": "parquet", ".tfrecord": "tfrecord"}


def opened(settings: _folder_rows.Settings) -> _folder_rows.Rows:
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
  if table is not None and table.lower().endswith(".json"):
    _refuse_columns(settings)
    return _karpathy.KarpathyRows(settings, table)
  if settings.split is not None or settings.layout == "karpathy":
    raise ValueError(
        f"split is {settings.split!r} and layout {settings.layout!r}, but table "
        f"is {settings.table!r}; set `table` to the JSON of Karpathy's splits, "
        "such as dataset_coco.json."
    )
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
  rows = {
      "text": _picture_trees.TextRows, "classes": _picture_trees.ClassRows,
      "pictures": _picture_trees.PictureRows,
  }
  return rows[layout](settings, tree)


def _find_table(settings: _folder_rows.Settings) -> str | None:
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


def _refuse_columns(settings: _folder_rows.Settings) -> None:
  """Refuses settings of tables where there is none."""
  names = ("image", "text", "weights", "label", "classes", "columns", "separator",
           "language")
  given = [name for name in names if getattr(settings, name) is not None]
  if given:
    raise ValueError(
        f"{given} are settings of tables with columns, and {settings.path} is "
        "read without one; set `table` to a CSV, TSV or JSONL, or leave them out."
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
  """Pictures, captions and labels that a table lists. See `_folder_rows.Rows`."""

  def __init__(self, settings: _folder_rows.Settings):
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
    self.meaning = (*self._columns.hashed, self._table.separator, names)
    self.found = f"a table with paths of {self._columns.said}"

  def __len__(self) -> int:
    return len(self._table)

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    row = self._table.row(index)
    fields: dict[str, Any] = {}
    if self._columns.label is not None:
      fields["label"] = self._labels.number(row.get(self._columns.label))
    if self._columns.text:
      fields |= self._columns.fields(row)
    else:
      fields["text"] = (self.classes[fields["label"]],)
    return self._path(row), fields

  def place(self, index: int) -> str:
    row = f"row {index + 1} of {self.where}"
    try:
      return f"{self._path(self._table.row(index))}, {row}"
    except types.Unreadable:
      return row

  def seen(self) -> str:
    return f"{self._table.size} bytes with {len(self)} rows"

  def digest(self) -> str:
    return self._table.digest()

  def files(self) -> Iterator[str]:
    yield self.where
    for number in range(len(self)):
      try:
        yield self._path(self._table.row(number))
      except types.Unreadable:
        continue  # It names no file.

  def _choose(self, settings: _folder_rows.Settings) -> _columns.Columns:
    names = self._table.names
    if settings.columns is None and any(
        name.lower().endswith(_tree.PICTURES) for name in names
    ):
      raise ValueError(
          f"{self.where} has no header: its first row is {list(names)}. Set "
          "`columns` to the names of its columns, such as ('filepath', 'title')."
      )
    self._refuse_separator(names)
    return _columns.choose(
        self.where, names, usual=_columns.FILES, image=settings.image,
        text=settings.text, weights=settings.weights, label=settings.label,
        language=settings.language,
    )

  def _refuse_separator(self, names: Sequence[str]) -> None:
    """Refuses a header that is one column for want of another separator."""
    other = next(
        (each for each in _table.SNIFFED if len(names) == 1 and each in names[0]), None
    )
    if other is not None:
      raise ValueError(
          f"{self.where} has one column, {names[0]!r}: its fields are separated by "
          f"{other!r}, not by {self._table.separator!r}. Set separator={other!r}, "
          "or rename the file to end in .csv, whose separator is found."
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
    alone = _is_file(path) or own == path.rstrip("/")
    bases = (own,) if alone else (own, path.rstrip("/"))
    best = max(bases, key=self._found_below)
    # Tables of open_clip have paths from the folder where training starts.
    here = not _storage.is_remote(own) and not self._found_below(best)
    return "." if here and self._found_below(".") else best

  def _found_below(self, base: str) -> int:
    count = 0
    for number in range(min(len(self), _TRIED)):
      try:
        _image_files.check(self._path(self._table.row(number), base))
        count += 1
      except types.Unreadable:
        continue  # Counted where it is read.
    return count

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

"""Pictures in a folder: with a table of captions, with text files, or by class."""

import collections
import logging
from collections.abc import Mapping
from concurrent import futures
from typing import Any, Literal, SupportsIndex

import numpy as np

from basic import types
from basic.sources import _image_files, _layouts, _records, _stable, _storage

_LOOKED_AT = 1_000  # examples, when opening
_log = logging.getLogger(__name__)


def folder(
    *,
    path: str,
    table: str | None = None,
    layout: Literal["table", "text", "classes", "pictures"] | None = None,
    image: str | None = None,
    text: str | tuple[str, ...] | None = None,
    weights: tuple[float, ...] | None = None,
    label: str | None = None,
    classes: tuple[str, ...] | None = None,
    columns: tuple[str, ...] | None = None,
    separator: str | None = None,
    channels: int = 3,
    max_pixels: int = 40_000_000,
) -> types.Source:
  """Reads picture files, and their captions or labels from where they are found.

  What is there is decided once, when opening; the first of these that applies,
  and a log line says which:

  - "table": `table`; `path`, if it is a file; `metadata.csv` or
    `metadata.jsonl` (Hugging Face's imagefolder); or the only CSV, TSV or JSONL
    file directly in `path`. Each row is an example, also where rows name the
    same file. Paths of pictures may be absolute, and may lead out of the folder
    (".."); relative ones start at the folder of the table, or at `path`,
    wherever the first pictures are.
  - "text": pictures with a `.txt` of the same name beside them, which is one
    caption, or a `.json` with "caption": img2dataset's `files`. Folders at any
    depth.
  - "classes": each folder in `path` is a class, as for torchvision's
    ImageFolder: classes sorted by name, then pictures by path.
  - "pictures", only where it is set: pictures at any depth, without captions and
    labels, to be embedded and searched.

  Args:
    path: the folder, or a table; a local path, or a URL of fsspec.
    table: the file with the captions, from `path` or from the working folder.
    layout: one of the four; None: the first that applies.
    image: column with the files. None: "filepath", "file_name", "image", ...
    text: columns with captions, each with one or, in JSONL, several. None:
      "title", "caption", "text", ... The names of the labels are the captions
      where there is no such column, or it is "".
    weights: one for each column of `text`, in proportion to which training
      draws its captions; None: all captions are equally probable.
    label: column with classes, by name or by number. None: "label", "class",
      ..., if there is one; "": none.
    classes: their names in order. None: the names that the column holds,
      sorted, unless it holds numbers.
    columns: names of the columns of a table that has no header.
    separator: of the fields; None: tab for `.tsv`, otherwise the one of tab,
      comma, semicolon and "|" that the header has most of (open_clip's tables
      have tabs).
    channels: 3 for RGB, 1 for luminance.
    max_pixels: an image with more is unreadable.

  Returns:
    A source of "image" (a `decoding.Encoded`; the content of a file counts, not
    its extension), "text" (a tuple of captions), "text_weights" if `weights` is
    given, "label" int32 if there are labels, and "id" int64, the index. Of a
    table only offsets are in memory, 8 bytes a row. `name(index)` is the path of a
    picture. Reading raises
    `types.Unreadable` for a missing or broken file, a broken row or caption
    file, a row with more or fewer fields, one that is not UTF-8, one without a
    caption, and an unknown label.

  Raises:
    FileNotFoundError: if the folder or table does not exist, or no picture does.
    ValueError: if nothing of the above is found, a column does not exist, or
      none of the examples looked at can be read.
  """
  _records.check_image(channels, max_pixels)
  rows = _layouts.opened(_layouts.Settings(
      path=path, table=table, layout=layout, image=image, text=text,
      weights=weights, label=label, classes=classes, columns=columns,
      separator=separator,
  ))
  source = _Folder(rows, channels, max_pixels)
  source.look()
  return source


class _Folder:
  """An open folder; unpickling opens it again, as it was decided to be."""

  def __init__(self, rows: _layouts.Rows, channels: int, max_pixels: int):
    self._rows = rows
    self._channels = channels
    self._max_pixels = max_pixels
    self._fingerprint: str | None = None
    self.classes = rows.classes

  def __getstate__(self) -> Mapping[str, Any]:
    return {
        "settings": self._rows.settings, "seen": self._rows.seen(),
        "channels": self._channels, "max_pixels": self._max_pixels,
        "fingerprint": self._fingerprint,
    }

  def __setstate__(self, state: Mapping[str, Any]) -> None:
    rows = _layouts.opened(state["settings"])
    self.__init__(rows, state["channels"], state["max_pixels"])
    self._fingerprint = state["fingerprint"]
    if rows.seen() != state["seen"]:
      raise ValueError(
          f"{rows.where} has changed since it was opened: {state['seen']}, now "
          f"{rows.seen()}. Start again, and leave it as it is while it is read."
      )

  @property
  def fingerprint(self) -> str:
    if self._fingerprint is None:
      paths = (self._path(i) for i in _spread(len(self), 64))
      there = sorted({path for path in paths if path and _storage.exists(path)})
      self._fingerprint = _stable.fingerprint(
          "folder", self._channels, self._max_pixels, self._rows.meaning,
          self._rows.digest(), _storage.fingerprint(there) if there else "",
      )
    return self._fingerprint

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    index = _stable.position(index, len(self))
    path, fields = self._rows.example(index)
    data = _image_files.content(path)
    return {
        "id": np.int64(index), **fields,
        "image": _records.image(data, self._channels, self._max_pixels),
    }

  def name(self, index: int) -> str:
    """The path of a picture, below the folder where it is in it."""
    path = self._path(index)
    if path is None:
      return str(index)
    return path.removeprefix(self._rows.base.rstrip("/") + "/")

  def _path(self, index: int) -> str | None:
    try:
      return self._rows.example(index)[0]
    except types.Unreadable:
      return None

  def look(self) -> None:
    """Looks at examples without reading pictures; says what is there."""
    chosen = _spread(len(self), _LOOKED_AT)
    with futures.ThreadPoolExecutor(16) as pool:
      reasons = collections.Counter(pool.map(self._fault, chosen))
    fine = reasons.pop("", 0)
    bad = ", ".join(f"{count} {why}" for why, count in reasons.most_common())
    silent = not bad and not self._rows.left_out
    _log.log(
        logging.INFO if silent else logging.WARNING,
        "%s: %d examples, %s; of %d looked at, %s", self._rows.where, len(self),
        self._rows.found, len(chosen), f"unreadable: {bad}" if bad else "all fine",
    )
    if fine:
      return
    sentence = (
        f"{self._rows.where}: none of {len(chosen)} examples looked at can be "
        f"read ({bad}); the first: {self._first_fault()}."
    )
    if set(reasons) == {"missing file"}:
      raise FileNotFoundError(
          f"{sentence} Relative paths start at {self._rows.base}."
      )
    raise ValueError(sentence)

  def _fault(self, index: int) -> str:
    """The reason for which an example cannot be read; "" if there is none."""
    try:
      _image_files.check(self._rows.example(index)[0])
    except types.Unreadable as error:
      return error.reason
    return ""

  def _first_fault(self) -> str:
    try:
      return f"{self._rows.example(0)[0]} does not exist"
    except types.Unreadable as error:
      return str(error)


def _spread(length: int, count: int) -> list[int]:
  """At most `count` indices at equal distances."""
  return sorted({int(i) for i in np.linspace(0, length - 1, min(count, length))})

"""Pictures in a folder: with a table of captions, with text files, or by class."""

import collections
import logging
import os
from collections.abc import Mapping
from concurrent import futures
from typing import Any, Literal, SupportsIndex

import numpy as np

from basic import types
from basic.data import damage
from basic.sources import (
    _folder_rows,
    _image_files,
    _layouts,
    _records,
    _stable,
    _state,
    _storage,
)

_LOOKED_AT = 1_000  # examples, when opening
_log = logging.getLogger(__name__)


def folder(
    *,
    path: str,
    table: str | None = None,
    layout: (
        Literal["table", "text", "classes", "karpathy", "pictures"] | None
    ) = None,
    image: str | None = None,
    text: str | tuple[str, ...] | None = None,
    weights: tuple[float, ...] | None = None,
    label: str | None = None,
    classes: tuple[str, ...] | None = None,
    columns: tuple[str, ...] | None = None,
    separator: str | None = None,
    language: str | tuple[str, ...] | None = None,
    split: str | None = None,
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
  - "karpathy": `table` is a `.json`, the splits of COCO or Flickr30K by
    Karpathy; `path` is the folder with train2014 and val2014, or with the
    pictures themselves. `split` is needed.
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
    layout: one of the five; None: the first that applies.
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
    language: column with the language of the captions, by which retrieval is
      then also measured: "en", or in JSONL one for each caption. Several:
      the languages of the columns of `text`.
    split: of Karpathy's: "test", "val", "train", and of COCO "restval";
      "train+restval" for both.
    channels: 3 for RGB, 1 for luminance.
    max_pixels: an image with more is unreadable.

  Returns:
    A source of "image" (a `decoding.Encoded`; the content of a file counts, not
    its extension), "text" (a tuple of captions), "text_weights" if `weights` is
    given, "text_languages" if `language` is, "label" int32 if there are labels,
    and "id" int64, the index. Of a table only offsets are in memory, 8 bytes a
    row. `name(index)` is the path of a picture. Reading raises
    `types.Unreadable` for a missing or broken file, a broken row or caption
    file, a row with more or fewer fields, one that is not UTF-8, one without a
    caption, and an unknown label.

  Raises:
    FileNotFoundError: if the folder or table does not exist, or no picture does.
    ValueError: if nothing of the above is found, a column does not exist, or
      none of the examples looked at can be read.
  """
  _records.check_image(channels, max_pixels)
  rows = _layouts.opened(_folder_rows.Settings(
      path=path, table=table, layout=layout, image=image, text=text,
      weights=weights, label=label, classes=classes, columns=columns,
      separator=separator, language=language, split=split,
  ))
  source = _Folder(rows, channels, max_pixels)
  source.look()
  return source


class _Folder:
  """An open folder; unpickling opens it again, as it was decided to be."""

  def __init__(self, rows: _folder_rows.Rows, channels: int, max_pixels: int):
    self._rows = rows
    self._channels = channels
    self._max_pixels = max_pixels
    self._fingerprint: str | None = None
    self.classes = rows.classes
    self.found = f"{rows.where}: {rows.found}"

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
      there = sorted({path for path in paths if path})
      self._fingerprint = _stable.fingerprint(
          "folder", self._channels, self._max_pixels, self._rows.meaning,
          self._rows.digest(), _storage.fingerprint(there) if there else "",
      )
    return self._fingerprint

  @property
  def state(self) -> str:
    return _state.state(self._rows.files())

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

  def where(self, index: int) -> str:
    """The path of the picture; with a table, also the row, from 1 without header."""
    return self._rows.place(index)

  def _path(self, index: int) -> str | None:
    try:
      return _image_files.check(self._rows.example(index)[0])
    except types.Unreadable:
      return None

  def look(self) -> None:
    """Looks at examples without reading pictures; says what is there."""
    chosen = _spread(len(self), _LOOKED_AT)
    with futures.ThreadPoolExecutor(16) as pool:
      failures = [f for f in pool.map(self._fault, chosen) if f is not None]
    reasons = collections.Counter(failure.reason for failure in failures)
    first = {failure.reason: failure for failure in reversed(failures)}
    bad = ", ".join(f"{count} {why}" for why, count in reasons.most_common())
    silent = not bad and not self._rows.left_out
    firsts = " ".join(f"{each.said}." for each in first.values())
    if len(failures) < len(chosen):
      _log.log(
          logging.INFO if silent else logging.WARNING,
          "%s: %d examples, %s; of %d looked at, %s", self._rows.where, len(self),
          self._rows.found, len(chosen),
          f"unreadable: {bad}; the first of each reason: {firsts}" if bad
          else "all fine",
      )
      return
    sentence = (
        f"{self._rows.where}: none of {len(chosen)} examples looked at can be "
        f"read ({bad}); the first of each reason: {firsts}"
    )
    if set(reasons) == {"missing file"}:
      raise FileNotFoundError(f"{sentence} {self._advice()}")
    raise ValueError(sentence)

  def _fault(self, index: int) -> damage.Failure | None:
    """Why an example cannot be read, as far as that shows without reading it."""
    try:
      _image_files.check(self._rows.example(index)[0])
    except types.Unreadable as error:
      return damage.failure(self, index, error)
    return None

  def _advice(self) -> str:
    """Where paths start, and which file the first one probably means."""
    base = self._rows.base
    path = self._rows.example(0)[0]
    said = f"{path} does not exist. Relative paths start at {base}."
    if meant := _image_files.meant(path, base):
      said += f" Is {meant} meant? Then write {os.path.relpath(meant, base)!r}."
    return said


def _spread(length: int, count: int) -> list[int]:
  """At most `count` indices at equal distances."""
  return sorted({int(i) for i in np.linspace(0, length - 1, min(count, length))})

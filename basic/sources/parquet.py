"""Images and captions in Parquet files, with random access by row groups."""

import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import pyarrow

from basic import types
from basic.sources import (
    _columns,
    _image_files,
    _records,
    _row_groups,
    _stable,
    _state,
    _storage,
)

_LARGE = 256 << 20  # bytes of a row group, above which reading at random is slow
_log = logging.getLogger(__name__)


def parquet(
    *,
    files: str | tuple[str, ...],
    image: str | None = None,
    text: str | tuple[str, ...] | None = None,
    weights: tuple[float, ...] | None = None,
    label: str | None = None,
    classes: tuple[str, ...] | None = None,
    language: str | tuple[str, ...] | None = None,
    folder: str | None = None,
    memory: int = 512,
    channels: int = 3,
    max_pixels: int = 40_000_000,
) -> types.Source:
  """Reads the rows of Parquet files: of Hugging Face, img2dataset, or your own.

  Parquet has no access to single rows: a row group is read and decoded whole,
  its needed columns alone. The last ones stay in memory, so a run is fast where
  it shuffles within row groups (`shards` gives their first rows), and slow where
  row groups are large and the order is random over all rows. For that, convert
  the files: `python -m basic.prepare convert`.

  Args:
    files: paths or URLs, with braces or wildcards: "part-{000..127}.parquet",
      "hf://datasets/owner/name/data/train-*.parquet".
    image: column with the content of image files (binary, or Hugging Face's
      struct of bytes and path), or with paths. None: Hugging Face's feature
      `Image`, or "image", "jpg", "png", "file_name", ...
    text: columns with captions, each with one or a list. None: "title",
      "caption", "text", ... The names of the labels are the captions where
      there is no such column, or it is "".
    weights: one for each column of `text`, in proportion to which training
      draws its captions; None: all captions are equally probable.
    label: column with classes, by number or by name. None: Hugging Face's
      feature `ClassLabel`, or "label", ..., if there is one; "": none.
    classes: their names in order. None: those in Hugging Face's metadata.
    language: column with the language of the captions (LAION's "LANGUAGE"), by
      which retrieval is then also measured, or a list, one for each caption.
      Several: the languages of the columns of `text`.
    folder: where relative paths of images start; None: the folder of each file.
    memory: MiB of decoded row groups that each process keeps; the last one is
      kept whatever its size.
    channels: 3 for RGB, 1 for luminance.
    max_pixels: an image with more is unreadable.

  Returns:
    A source of "image" (a `decoding.Encoded`), "text" (a tuple of captions),
    "text_weights" if `weights` is given, "text_languages" if `language` is,
    "label" int32 if there are labels, and "id" int64, the index. Reading raises
    `types.Unreadable` for all rows of a damaged row group, and for a row without
    an image or a caption, with an unknown label, or whose file is missing.

  Raises:
    FileNotFoundError: if a file does not exist, or a pattern finds none.
    ValueError: if a file is no whole Parquet file, if there are no rows, if a
      column does not exist in one of the files, or is of another kind there.
  """
  _records.check_image(channels, max_pixels)
  if memory < 1:
    raise ValueError(f"memory is {memory}; it takes MiB, at least 1.")
  if folder is not None:
    _storage.checked("folder", folder)
  return _Parquet(
      files=files, image=image, text=text, weights=weights, label=label,
      classes=classes, language=language, folder=folder, memory=memory,
      channels=channels, max_pixels=max_pixels,
  )


class _Parquet:
  """Open files; unpickling opens them again."""

  def __init__(self, **settings: Any):
    self._settings = settings
    self._files = _storage.expand(settings["files"], "files", ".parquet")
    found = _row_groups.footers(self._files)
    self._places = _row_groups.places(found)
    if not len(self):
      raise ValueError(f"{_several(self._files)} no rows.")
    self._columns, names = _choose(found[0].schema, self._files[0], settings)
    _check_schemas(self._files, found, self._columns)
    self._paths = _paths(found[0].schema, self._columns.image)
    self._labels = _columns.Labels(self._files[0], names)
    self.classes = self._labels.names
    self._labels.check_captions(self._columns.text, "columns", found[0].schema.names)
    self._groups = _row_groups.RowGroups(
        self._files, self._columns.names, settings["memory"] << 20
    )
    self._largest = max(size for each in found for size in each.sizes)
    self._content = _storage.fingerprint(self._files)
    self.found = (
        f"{len(self._places.groups)} row groups of {len(self._files)} files, "
        f"{self._columns.said}"
    )
    self._say()

  def __getstate__(self) -> Mapping[str, Any]:
    return {**self._settings, "content": self._content}

  def __setstate__(self, state: Mapping[str, Any]) -> None:
    settings = dict(state)
    content = settings.pop("content")
    self.__init__(**settings)
    if self._content != content:
      raise ValueError(
          f"{_several(self._files)} changed since they were opened; start again, "
          "and leave them as they are while they are read."
      )

  @property
  def shards(self) -> np.ndarray:
    """The first row of each row group, int64."""
    return self._places.starts[:-1]

  @property
  def fingerprint(self) -> str:
    return _stable.fingerprint(
        "parquet", self._settings["channels"], self._settings["max_pixels"],
        *self._columns.hashed, self.classes, len(self), self._content,
    )

  @property
  def state(self) -> str:
    return _state.state(itertools.chain(self._files, self._named()))

  def __len__(self) -> int:
    return int(self._places.starts[-1])

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    index = _stable.position(index, len(self))
    file, group, row = self._places.find(index)
    table = self._groups.table(file, group)

    def value(column: str) -> Any:
      return _row_groups.value(table, column, row)

    example: dict[str, Any] = {"id": np.int64(index)}
    if self._columns.label is not None:
      example["label"] = self._labels.number(value(self._columns.label))
    if self._columns.text:
      example |= self._columns.fields(
          {name: value(name) for name in self._columns.names}
      )
    else:
      example["text"] = (self.classes[example["label"]],)
    example["image"] = _records.image(
        self._image(value(self._columns.image), file),
        self._settings["channels"], self._settings["max_pixels"],
    )
    return example

  def where(self, index: int) -> str:
    """The file, the row group in it, and the row in that, from 0."""
    file, group, row = self._places.find(index)
    return f"{self._files[file]} row group {group} row {row}"

  def _image(self, found: Any, file: int) -> Any:
    """The content of an image that is in the row, or in a file it names."""
    if isinstance(found, dict):  # Hugging Face's: the path counts without bytes.
      found = found.get("bytes") or found.get("path")
    if not isinstance(found, str):
      return found
    return _image_files.content(self._path(found, file))

  def _path(self, found: str, file: int) -> str:
    """The path of an image that a row of a file names."""
    base = self._settings["folder"] or os.path.dirname(self._files[file])
    return found if _storage.is_remote(found) else os.path.join(base, found)

  def _named(self) -> Iterator[str]:
    """The paths of all images that rows name."""
    if self._paths is None:
      return
    groups = _row_groups.RowGroups(self._files, [self._paths], 1)
    places = zip(self._places.files, self._places.groups, strict=True)
    for file, group in places:
      try:
        column = groups.table(int(file), int(group)).column(0).to_pylist()
      except (types.Unreadable, UnicodeDecodeError):
        continue  # Its rows cannot be read either.
      for found in column:
        named = found.get("path") if isinstance(found, dict) else found
        if isinstance(named, str):
          yield self._path(named, int(file))

  def _say(self) -> None:
    _log.info("%s: %d rows in %s", self._files[0], len(self), self.found)
    if self._largest > _LARGE:
      _log.warning(
          "a row group of %s has %d MiB when decoded, and is decoded whole for "
          "one row: shuffle within shards, or convert the files to ArrayRecord "
          "(python -m basic.prepare convert)", _several(self._files),
          self._largest >> 20,
      )


def _several(files: Sequence[str]) -> str:
  more = f" and {len(files) - 1} more files have" if len(files) > 1 else " has"
  return f"{files[0]}{more}"


def _choose(
    schema: pyarrow.Schema, path: str, settings: Mapping[str, Any]
) -> tuple[_columns.Columns, tuple[str, ...]]:
  """(the columns, names of the classes) that are set, or that the files say."""
  features = _features(schema, path)
  image, label = settings["image"], settings["label"]
  if image is None:
    image = _first(features, "Image")
  if label is None:
    label = _first(features, "ClassLabel")
  columns = _columns.choose(
      path, schema.names, usual=_columns.CONTENTS, image=image,
      text=settings["text"], weights=settings["weights"], label=label,
      language=settings["language"],
  )
  names = settings["classes"]
  if names is None and columns.label is not None:
    names = features.get(columns.label, {}).get("names")
  return columns, tuple(names or ())


def _paths(schema: pyarrow.Schema, image: str) -> str | None:
  """The column, or the part of it, with paths of images; None if there is none."""
  kind = schema.field(image).type
  if _kind(kind) == "struct":
    return f"{image}.path" if kind.get_field_index("path") >= 0 else None
  return image if _kind(kind) == "text" else None


def _features(schema: pyarrow.Schema, path: str) -> dict[str, dict[str, Any]]:
  """Hugging Face's features of columns, from the metadata of a schema."""
  text = (schema.metadata or {}).get(b"huggingface")
  if text is None:
    return {}
  try:
    features = json.loads(text)["info"]["features"]
    return {
        name: each for name, each in features.items()
        if name in schema.names and isinstance(each, dict)
    }
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    _log.warning("the metadata 'huggingface' of %s is not used: %r", path, error)
    return {}


def _first(features: Mapping[str, Mapping[str, Any]], kind: str) -> str | None:
  return next(
      (name for name, each in features.items() if each.get("_type") == kind), None
  )


def _check_schemas(files, found, columns: _columns.Columns) -> None:
  """Refuses files without the columns, or with other kinds of them."""
  first = found[0].schema
  for path, footer in zip(files, found, strict=True):
    for name in columns.names:
      if footer.schema.names.count(name) > 1:
        raise ValueError(f"{path} has the column {name!r} twice; rename one.")
      if name not in footer.schema.names:
        raise ValueError(
            f"{path} has no column {name!r}, which {files[0]} has; it has "
            f"{footer.schema.names}. Read files of other columns as a source of "
            "their own, and mix the two."
        )
      kinds = [_kind(each.field(name).type) for each in (footer.schema, first)]
      if kinds[0] != kinds[1] and "null" not in kinds:  # null: no value at all
        raise ValueError(
            f"the column {name!r} of {path} holds {kinds[0]}, and that of "
            f"{files[0]} {kinds[1]}; read them as two sources."
        )
  kind = _kind(first.field(columns.image).type)
  if kind not in ("bytes", "text", "struct", "null"):
    raise ValueError(
        f"the column {columns.image!r} of {files[0]} holds {kind}; expected the "
        "content of image files, or paths. Set `image` to one of "
        f"{first.names}."
    )


def _kind(kind: pyarrow.DataType) -> str:
  """What a column holds, without how it is stored."""
  if pyarrow.types.is_dictionary(kind):
    return _kind(kind.value_type)
  checks = pyarrow.types
  if (
      checks.is_binary(kind) or checks.is_large_binary(kind)
      or checks.is_fixed_size_binary(kind) or checks.is_binary_view(kind)
  ):
    return "bytes"
  if (
      checks.is_string(kind) or checks.is_large_string(kind)
      or checks.is_string_view(kind)
  ):
    return "text"
  if checks.is_integer(kind):
    return "integers"
  if checks.is_struct(kind):
    return "struct"
  if checks.is_list(kind) or checks.is_large_list(kind):
    return f"lists of {_kind(kind.value_type)}"
  return str(kind)

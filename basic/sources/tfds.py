"""Prepared TensorFlow Datasets (TFDS), with random access, without TensorFlow.

Only the `array_record` format supports this. Preparing a dataset may need
TensorFlow; reading it never does, and nothing here downloads a dataset or runs
its code.
"""

import logging
import os
import re
from collections.abc import Mapping
from concurrent import futures
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets
from array_record.python import array_record_data_source
from tensorflow_datasets.core import read_only_builder

from basic import types
from basic.sources import _looks, _records, _stable, _storage

_NAME = re.compile(r"[a-z]\w*(/[\w.-]+)?(:[\w.*]+)?")  # name/config:version

_log = logging.getLogger(__name__)
# A compiled module, of which type checkers see nothing.
_RECORDS: Any = array_record_data_source.array_record_module


def tfds(
    *,
    dataset: str,
    split: str,
    data_dir: str | None = None,
    image: str = "image",
    text: str | None = None,
    label: str | None = None,
    most_labels: int | None = None,
    channels: int = 3,
    max_pixels: int = 40_000_000,
) -> types.Source:
  """Reads images with captions, labels, or both.

  Args:
    dataset: a name such as "coco_captions" or "name/config:1.0.0", or the
      folder that holds its `dataset_info.json`.
    split: a split or a part of one, such as "train[10%:50%]".
    data_dir: the folder of named datasets; None is TFDS's default.
    image: path of the image feature; nested names are joined by "/".
    text: path of the captions, such as "captions/text", one or several per
      image. None uses the names of the labels as captions.
    label: path of an integer feature, one or several per image, such as
      "objects/label"; None: no labels.
    most_labels: the largest number of different labels of an image, where it
      may have several; an image with more is unreadable. None: each has one.
    channels: 3 for RGB, 1 for luminance.
    max_pixels: an image with more is unreadable.

  Returns:
    A source of "image" (a `decoding.Encoded`), "text" (a tuple of captions),
    "id" int64 (the index) and, if `label` is set, "label" int32, or int32
    [most_labels] without duplicates, padded with -1. `classes` has the names of
    the labels, with spaces for underscores; () if they have none. Reading
    raises `types.Unreadable` for a damaged record, for one without an image,
    and for captions that are missing or not text. A file that is damaged as a
    whole is warned of here.

  Raises:
    FileNotFoundError: if the dataset, or a file of the split, does not exist.
    ValueError: if it is not stored as array_record, if no file of the split is
      intact, if the split or a feature
      does not exist, if neither text nor named labels are given, or if
      `most_labels` does not fit the feature.
  """
  _records.check_image(channels, max_pixels)
  source = _Tfds(
      dataset=dataset, split=split, data_dir=data_dir, image=image, text=text,
      label=label, most_labels=most_labels, channels=channels,
      max_pixels=max_pixels,
  )
  source.check_files()
  return source


class _Tfds:
  """An open dataset; unpickling opens its files again."""

  def __init__(self, **settings: Any):
    self._settings = settings
    self._image = settings["image"]
    self._text = settings["text"]
    self._label = settings["label"]
    builder = _open(settings["dataset"], settings["data_dir"])
    self._name = builder.info.full_name
    self.classes = self._check(builder.info.features)
    self._shards, self._files = _shards(builder, settings["split"])
    self._content = _storage.fingerprint(self._files)
    self._records = builder.as_data_source(
        split=settings["split"],
        decoders=_nested(
            self._image, tensorflow_datasets.decode.SkipDecoding()
        ),
    )

  def __getstate__(self) -> Mapping[str, Any]:
    return self._settings

  def __setstate__(self, settings: Mapping[str, Any]) -> None:
    self.__init__(**settings)

  @property
  def fingerprint(self) -> str:
    return self._hash(self._content)

  @property
  def former_fingerprint(self) -> str:
    """The fingerprint in runs that began when it left out the content."""
    return self._hash()

  def _hash(self, *content: str) -> str:
    paths = {"dataset", "data_dir"}  # the same data may be in another folder
    rest = sorted((k, v) for k, v in self._settings.items() if k not in paths)
    return _stable.fingerprint("tfds", self._name, rest, self._shards, *content)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    index = _stable.position(index, len(self))
    try:
      record = _storage.retry(lambda: self._records[index], self._name)
    except (RuntimeError, ValueError, OSError) as error:
      raise types.Unreadable(
          "damaged record", f"{index} of {self._name}: {error}"
      ) from error
    example: dict[str, Any] = {"id": np.int64(index)}
    if self._label is not None:
      example["label"] = self._labels(_at(record, self._label))
    if self._text is None:
      labels = example["label"].reshape(-1)
      example["text"] = _records.captions(
          self.classes[k] for k in labels if k >= 0
      )
    else:
      example["text"] = _records.captions(_at(record, self._text))
    example["image"] = _records.image(
        _at(record, self._image),
        self._settings["channels"], self._settings["max_pixels"],
    )
    return example

  def where(self, index: int) -> str:
    """The file, and the record in it, from 0."""
    for path, (_, first, count, _) in zip(self._files, self._shards, strict=True):
      if index < count:
        return f"{path} record {first + index}"
      index -= count
    raise IndexError(index)

  def check_files(self) -> None:
    """Warns of files that do not hold the records they should; none may be left."""
    with futures.ThreadPoolExecutor(16) as pool:  # Remote storage has latency.
      found = list(pool.map(_count, self._files))
    damaged = [
        (path, shard[3]) for path, shard, count in
        zip(self._files, self._shards, found, strict=True) if count != shard[3]
    ]
    if not damaged:
      return
    sentence = (
        f"{len(damaged)} of {len(self._files)} files of {self._name} are damaged "
        f"(truncated?), the first of them {damaged[0][0]}; they should hold "
        f"{sum(count for _, count in damaged)} records. Copy them again."
    )
    if len(damaged) == len(self._files):
      raise ValueError(sentence)
    _log.warning("%s Until then, their examples are unreadable.", sentence)

  def _labels(self, feature: Any) -> np.int32 | np.ndarray:
    most = self._settings["most_labels"]
    if most is None:
      return np.int32(feature)
    labels = list(dict.fromkeys(np.reshape(feature, -1).tolist()))
    if len(labels) > most:
      raise types.Unreadable(
          "too many labels", f"{len(labels)} where most_labels is {most}"
      )
    return np.array(labels + [-1] * (most - len(labels)), np.int32)

  def _check(self, features: Any) -> tuple[str, ...]:
    """Checks that all paths exist; returns the names of the labels."""
    for path in (self._image, self._text):
      if path is not None:
        _feature(features, path, self._name)
    names = ()
    if self._label is not None:
      feature = _feature(features, self._label, self._name)
      self._check_several(features)
      while isinstance(feature, tensorflow_datasets.features.Sequence):
        feature = feature.feature
      names = tuple(getattr(feature, "names", None) or ())
    if self._text is None and not names:
      raise ValueError(
          f"{self._name} gives no captions: set text='path/of/captions', or "
          "label to a feature whose classes have names"
      )
    return tuple(name.replace("_", " ") for name in names)

  def _check_several(self, features: Any) -> None:
    """Refuses several labels without `most_labels`, and the reverse."""
    most = self._settings["most_labels"]
    parts = self._label.split("/")
    several = any(
        isinstance(
            _feature(features, "/".join(parts[:n]), self._name),
            tensorflow_datasets.features.Sequence,
        )
        for n in range(1, len(parts) + 1)
    )
    if several and (most is None or most < 1):
      raise ValueError(
          f"{self._name} has several of {self._label!r} per image: set "
          f"most_labels, which is {most}, to the largest number of them"
      )
    if not several and most is not None:
      raise ValueError(
          f"{self._name} has one {self._label!r} per image: leave out "
          f"most_labels, which is {most}"
      )


def _open(dataset: str, data_dir: str | None) -> Any:
  """Opens a prepared dataset, by folder or by name."""
  if os.path.exists(os.path.join(dataset, "dataset_info.json")):
    builder = tensorflow_datasets.builder_from_directory(dataset)
  else:
    try:
      builder = read_only_builder.builder_from_files(dataset, data_dir=data_dir)
    except ValueError as error:  # not found, or not a valid name
      raise FileNotFoundError(_not_found(dataset, data_dir)) from error
  file_format = builder.info.file_format
  stored = "an unknown format" if file_format is None else file_format.value
  if stored != "array_record":
    raise ValueError(
        f"{builder.info.full_name} is stored as {stored}, and only "
        "array_record has random access without TensorFlow"
        + _remedy(stored, os.fspath(builder.data_path))
    )
  return builder


def _remedy(stored: str, folder: str) -> str:
  """What to do with a data set of another format."""
  if stored == "tfrecord":
    return (
        ". Convert it: python -m basic.prepare convert --source.name=tfrecord "
        f"--source.files='{folder}/*-SPLIT.tfrecord-*' --out=DIR"
    )
  lost = " (TFDS loses rows of parquet)" if stored == "parquet" else ""
  return f"{lost}. Prepare it again: tfds build ... --file_format=array_record"


def _not_found(dataset: str, data_dir: str | None) -> str:
  """Why there is no such data set, and what to do instead."""
  if os.path.isdir(dataset):
    return (
        f"{dataset} is no folder with a dataset_info.json, which TFDS writes. "
        + _looks.advice(dataset)
    )
  if os.path.exists(dataset) or not _NAME.fullmatch(dataset):
    kind = "a file, and" if os.path.exists(dataset) else "not there, so it"
    return (
        f"{dataset!r} is {kind} is no folder with a dataset_info.json, and it is "
        "no name of a TFDS dataset either; `dataset` takes one of the two."
    )
  return (
      f"{dataset!r} is no folder with a dataset_info.json, and no prepared "
      f"dataset of that name is in {data_dir or 'the default folder'}. If it is "
      "one of TFDS's, prepare it once, where TensorFlow is installed: tfds build "
      f"{dataset} --file_format=array_record"
  )


def _shards(
    builder: Any, split: str
) -> tuple[tuple[tuple[str, int, int, int], ...], list[str]]:
  """Rows of (file, first, count, records in the file), and paths of the files."""
  try:
    parts = builder.info.splits[split].file_instructions
  except (KeyError, ValueError) as error:
    raise ValueError(
        f"{builder.info.full_name} has no split {split!r}; it has "
        f"{sorted(builder.info.splits)}"
    ) from error
  missing = [p.filename for p in parts if not os.path.exists(p.filename)]
  if missing:
    raise FileNotFoundError(
        f"{len(missing)} of {len(parts)} files of {builder.info.full_name} are "
        f"missing, the first of them {missing[0]}"
    )
  rows = tuple(
      (os.path.basename(p.filename), p.skip, p.take, p.examples_in_shard)
      for p in parts
  )
  return rows, [os.fspath(p.filename) for p in parts]


def _count(path: str) -> int:
  """The records of a file by its footer; 0 if that cannot be read."""
  reader = _RECORDS.ArrayRecordReader(path)
  try:
    return reader.num_records() if reader.ok() else 0
  finally:
    if reader.ok():  # Closing a damaged one raises.
      reader.close()


def _feature(features: Any, path: str, name: str) -> Any:
  """The feature at a path, which may lead through sequences."""
  feature = features
  for key in path.split("/"):
    inner = _fields(feature)
    if key not in inner:
      raise ValueError(
          f"{name} has no feature {path!r}; it has {_paths(features)}"
      )
    feature = inner[key]
  return feature


def _paths(feature: Any, prefix: str = "") -> list[str]:
  inner = _fields(feature)
  if not inner:
    return [prefix.rstrip("/")]
  return [p for key in inner for p in _paths(inner[key], f"{prefix}{key}/")]


def _fields(feature: Any) -> Mapping[str, Any]:
  """The features inside a feature, by name; {} if it has none."""
  while isinstance(feature, tensorflow_datasets.features.Sequence):
    feature = feature.feature
  if isinstance(feature, tensorflow_datasets.features.FeaturesDict):
    return dict(feature.items())
  return {}


def _nested(path: str, value: Any) -> Any:
  for key in reversed(path.split("/")):
    value = {key: value}
  return value


def _at(record: Mapping[str, Any], path: str) -> Any:
  for key in path.split("/"):
    record = record[key]
  return record

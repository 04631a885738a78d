"""Prepared TensorFlow Datasets, read by number and without TensorFlow.

Only `array_record` can be read so. Preparing a data set may need TensorFlow;
reading it never does, and nothing here downloads or runs a data set's code.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets
from tensorflow_datasets.core import read_only_builder

from basic import types
from basic.data import images
from basic.sources import _stable


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
  """Reads images with captions, with labels, or with both.

  Args:
    dataset: a name such as "coco_captions" or "name/config:1.0.0", or the
      folder that holds its `dataset_info.json`.
    split: also a part of one, such as "train[10%:50%]".
    data_dir: where named data sets lie; None is TFDS's own default.
    image: path of the image feature; a path joins nested names by "/".
    text: path of the captions, such as "captions/text"; one or several each.
      None takes the names of the labels as captions.
    label: path of an integer feature, or of several an image, such as
      "objects/label"; None leaves labels out.
    most_labels: how many different labels an image has at most, where it may
      have several; an image with more is unreadable. None: each has one.
    channels: 3 for RGB, 1 for luminance.
    max_pixels: an image with more is unreadable.

  Returns:
    A source of "image" uint8[h w channels], "text" (a tuple of captions), "id"
    int64 (the index) and, if there is one, "label" int32, or int32
    [most_labels], each once and -1 for none. `classes` holds the names of the
    labels, with spaces for underscores; () if they have none. Reading raises
    `types.Unreadable` for a damaged record, for an image that `images.decode`
    refuses, and for captions that are missing or not text.

  Raises:
    FileNotFoundError: if the data set, or a file of the split, is not there.
    ValueError: if it is not stored as array_record, if the split or a feature
      does not exist, if neither text nor named labels are asked for, or if
      `most_labels` does not say what the feature holds.
  """
  if channels not in (1, 3):
    raise ValueError(f"channels is {channels}; it is 1 or 3")
  return _Tfds(
      dataset=dataset, split=split, data_dir=data_dir, image=image, text=text,
      label=label, most_labels=most_labels, channels=channels,
      max_pixels=max_pixels,
  )


class _Tfds:
  """An open data set; a pickled one opens its files again."""

  def __init__(self, **settings: Any):
    self._settings = settings
    self._image = settings["image"]
    self._text = settings["text"]
    self._label = settings["label"]
    builder = _open(settings["dataset"], settings["data_dir"])
    self._name = builder.info.full_name
    self.classes = self._check(builder.info.features)
    self._shards = _shards(builder, settings["split"])
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
    moved = {"dataset", "data_dir"}  # the same data may lie elsewhere
    rest = sorted((k, v) for k, v in self._settings.items() if k not in moved)
    return _stable.fingerprint("tfds", self._name, rest, self._shards)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    index = _stable.position(index, len(self))
    try:
      record = self._records[index]
    except (RuntimeError, ValueError, OSError) as error:
      raise types.Unreadable(
          "damaged record", f"{index} of {self._name}: {error}"
      ) from error
    example: dict[str, Any] = {"id": np.int64(index)}
    if self._label is not None:
      example["label"] = self._labels(_at(record, self._label))
    if self._text is None:
      known = example["label"].reshape(-1)
      example["text"] = _captions(self.classes[k] for k in known if k >= 0)
    else:
      example["text"] = _captions(_at(record, self._text))
    example["image"] = images.decode(
        bytes(_at(record, self._image)),
        channels=self._settings["channels"],
        max_pixels=self._settings["max_pixels"],
    )
    return example

  def _labels(self, found: Any) -> np.int32 | np.ndarray:
    most = self._settings["most_labels"]
    if most is None:
      return np.int32(found)
    known = list(dict.fromkeys(np.reshape(found, -1).tolist()))
    if len(known) > most:
      raise types.Unreadable(
          "too many labels", f"{len(known)} where most_labels is {most}"
      )
    return np.array(known + [-1] * (most - len(known)), np.int32)

  def _check(self, features: Any) -> tuple[str, ...]:
    """Looks all paths up; returns the names of the labels."""
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
    """Refuses several labels without `most_labels`, and that without these."""
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
          f"{self._name} has several of {self._label!r} an image: set "
          f"most_labels, which is {most}, to the most that one has"
      )
    if not several and most is not None:
      raise ValueError(
          f"{self._name} has one {self._label!r} an image: leave most_labels, "
          f"which is {most}, out"
      )


def _open(dataset: str, data_dir: str | None) -> Any:
  """Opens prepared files, by folder or by name."""
  if os.path.exists(os.path.join(dataset, "dataset_info.json")):
    builder = tensorflow_datasets.builder_from_directory(dataset)
  else:
    try:
      builder = read_only_builder.builder_from_files(dataset, data_dir=data_dir)
    except ValueError as error:  # not found, or not a name at all
      raise FileNotFoundError(
          f"{dataset!r} is no folder with a dataset_info.json, and no prepared "
          f"data set of that name is in {data_dir or 'the default folder'}. "
          f"Prepare it once, where TensorFlow is installed: tfds build "
          f"{dataset} --file_format=array_record"
      ) from error
  file_format = builder.info.file_format
  stored = "an unknown format" if file_format is None else file_format.value
  if stored != "array_record":
    raise ValueError(
        f"{builder.info.full_name} is stored as {stored}, and only "
        "array_record can be read by number without TensorFlow (TFDS loses "
        "rows of parquet). Prepare it again: "
        "tfds build ... --file_format=array_record"
    )
  return builder


def _shards(builder: Any, split: str) -> tuple[tuple[str, int, int, int], ...]:
  """(file, first, count, records in the file) of all that a split reads."""
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
        f"missing, the first is {missing[0]}"
    )
  return tuple(
      (os.path.basename(p.filename), p.skip, p.take, p.examples_in_shard)
      for p in parts
  )


def _feature(features: Any, path: str, name: str) -> Any:
  """The feature at a path, through sequences."""
  found = features
  for key in path.split("/"):
    inner = _fields(found)
    if key not in inner:
      raise ValueError(
          f"{name} has no feature {path!r}; it has {_paths(features)}"
      )
    found = inner[key]
  return found


def _paths(feature: Any, prefix: str = "") -> list[str]:
  inner = _fields(feature)
  if not inner:
    return [prefix.rstrip("/")]
  return [p for key in inner for p in _paths(inner[key], f"{prefix}{key}/")]


def _fields(feature: Any) -> Mapping[str, Any]:
  """What a feature holds by name; nothing if it is a leaf."""
  while isinstance(feature, tensorflow_datasets.features.Sequence):
    feature = feature.feature
  if isinstance(feature, tensorflow_datasets.features.FeaturesDict):
    return dict(feature.items())
  return {}


def _nested(path: str, leaf: Any) -> Any:
  for key in reversed(path.split("/")):
    leaf = {key: leaf}
  return leaf


def _at(record: Mapping[str, Any], path: str) -> Any:
  for key in path.split("/"):
    record = record[key]
  return record


def _captions(found: Any) -> tuple[str, ...]:
  """One caption or several, checked to be text and not blank."""
  several = isinstance(found, Iterable) and not isinstance(found, str | bytes)
  captions = tuple(_caption(c) for c in (found if several else (found,)))
  captions = tuple(c for c in captions if c)
  if not captions:
    raise types.Unreadable("no caption")
  return captions


def _caption(found: Any) -> str:
  if isinstance(found, bytes):
    try:
      return found.decode("utf-8").strip()
    except UnicodeDecodeError as error:
      raise types.Unreadable("caption not text", str(error)) from error
  if isinstance(found, str):
    return found.strip()
  raise types.Unreadable("caption not text", f"a {type(found).__name__}")

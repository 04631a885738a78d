"""TFRecord files of tf.train.Example, without TensorFlow: to be converted.

Framing: https://www.tensorflow.org/tutorials/load_data/tfrecord

    uint64 length, uint32 masked CRC32C of it, data, uint32 masked CRC32C of them
    masked(crc) = (crc >> 15 | crc << 17) + 0xa282ead8    all little-endian
"""

import os
import struct
from collections.abc import Iterable, Mapping
from concurrent import futures
from typing import IO, Any, SupportsIndex

import numpy as np
from tensorflow_datasets.proto import tf_example_generated_pb2

from basic import types
from basic.sources import _columns, _records, _stable, _storage

_proto: Any = tf_example_generated_pb2  # It has no types.
_HEADER = 12  # bytes before the data of a record
_FOOTER = 4  # bytes after them
_LARGEST = 1 << 30  # bytes of a record
_FIRST = 16  # records that say which features there are


def tfrecord(
    *,
    files: str | tuple[str, ...],
    image: str | None = None,
    text: str | tuple[str, ...] | None = None,
    weights: tuple[float, ...] | None = None,
    label: str | None = None,
    classes: tuple[str, ...] | None = None,
    channels: int = 3,
    max_pixels: int = 40_000_000,
) -> types.Source:
  """Reads images and captions of TFRecord files, among them those of TFDS.

  TFRecord files have no index, so opening passes over all of them. To train,
  convert them once: `python -m basic.prepare convert`.

  Args:
    files: paths or URLs, with braces or wildcards: "folder/*-train.tfrecord-*".
    image: the feature with the content of image files. None: "image/encoded",
      "image", "jpg", ...
    text: features with captions, each with one or several. None: "caption",
      "captions/text", "text", ... The names of the labels are the captions
      where there is no such feature, or it is "".
    weights: one for each feature of `text`, in proportion to which training
      draws its captions; None: all captions are equally probable.
    label: the feature with the class. None: "label", "image/class/label", ...,
      if there is one; "": none.
    classes: names of the classes in order. None: those in the file
      `LABEL.labels.txt` that TFDS writes beside its records.
    channels: 3 for RGB, 1 for luminance.
    max_pixels: an image with more is unreadable.

  Returns:
    A source of "image" (a `decoding.Encoded`), "text" (a tuple of captions),
    "text_weights" if `weights` is given, "label" int32 if there are labels, and
    "id" int64, the index. Reading raises `types.Unreadable` for a record whose
    checksum is wrong, or that has no image, no caption, or an unknown label.

  Raises:
    FileNotFoundError: if a file does not exist, or a pattern finds none.
    ValueError: if a file is cut off or its framing is damaged, since the number
      of its records is then unknown; if there are no records, or a feature does
      not exist in the first of them.
    ImportError: if the `google_crc32c` library is not installed.
  """
  _records.check_image(channels, max_pixels)
  return _TfRecord(
      files=files, image=image, text=text, weights=weights, label=label,
      classes=classes, channels=channels, max_pixels=max_pixels,
  )


class _TfRecord:
  """Open files; unpickling opens them again."""

  def __init__(self, **settings: Any):
    self._settings = settings
    self._crc = _masked_crc()
    self._files = _storage.expand(settings["files"], "files", ".tfrecord*")
    with futures.ThreadPoolExecutor(16) as pool:
      self._starts = list(pool.map(self._scan, self._files))
    counts = [len(starts) - 1 for starts in self._starts]
    self._firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if not len(self):
      raise ValueError(f"{self._files[0]} and the other files have no records.")
    self._columns = _columns.choose(
        self._files[0], self._features(), usual=_columns.CONTENTS,
        image=settings["image"], text=settings["text"],
        weights=settings["weights"], label=settings["label"],
    )
    self._labels = _columns.Labels(self._files[0], self._names())
    self.classes = self._labels.names
    self._labels.check_captions(self._columns.text, "features", self._features())
    self._content = _storage.fingerprint(self._files)
    self.found = f"{len(self._files)} files, {self._columns.said}"

  def __getstate__(self) -> Mapping[str, Any]:
    return self._settings

  def __setstate__(self, settings: Mapping[str, Any]) -> None:
    self.__init__(**settings)

  @property
  def shards(self) -> np.ndarray:
    """The first record of each file, int64."""
    return np.unique(self._firsts[:-1][np.diff(self._firsts) > 0])

  @property
  def fingerprint(self) -> str:
    return _stable.fingerprint(
        "tfrecord", self._settings["channels"], self._settings["max_pixels"],
        self._columns, self.classes, len(self), self._content,
    )

  def __len__(self) -> int:
    return int(self._firsts[-1])

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    index = _stable.position(index, len(self))
    found = self._record(index)
    example: dict[str, Any] = {"id": np.int64(index)}
    if self._columns.label is not None:
      labels = _values(found, self._columns.label)
      if len(labels) > 1:
        raise types.Unreadable("several labels", f"found {labels}")
      example["label"] = self._labels.number(labels[0] if labels else None)
    if self._columns.text:
      values = [_values(found, name) for name in self._columns.text]
      example |= _columns.texts(values, self._columns.weights)
    else:
      example["text"] = (self.classes[example["label"]],)
    images = _values(found, self._columns.image)
    if len(images) > 1:
      raise types.Unreadable("several images", f"found {len(images)}")
    example["image"] = _records.image(
        images[0] if images else None,
        self._settings["channels"], self._settings["max_pixels"],
    )
    return example

  def where(self, index: int) -> str:
    """The file, and the record in it, from 0."""
    file, at = self._place(index)
    return f"{self._files[file]} record {at}"

  def _place(self, index: int) -> tuple[int, int]:
    """(the file of a record, its number in it)."""
    file = int(np.searchsorted(self._firsts, index, side="right")) - 1
    return file, index - int(self._firsts[file])

  def _record(self, index: int) -> Mapping[str, Any]:
    """The features of a record, whose checksum is right."""
    file, at = self._place(index)
    start, stop = (int(each) for each in self._starts[file][at : at + 2])
    try:
      frame = _storage.read(self._files[file], start + _HEADER, stop)
    except OSError as error:
      raise types.Unreadable("failed read", str(error)) from error
    data, stored = frame[:-_FOOTER], frame[-_FOOTER:]
    if struct.pack("<I", self._crc(data)) != stored:
      raise types.Unreadable(
          "damaged record", f"wrong checksum at {start} of {self._files[file]}"
      )
    try:
      found = _proto.Example.FromString(data)
    except Exception as error:  # DecodeError, of one of several protobufs
      raise types.Unreadable("no tf.train.Example", str(error)) from error
    return found.features.feature

  def _scan(self, path: str) -> np.ndarray:
    """Offsets of the records of a file, and of its end, int64."""
    size = _storage.size(path)
    starts = [0]
    with _storage.open_binary(path) as file:
      while starts[-1] < size:
        starts.append(self._next(path, file, starts[-1], size, len(starts) - 1))
    return np.array(starts, np.int64)

  def _next(self, path: str, file: IO[bytes], at: int, size: int, n: int) -> int:
    """The offset after the record at `at`; checks its header."""
    file.seek(at)
    header = _storage.retry(lambda: file.read(_HEADER), path)
    what = "is cut off"
    if len(header) == _HEADER:
      length = int.from_bytes(header[:8], "little")
      if struct.pack("<I", self._crc(header[:8])) != header[8:]:
        what = "is damaged, or is no TFRecord file"
        if header[:2] == b"\x1f\x8b":
          what = "is compressed with gzip, unpack it,"
      elif length > _LARGEST:
        what = f"has a record of {length} bytes"
      elif (stop := at + _HEADER + length + _FOOTER) <= size:
        return stop
    raise ValueError(
        f"{path} {what} at byte {at} of {size}, after {n} records. How many follow "
        "is not known: restore the file, or leave it out of the pattern."
    )

  def _features(self) -> list[str]:
    """Names of the features of the first records that can be read."""
    names: dict[str, None] = {}
    for index in range(min(len(self), _FIRST)):
      try:
        names |= dict.fromkeys(sorted(self._record(index)))
      except types.Unreadable:
        continue  # Counted where it is read.
    return list(names)

  def _names(self) -> tuple[str, ...]:
    """Names of the classes: those that are set, or that TFDS wrote."""
    label, classes = self._columns.label, self._settings["classes"]
    if classes is not None or label is None:
      return tuple(classes or ())
    folder = os.path.dirname(self._files[0])
    path = os.path.join(folder, f"{label.replace('/', '-')}.labels.txt")
    if not _storage.exists(path):
      return ()
    names = (line.strip() for line in _storage.read(path).decode().split("\n"))
    return tuple(name for name in names if name)


def _values(features: Mapping[str, Any], name: str) -> list[Any]:
  """The values of a feature; [] if the record has none of this name."""
  if name not in features:
    return []
  feature = features[name]
  kind = feature.WhichOneof("kind")
  values: Iterable[Any] = getattr(feature, kind).value if kind else ()
  return list(values)


def _masked_crc() -> Any:
  """bytes -> their masked CRC32C."""
  try:
    import google_crc32c
  except ImportError as error:
    raise ImportError(
        "TFRecord files are checked with the google-crc32c library: "
        "pip install google-crc32c"
    ) from error

  def masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

  return masked

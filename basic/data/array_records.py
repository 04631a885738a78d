"""Writes data sets of ArrayRecord files that the source `tfds` and TFDS read.

Without TensorFlow: a record is a tf.train.Example as TFDS writes it, with the
image as it is in its file.
"""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import array_record.python.array_record_module as array_record_module
import cv2
import numpy as np
import tensorflow_datasets
from tensorflow_datasets.proto import tf_example_generated_pb2

from basic import files, types
from basic.data import decoding

_module: Any = array_record_module  # Neither has types.
_proto: Any = tf_example_generated_pb2

METADATA = "dataset_info.json"  # written last: with it a data set is whole
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_TEXT = "captions"


@dataclasses.dataclass(frozen=True)
class Layout:
  """What each record of a data set holds beside its image.

  Attributes:
    text: whether it has captions, one or several.
    label: "one" class, "several", or "" for none.
    classes: names of the classes; () if they have none.
    channels: of the images: 3 for RGB, 1 for luminance.
  """

  text: bool
  label: str
  classes: tuple[str, ...]
  channels: int


def layout(example: types.Example, classes: Sequence[str]) -> Layout:
  """The layout of a data set, from one of its examples.

  Raises:
    ValueError: if the example has no image, or the data set neither captions
      nor labels, or a class has a name that TFDS cannot hold.
  """
  if "image" not in example or not {"text", "label"} & example.keys():
    raise ValueError(
        f"the examples have the fields {sorted(example)}; expected an image, and "
        "a text or a label."
    )
  for name in classes:
    if name != name.strip() or not name or "\n" in name:
      raise ValueError(
          f"the class {name!r} is blank, or has line feeds or spaces around it, "
          "which the metadata of TFDS cannot hold; rename it."
      )
  image = example["image"]
  channels = getattr(image, "channels", None) or np.shape(image)[-1]
  label = ""
  if "label" in example:
    label = "several" if np.ndim(example["label"]) else "one"
  return Layout("text" in example, label, tuple(classes), channels)


def record(example: types.Example, how: Layout) -> bytes:
  """The serialized record of an example.

  Image files are kept as they are; pixels become PNG.

  Raises:
    ValueError: if the example has other fields than the layout says.
  """
  found = ("text" in example, "label" in example)
  if found != (how.text, bool(how.label)):
    raise ValueError(
        f"the example has the fields {sorted(example)}, and others have "
        f"text={how.text}, label={bool(how.label)}; all must have the same."
    )
  message = _proto.Example()
  features = message.features.feature
  features["image"].bytes_list.value.append(_file(example["image"]))
  if how.text:
    text = example["text"]
    captions = text if isinstance(text, tuple | list) else (text,)
    features[_TEXT].bytes_list.value.extend(each.encode() for each in captions)
  if how.label:
    labels = np.asarray(example["label"]).reshape(-1)
    if how.label == "several":
      labels = labels[labels >= 0]  # -1 is padding.
    features["label"].int64_list.value.extend(labels.tolist())
  return message.SerializeToString(deterministic=True)


def _file(image: Any) -> bytes:
  """The content of an image file."""
  if isinstance(image, decoding.Encoded):
    return image.data
  pixels = np.asarray(image)
  if pixels.shape[-1] == 3:
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
  return cv2.imencode(".png", pixels)[1].tobytes()


class Shard:
  """A file of records that is being written.

  Attributes:
    count: records so far.
    size: their bytes so far.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._writer: Any = _module.ArrayRecordWriter(
        str(path), "group_size:1"  # Any record can be read alone.
    )
    self.count = 0
    self.size = 0

  def write(self, data: bytes) -> None:
    """Adds a record."""
    self._writer.write(data)
    self.count += 1
    self.size += len(data)

  def close(self) -> None:
    """Completes the file."""
    self._writer.close()


def shard_name(name: str, split: str, number: int, shards: int) -> str:
  """The name that a shard of a data set has."""
  return f"{name}-{split}.array_record-{number:05}-of-{shards:05}"


def write_metadata(
    folder: pathlib.Path, name: str, split: str, how: Layout,
    counts: Sequence[int], size: int,
) -> None:
  """Makes a folder of complete shards a data set, atomically.

  Args:
    folder: of the shards.
    name: of the data set.
    split: of all shards.
    how: the layout of the records.
    counts: records of each shard.
    size: bytes of all records.

  Raises:
    OSError: if it cannot be written.
  """
  write_info(folder, name, split, _features(how), counts, size)


def write_info(
    folder: pathlib.Path, name: str, split: str, features: Mapping[str, Any],
    counts: Sequence[int], size: int,
) -> None:
  """Makes a folder of complete shards a data set with any features of TFDS.

  Args:
    folder: of the shards.
    name: of the data set.
    split: of all shards.
    features: of TFDS, by name.
    counts: records of each shard.
    size: bytes of all records.

  Raises:
    OSError: if it cannot be written.
  """
  described = tensorflow_datasets.features.FeaturesDict(dict(features))
  with tempfile.TemporaryDirectory() as scratch:
    described.save_config(scratch)
    for path in pathlib.Path(scratch).iterdir():
      files.replace(folder / path.name, path.read_bytes())
  info = {
      "name": name, "version": "1.0.0", "fileFormat": "array_record",
      "splits": [{
          "name": split, "numBytes": str(size), "filepathTemplate": _TEMPLATE,
          "shardLengths": [str(count) for count in counts],
      }],
  }  # The proto message DatasetInfo of TFDS, as JSON.
  files.replace(folder / METADATA, json.dumps(info, indent=2).encode())


def _features(how: Layout) -> dict[str, Any]:
  """Features of TFDS."""
  features = tensorflow_datasets.features
  found: dict[str, Any] = {
      "image": features.Image(shape=(None, None, how.channels))
  }
  if how.text:
    found[_TEXT] = features.Sequence(features.Text())
  if how.label:
    one = (
        features.ClassLabel(names=list(how.classes)) if how.classes
        else features.Scalar(np.int64)
    )
    found["label"] = features.Sequence(one) if how.label == "several" else one
  return found

"""Files of embeddings for other programs: .npz, and data sets of ArrayRecord.

Columns are written a part at a time, under another name until they are complete,
so that memory does not grow with their rows and a file of the name is whole.
"""

import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets
from tensorflow_datasets.proto import tf_example_generated_pb2

from basic.data import array_records

NAME, SPLIT = "embeddings", "rows"  # "all" is taken by TFDS.
_ROWS = 1 << 14  # of a part
_SHARD = 1 << 18  # rows of a file of ArrayRecord
_proto: Any = tf_example_generated_pb2  # It has no types.


class Column(NamedTuple):
  """A column of n rows.

  Attributes:
    shape: of the whole column, n first.
    dtype: of its numbers, or of strings of a fixed width.
    part: (start, stop) -> the rows from start to stop, excluding it.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  part: Callable[[int, int], np.ndarray]

  @classmethod
  def of(cls, array: np.ndarray) -> "Column":
    """The column that an array holds."""
    return cls(array.shape, array.dtype, lambda start, stop: array[start:stop])


def write_npz(path: str | os.PathLike, columns: Mapping[str, Column]) -> None:
  """Writes columns as the arrays of a file for `numpy.load`.

  Args:
    path: the file; its folder is created if it does not exist.
    columns: by name, all with equally many rows.

  Raises:
    OSError: if it cannot be written; nothing is left behind.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.with_name(f".{path.name}.unfinished")
  try:
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
      for name, column in columns.items():
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
          np.lib.format.write_array_header_1_0(file, {
              "descr": np.lib.format.dtype_to_descr(column.dtype),
              "fortran_order": False, "shape": column.shape,
          })
          for start in range(0, column.shape[0], _ROWS):
            rows = column.part(start, min(start + _ROWS, column.shape[0]))
            file.write(np.ascontiguousarray(rows, column.dtype).data.tobytes())
    os.replace(unfinished, path)
  finally:
    unfinished.unlink(missing_ok=True)


def write_array_record(
    folder: str | os.PathLike, columns: Mapping[str, Column]
) -> None:
  """Writes columns as a data set that TFDS and the source `tfds` find.

  Args:
    folder: of the data set; it does not exist yet.
    columns: by name, all with equally many rows: vectors of floats, and single
      numbers, truth values and texts.

  Raises:
    OSError: if it cannot be written.
  """
  folder = pathlib.Path(folder)
  unfinished = folder.with_name(f"{folder.name}.unfinished")
  shutil.rmtree(unfinished, ignore_errors=True)
  unfinished.mkdir(parents=True)
  count = next(iter(columns.values())).shape[0]
  starts = range(0, count, _SHARD)
  size, counts = 0, []
  for number, start in enumerate(starts):
    name = array_records.shard_name(NAME, SPLIT, number, len(starts))
    shard = array_records.Shard(unfinished / name)
    for first in range(start, min(start + _SHARD, count), _ROWS):
      last = min(first + _ROWS, start + _SHARD, count)
      parts = {name: column.part(first, last) for name, column in columns.items()}
      for row in range(last - first):
        shard.write(_record({name: part[row] for name, part in parts.items()}))
    shard.close()
    size += shard.size
    counts.append(shard.count)
  array_records.write_info(
      unfinished, NAME, SPLIT,
      {name: _feature(column) for name, column in columns.items()}, counts, size,
  )
  os.replace(unfinished, folder)


def _feature(column: Column) -> Any:
  """The feature of TFDS that describes a column."""
  features = tensorflow_datasets.features
  if column.dtype.kind == "U":
    return features.Text()
  dtype = column.dtype.type if column.dtype.kind in "fb" else np.int64
  return features.Tensor(shape=column.shape[1:], dtype=dtype)


def _record(row: Mapping[str, Any]) -> bytes:
  """The serialized record of a row."""
  message = _proto.Example()
  for name, value in row.items():
    feature, array = message.features.feature[name], np.asarray(value)
    if array.dtype.kind == "U":
      # The bytes of a file's name, also where they are no UTF-8.
      feature.bytes_list.value.append(str(value).encode(errors="surrogateescape"))
    elif array.dtype.kind == "f":
      feature.float_list.value.extend(array.reshape(-1).tolist())
    else:
      feature.int64_list.value.extend(array.astype(np.int64).reshape(-1).tolist())
  return message.SerializeToString(deterministic=True)

"""Reads and writes safetensors and JSON files; never unpickles."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from basic import files

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# A tensor takes about 100 bytes of it; a million of them would take minutes.
_MOST_HEADER = 2**23
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16,
    "BF16": jnp.bfloat16, "I64": np.int64, "I32": np.int32,
}


def tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a .safetensors file, or the shards that a folder's index lists.

  Args:
    path: the file, or a folder with `model.safetensors` or its index.

  Returns:
    Arrays by name, in the dtypes of the file.

  Raises:
    FileNotFoundError: if the file does not exist.
    ValueError: for a pickle, a damaged file, or an unsupported dtype.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f"there is nothing at {path}")
  check_kind(path)
  if path.is_file():
    return _one(path)
  index = path / "model.safetensors.index.json"
  if index.exists():
    shards = sorted(_shards(index))
    # File names only: an index must not make us read outside its folder.
    parts = [_one(path / pathlib.PurePath(shard).name) for shard in shards]
    return {name: x for part in parts for name, x in part.items()}
  if (path / "model.safetensors").exists():
    return _one(path / "model.safetensors")
  for file in sorted(path.iterdir()):
    check_kind(file)
  raise FileNotFoundError(f"{path} holds no model.safetensors")


def check_kind(path: pathlib.Path) -> None:
  """Raises ValueError for a pickle, with the reason and an alternative."""
  if path.suffix in _PICKLES and path.is_file():
    raise ValueError(
        f"{path.name} is a pickle, and reading one can run any code that its "
        "author put in: convert it once where torch is, and where you trust "
        "it, by safetensors.torch.save_file(torch.load(path, "
        "weights_only=True), 'model.safetensors'), and give that file"
    )


def save(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a .safetensors file atomically."""
  files.replace(path, safetensors.numpy.save(dict(arrays), {"format": "pt"}))


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a JSON object; a ValueError names the file that is broken."""
  path = pathlib.Path(path)
  try:
    found = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is not JSON: {error}") from error
  if not isinstance(found, dict):
    raise ValueError(
        f"{path} holds {type(found).__name__}, expected a JSON object"
    )
  return found


def write_json(path: str | os.PathLike, value: Mapping[str, Any]) -> None:
  """Writes a JSON file atomically."""
  files.replace(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def _shards(index: pathlib.Path) -> set[str]:
  names = read_json(index).get("weight_map")
  if not isinstance(names, dict) or not all(
      isinstance(name, str) for name in names.values()
  ):
    raise ValueError(
        f"{index} has no weight_map from tensors to files; it is no index of "
        "safetensors shards"
    )
  return set(names.values())


def _one(path: pathlib.Path) -> dict[str, np.ndarray]:
  if not path.is_file():
    raise FileNotFoundError(f"there is no file at {path}")
  with path.open("rb") as file:
    header = int.from_bytes(file.read(8), "little")
  if header > _MOST_HEADER:
    raise ValueError(
        f"{path} is no whole safetensors file: its header would be of {header} "
        "bytes, and those of the largest towers are a hundred times smaller"
    )
  try:
    entries = safetensors.deserialize(path.read_bytes())
  except safetensors.SafetensorError as error:
    raise ValueError(f"{path} is no whole safetensors file: {error}") from error
  found = {}
  for name, entry in entries:
    if entry["dtype"] not in _TYPES:
      raise ValueError(
          f"{path}: {name} is of type {entry['dtype']}, expected one of "
          f"{', '.join(_TYPES)}"
      )
    flat = np.frombuffer(entry["data"], _TYPES[entry["dtype"]])
    found[name] = flat.reshape(entry["shape"])
  return found

"""Files of a command's output folder, local or remote, each written whole."""

import io
import os
from collections.abc import Mapping
from typing import Any

import fsspec
import numpy as np

from basic import files


def write(path: str, content: bytes) -> None:
  """Writes a file atomically; object stores (gs://, s3://) do so by themselves."""
  if "://" in path:
    system, inner = fsspec.core.url_to_fs(path)
    system.makedirs(system._parent(inner), exist_ok=True)
    system.pipe_file(inner, content)
  else:
    files.replace(path, content)


def read(path: str) -> bytes:
  """The content of a file; raises FileNotFoundError if there is none."""
  system, inner = fsspec.core.url_to_fs(path)
  return system.cat_file(inner)


def names(folder: str) -> set[str]:
  """Names of the files in a folder; none if it does not exist."""
  system, inner = fsspec.core.url_to_fs(folder)
  if not system.exists(inner):
    return set()
  found = {os.path.basename(path) for path in system.ls(inner, detail=False)}
  return {name for name in found if not name.startswith(".")}


def write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes named arrays as one .npz file."""
  content = io.BytesIO()
  np.savez(content, allow_pickle=False, **arrays)
  write(path, content.getvalue())


def read_arrays(path: str) -> dict[str, np.ndarray]:
  """Reads named arrays.

  Raises:
    ValueError: if the file is damaged.
  """
  try:
    with np.load(io.BytesIO(read(path)), allow_pickle=False) as arrays:
      return dict(arrays)  # zip checks the CRC of each member
  except FileNotFoundError:
    raise
  except Exception as error:
    raise ValueError(
        f"{path} is damaged ({error}); delete it and start the command again, "
        "which makes it anew."
    ) from error


def array_bytes(array: Any) -> bytes:
  """An array as the content of a .npy file."""
  content = io.BytesIO()
  np.save(content, np.asarray(array), allow_pickle=False)
  return content.getvalue()


def read_array(path: str) -> np.ndarray:
  """Reads the array of a .npy file."""
  return np.load(io.BytesIO(read(path)), allow_pickle=False)

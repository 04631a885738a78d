"""Reads .npz files without trusting the sizes that they declare."""

import math
import pathlib
import struct
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np

from basic.weights import _files

_NUMBERS = "fiub"  # kinds of NumPy dtypes
# Weights hardly compress, but DEFLATE allows a ratio of a thousand.
_MOST_RATIO, _SMALL = 20, 2**24
_DAMAGED = (
    ValueError, EOFError, OSError, NotImplementedError, RuntimeError,
    struct.error, zipfile.BadZipFile, zlib.error,
)


def arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the arrays of a .npz by name, without unpickling.

  Raises:
    FileNotFoundError: if the file does not exist.
    ValueError: if it is not a .npz, is damaged, contains anything but numbers, or
      declares more data than it can contain.
  """
  if not path.is_file():
    raise FileNotFoundError(f"there is no file at {path}")
  _files.check_kind(path)
  try:
    with zipfile.ZipFile(path) as file:
      members = file.infolist()
      unpacked = sum(member.file_size for member in members)
      if unpacked > max(_SMALL, _MOST_RATIO * path.stat().st_size):
        raise ValueError(
            f"it would unpack to {unpacked} bytes from {path.stat().st_size}"
        )
      return {
          member.filename.removesuffix(".npy"): _array(file, member)
          for member in members
      }
  except _DAMAGED as error:
    raise ValueError(
        f"{path} is no .npz of plain arrays: {error}. Arrays of objects are "
        "pickles, which can run code; save numbers alone"
    ) from error


def _array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
  """One array, after its header has been checked against its size."""
  name = member.filename
  with file.open(member) as opened:
    version = np.lib.format.read_magic(opened)
    if version == (1, 0):
      header = np.lib.format.read_array_header_1_0(opened)
    elif version == (2, 0):
      header = np.lib.format.read_array_header_2_0(opened)
    else:
      raise ValueError(f"{name} is of version {version}")
    shape, columns, dtype = header
    # NumPy stores bfloat16 as an opaque type of two bytes.
    kept = np.dtype(jnp.bfloat16) if dtype == np.dtype("V2") else dtype
    if dtype.kind not in _NUMBERS and kept is dtype:
      raise ValueError(f"{name} holds {dtype}, expected numbers")
    size = math.prod(shape) * dtype.itemsize
    if size != member.file_size - opened.tell():
      raise ValueError(f"{name} says it is {list(shape)} and is not")
    flat = np.frombuffer(opened.read(), kept)
  return flat.reshape(shape[::-1]).T if columns else flat.reshape(shape)

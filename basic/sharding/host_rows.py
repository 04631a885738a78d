"""Fields of a batch that stay in host memory until their chunk is encoded.

Row i of b is in chunk i mod k. So that chunk c is one slice, the rows are viewed
as words [b/k k words], which needs no copy. XLA turns a slice of an array in
host memory that is then moved to the device into a transfer of that slice:

    chunk c  =  words[:, c]  ->  the device  ->  rows [b/k ...]

Nothing but slicing happens on the host. Rows are 32-bit words because XLA pads
the layout of images on the device, whose last axis is short, to several times
their size, and tiles arrays of 8 bits in a layout that cannot be sliced by row.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from basic.sharding import row_sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HostRows:
  """A field [b ...] of a batch, of which one chunk at a time is on the device.

  Attributes:
    words: uint32 [b/k k words], or uint8 if 4 does not divide the bytes of a
      row; or the shape or the sharding of these.
    row: shape of one row.
    dtype: of the values.
  """

  words: Any
  row: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  dtype: np.dtype = dataclasses.field(metadata={"static": True})

  @property
  def chunks(self) -> int:
    """The number of chunks, k."""
    return self.words.shape[1]

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the field: [b ...]."""
    return (self.words.shape[0] * self.words.shape[1], *self.row)

  def chunk(self, number: Int[Array, ""]) -> Shaped[Array, "rows ..."]:
    """Brings rows number::k to the device.

    Args:
      number: index of the chunk, 0 to k - 1; from `numbers`.

    Returns:
      Those rows [b/k ...].
    """
    words = jax.lax.dynamic_index_in_dim(self.words, number, 1, keepdims=False)
    words = jax.device_put(words, jax.memory.Space.Device)
    wide = self.dtype.itemsize // words.dtype.itemsize
    if wide > 1:  # Several words per value.
      words = words.reshape(len(words), -1, wide)
    values = jax.lax.bitcast_convert_type(words, self.dtype)
    return row_sharding.keep_rows(values.reshape(len(words), *self.row))


def numbers(count: int) -> Int[Array, "count"]:
  """Indices of chunks, 0 to count - 1, which XLA cannot simplify.

  In the loop of a backward pass, iteration i reads the slice at count - 1 - i.
  XLA for GPUs in 2026 read a slice of host memory at i instead:
  https://github.com/openxla/xla/pull/46231. Behind the barrier it cannot derive
  the index from i, and reads the slice that it is told.
  """
  return jax.lax.optimization_barrier(jnp.arange(count))


def fold(rows: np.ndarray, chunks: int) -> HostRows:
  """Views rows [b ...] in host memory as words, without a copy.

  Args:
    rows: numeric; b is a multiple of `chunks`.
    chunks: k.
  """
  folded = like(rows, chunks)
  values = np.ascontiguousarray(rows, folded.dtype).reshape(-1)
  words = values.view(folded.words.dtype).reshape(folded.words.shape)
  return dataclasses.replace(folded, words=words)


def like(rows: Any, chunks: int) -> HostRows:
  """The shapes of `fold`; `rows` needs a shape and a dtype only."""
  b, *row = rows.shape
  # float64 becomes float32 unless x64 is on, as in any transfer.
  dtype = jax.dtypes.canonicalize_dtype(rows.dtype)
  size = int(np.prod(row)) * dtype.itemsize
  word = np.dtype(np.uint8 if size % 4 else np.uint32)
  words = jax.ShapeDtypeStruct(
      (b // chunks, chunks, size // word.itemsize), word
  )
  return HostRows(words, tuple(row), dtype)

"""Rows of a batch that wait in the host's memory for the chunk they are in.

Row i of b is in chunk i mod k. So that chunk c is one slice, the rows lie as
words [b/k k words], which costs no copy, and a compiler turns a slice of an
array of the host that is then moved into a transfer of that slice:

    chunk c  =  words[:, c]  ->  the device  ->  rows [b/k ...]

Nothing but slicing happens on the host. Rows are words of 32 bits because
compilers give images, whose last axis is short, a layout on the device that
takes several times their bytes, and arrays of 8 bits one that no slice has.
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
  """A leaf [b ...] of a batch, of which one chunk at a time is on the device.

  Attributes:
    words: uint32 [b/k k words], uint8 where 4 does not divide a row's bytes;
      or its shape, or its sharding.
    row: shape of one row.
    dtype: of its values.
  """

  words: Any
  row: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  dtype: np.dtype = dataclasses.field(metadata={"static": True})

  @property
  def chunks(self) -> int:
    """How many there are: k."""
    return self.words.shape[1]

  @property
  def shape(self) -> tuple[int, ...]:
    """That of all rows: [b ...]."""
    return (self.words.shape[0] * self.words.shape[1], *self.row)

  def chunk(self, number: Int[Array, ""]) -> Shaped[Array, "rows ..."]:
    """Brings rows number::k to the device.

    Args:
      number: 0 to k - 1; from `numbers`.

    Returns:
      Those rows [b/k ...], of the dtype that they have.
    """
    words = jax.lax.dynamic_index_in_dim(self.words, number, 1, keepdims=False)
    words = jax.device_put(words, jax.memory.Space.Device)
    wide = self.dtype.itemsize // words.dtype.itemsize
    if wide > 1:  # Several words a value.
      words = words.reshape(len(words), -1, wide)
    values = jax.lax.bitcast_convert_type(words, self.dtype)
    return row_sharding.keep_rows(values.reshape(len(words), *self.row))


def numbers(count: int) -> Int[Array, "count"]:
  """Numbers of chunks, 0 to count - 1, in a way that no compiler looks through.

  A slice whose place is count - 1 - i of round i, as in a backward pass, was
  read at i instead by compilers for GPUs of 2026, where it is of the host's
  memory: https://github.com/openxla/xla/pull/46231. What they cannot compute
  from i they read as it is.
  """
  return jax.lax.optimization_barrier(jnp.arange(count))


def fold(rows: np.ndarray, chunks: int) -> HostRows:
  """Rows [b ...] of the host as words; views them where they lie as such.

  Args:
    rows: numbers; b is a multiple of `chunks`.
    chunks: k, into how many they are cut.
  """
  folded = like(rows, chunks)
  values = np.ascontiguousarray(rows, folded.dtype).reshape(-1)
  words = values.view(folded.words.dtype).reshape(folded.words.shape)
  return dataclasses.replace(folded, words=words)


def like(rows: Any, chunks: int) -> HostRows:
  """What `fold` makes of rows, as a shape; takes all that has one."""
  b, *row = rows.shape
  # Wider types than the device has are narrowed, as on the way there.
  dtype = jax.dtypes.canonicalize_dtype(rows.dtype)
  size = int(np.prod(row)) * dtype.itemsize
  word = np.dtype(np.uint8 if size % 4 else np.uint32)
  words = jax.ShapeDtypeStruct(
      (b // chunks, chunks, size // word.itemsize), word
  )
  return HostRows(words, tuple(row), dtype)

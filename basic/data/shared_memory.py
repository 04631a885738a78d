"""Shared memory of batches, used again once nobody has the batch.

Each page of fresh memory costs a fault in every process that touches it, and work to
free it: a quarter of the time that a 224-pixel picture takes. So memory stays mapped
in all processes, and is lent to one batch after another:

    this process                              a worker
    root array, new for each batch   memory   root array, by the memory's number
    fields, which are views of it    <----    fields, written row by row

A view keeps its root alive, and so does all that uses its bytes without a copy, such
as an array of JAX on a CPU. Once the root is gone nobody in this process can see the
memory, and the next batch is written there. (A process that is forked from this one
sees what is written later; give it copies.)

The memory has no name: the kernel frees it with its last user, however that ends.
"""

import math
import mmap
import os
import socket
import tempfile
import weakref
from collections import deque
from collections.abc import Mapping
from multiprocessing import connection
from typing import NamedTuple

import numpy as np

from basic.data import batches

_ALIGNED = 64  # bytes; JAX can use such arrays without a copy


class Lent(NamedTuple):
  """Memory for one batch.

  Attributes:
    number: by which workers know it; None: it is used once.
    arrays: the fields of numbers; it is lent until all views of them are gone.
    descriptor: of a file to be sent to the workers, then closed; None: they
      have the memory.
  """

  number: int | None
  arrays: batches.Arrays
  descriptor: int | None


class Memories:
  """The memory of the batches of a stream, which all need the same.

  Args:
    kept: how many are used again. If more are lent at once, the others are used
      once.
  """

  def __init__(self, kept: int):
    self._kept, self._made, self._closed = kept, 0, False
    self._free: deque[tuple[int, mmap.mmap]] = deque()

  def lend(self, like: Mapping[str, batches.Kind], rows: int) -> Lent:
    """Memory that nobody else can see, preferably used before.

    Args:
      like: kinds of the fields of a row; those of text need no memory.
      rows: of a batch.
    """
    if self._free:
      number, memory = self._free.pop()  # The last used: caches may have it.
      return Lent(number, self._arrays(number, memory, like, rows), None)
    descriptor = _memory(_layout(like, rows)[1])
    number = self._made if self._made < self._kept else None
    self._made += 1
    memory = mmap.mmap(descriptor, 0)
    return Lent(number, self._arrays(number, memory, like, rows), descriptor)

  def _arrays(self, number, memory, like, rows) -> batches.Arrays:
    # The mapping itself is no root, since it must outlive the batch.
    root = np.frombuffer(memory, np.uint8)
    if number is not None:
      weakref.finalize(root, self._return, number, memory).atexit = False
    return _views(root, _layout(like, rows)[0])

  def _return(self, number: int, memory: mmap.mmap) -> None:
    """Called when a root is gone, in whichever thread had the last view."""
    if not self._closed:
      self._free.append((number, memory))

  def close(self) -> None:
    """Frees what is not lent; the rest is freed when nobody has a view of it."""
    self._closed = True
    self._free.clear()


class Mapped:
  """The memory of batches in a worker.

  Args:
    channel: through which the descriptors of memory come.
  """

  def __init__(self, channel: connection.Connection):
    self._channel = channel
    self._roots: dict[int | None, np.ndarray] = {}

  def arrays(
      self, number: int | None, like: Mapping[str, batches.Kind], rows: int
  ) -> batches.Arrays:
    """The fields of numbers in some memory, which comes before its first use."""
    root = self._roots.get(number)
    if root is None:
      descriptor = _receive(self._channel)
      root = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)
      os.close(descriptor)
      if number is not None:
        self._roots[number] = root
    return _views(root, _layout(like, rows)[0])


class _Span(NamedTuple):
  """Where an array lies in memory."""

  start: int
  shape: tuple[int, ...]
  dtype: np.dtype


def _layout(
    like: Mapping[str, batches.Kind], rows: int
) -> tuple[dict[str, _Span], int]:
  """(where each field of numbers lies, size of the memory in bytes)."""
  found, end = {}, 0
  for name, (shape, dtype) in like.items():
    if not isinstance(dtype, str):
      found[name] = _Span(end, (rows, *shape), dtype)
      size = math.prod((rows, *shape)) * dtype.itemsize
      end = -(-(end + size) // _ALIGNED) * _ALIGNED
  return found, max(end, 1)


def _views(root: np.ndarray, found: Mapping[str, _Span]) -> batches.Arrays:
  """The arrays in some memory, each of which keeps its root alive."""
  return {
      name: np.ndarray(span.shape, span.dtype, root, span.start)
      for name, span in found.items()
  }


def send(channel: connection.Connection, descriptor: int) -> None:
  """Passes a file descriptor to the process at the other end."""
  with socket.socket(fileno=os.dup(channel.fileno())) as link:
    socket.send_fds(link, [b"m"], [descriptor])


def _receive(channel: connection.Connection) -> int:
  with socket.socket(fileno=os.dup(channel.fileno())) as link:
    _, descriptors, _, _ = socket.recv_fds(link, 1, 1)
  if not descriptors:
    raise EOFError
  return descriptors[0]


def _memory(size: int) -> int:
  """A file descriptor of memory without a name, of a size in bytes."""
  if hasattr(os, "memfd_create"):
    descriptor = os.memfd_create("batch")
  else:  # macOS
    with tempfile.TemporaryFile() as file:
      descriptor = os.dup(file.fileno())
  os.ftruncate(descriptor, size)
  return descriptor

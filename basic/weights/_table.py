"""Converts names and layouts of tensors in both directions, by a table.

A row maps a tensor of the other format, with its shape, to a parameter of this
library in another layout. "{l}" in a name is the index of a layer; these tensors
are one parameter here, stacked along a leading axis. Letters of shapes:

    d width of a token    m hidden width of the MLP    e width of an embedding
    v vocabulary          t text length                n image positions
    c channels            p side of a patch            l layers
    k heads               h width of a head
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from basic.weights import _format

Sizes = Mapping[str, int]


class Row(NamedTuple):
  """One parameter in both formats.

  Attributes:
    theirs: name of the tensor, which may contain "{l}".
    shape: of the tensor, in letters or numbers: "d c p p".
    ours: path of the parameter.
    layout: a key of `LAYOUTS`.
    start: the first value of "{l}".
  """

  theirs: str
  shape: str
  ours: str
  layout: str = "same"
  start: int = 0


class Table(NamedTuple):
  """The rows of one tower, and its sizes."""

  rows: tuple[Row, ...]
  sizes: Sizes


def _split_heads(x, sizes):
  return x.reshape(*x.shape[:-1], sizes["k"], x.shape[-1] // sizes["k"])


def _join_heads(x, sizes):
  del sizes
  return x.reshape(*x.shape[:-2], -1)


# layout -> (theirs to ours, ours to theirs)
LAYOUTS = {
    "same": (lambda x, s: x, lambda x, s: x),
    "linear": (lambda x, s: x.T, lambda x, s: x.T),
    "heads": (
        lambda x, s: _split_heads(x.T, s), lambda x, s: _join_heads(x, s).T
    ),
    "head_bias": (_split_heads, _join_heads),
    "joined": (
        lambda x, s: x.T.reshape(s["k"], -1, x.shape[0]),
        lambda x, s: x.reshape(-1, x.shape[-1]).T,
    ),
    "patches": (
        lambda x, s: x.transpose(2, 3, 1, 0),
        lambda x, s: x.transpose(3, 2, 0, 1),
    ),
    "one_pixel": (
        lambda x, s: x.reshape(x.shape[:2]).T,
        lambda x, s: x.T.reshape(*x.shape[::-1], 1, 1),
    ),
    "flat_patches": (
        lambda x, s: x.reshape(-1, s["p"], s["p"], s["c"])
        .transpose(1, 2, 3, 0),
        lambda x, s: x.transpose(3, 0, 1, 2).reshape(x.shape[-1], -1),
    ),
    "number": (lambda x, s: x.reshape(()), lambda x, s: x),
    "vector": (
        lambda x, s: x.reshape(-1), lambda x, s: x.reshape(1, 1, -1)
    ),
}


def read(
    tables: tuple[Table, ...], tensors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Converts tensors to parameters by path, float32.

  Raises:
    ValueError: with the list of tensors that are missing, unexpected, or of
      another shape.
  """
  _check_sizes(tables, len(tensors))
  faults, found, used = [], {}, set()
  for row, sizes in _all(tables):
    names = _names(row, sizes)
    used.update(names)
    parts = []
    for name in names:
      fault = _fault(name, tensors, _shape(row, sizes), row.layout)
      if fault:
        faults.append(fault)
      else:
        tensor = np.asarray(tensors[name], np.float32)
        parts.append(LAYOUTS[row.layout][0](tensor, sizes))
    if len(parts) == len(names):
      found[row.ours] = np.stack(parts) if "{l}" in row.theirs else parts[0]
  faults += [
      f"left over: {name} {list(tensors[name].shape)}"
      for name in sorted(tensors.keys() - used)
  ]
  _format.refuse("these tensors do not fit what the file says it is", faults)
  return found


def write(
    tables: tuple[Table, ...], params: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Converts parameters by path to tensors, float32.

  Raises:
    ValueError: with the list of parameters that are missing, unexpected, or of
      another shape.
  """
  faults = [
      f"left over: {path} {list(params[path].shape)}"
      for path in sorted(params.keys() - {row.ours for row, _ in _all(tables)})
  ]
  made = {}
  for row, sizes in _all(tables):
    if row.ours not in params:
      faults.append(f"missing: {row.ours}")
      continue
    leaf = np.asarray(params[row.ours], np.float32)
    names = _names(row, sizes)
    parts = leaf if "{l}" in row.theirs else [leaf]
    if len(parts) != len(names):
      faults.append(f"{row.ours} has {len(parts)} layers, not {len(names)}")
      continue
    for name, part in zip(names, parts, strict=True):
      tensor = LAYOUTS[row.layout][1](part, sizes)
      if row.layout == "number" and tensor.size == 1:
        tensor = tensor.reshape(_shape(row, sizes))
      made[name] = np.array(tensor, order="C")
      if tensor.shape != _shape(row, sizes):
        faults.append(
            f"{row.ours} {list(leaf.shape)} makes {name} of "
            f"{list(tensor.shape)}, not {list(_shape(row, sizes))}"
        )
  _format.refuse("these parameters do not fit the format", faults)
  return made


def split(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """Splits fused projections: torch's `in_proj_weight` is q, k and v."""
  found = {}
  for name, tensor in tensors.items():
    head, dot, last = name.rpartition(".")
    if last in ("in_proj_weight", "in_proj_bias") and len(tensor) % 3 == 0:
      for part, piece in zip("qkv", np.split(tensor, 3), strict=True):
        found[f"{head}{dot}{part}_{last}"] = piece
    else:
      found[name] = tensor
  return found


def fuse(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `split`."""
  made = {}
  for name, tensor in tensors.items():
    head, dot, last = name.rpartition(".")
    if last[1:] not in ("_in_proj_weight", "_in_proj_bias"):
      made[name] = tensor
    elif last[0] == "q":
      parts = (tensors[f"{head}{dot}{part}{last[1:]}"] for part in "qkv")
      made[f"{head}{dot}{last[2:]}"] = np.concatenate(list(parts))
  return made


def _all(tables: tuple[Table, ...]) -> list[tuple[Row, Sizes]]:
  return [(row, table.sizes) for table in tables for row in table.rows]


def _check_sizes(tables: tuple[Table, ...], count: int) -> None:
  """Raises ValueError for sizes that `count` tensors cannot have."""
  letters = [(table.sizes.get("l", 0), table.sizes) for table in tables]
  _format.refuse("these tensors do not fit what the file says it is", [
      f"{layers} layers are said to be in {count} tensors"
      for layers, _ in letters if layers > count
  ] + [
      f"{sizes['k']} heads do not divide a width of {sizes['d']}"
      for _, sizes in letters
      if "k" in sizes and (sizes["k"] < 1 or sizes["d"] % sizes["k"])
  ])


def _names(row: Row, sizes: Sizes) -> list[str]:
  if "{l}" not in row.theirs:
    return [row.theirs]
  numbers = range(row.start, row.start + sizes["l"])
  return [row.theirs.replace("{l}", str(n)) for n in numbers]


def _shape(row: Row, sizes: Sizes) -> tuple[int, ...]:
  return tuple(
      int(part) if part.isdigit() else sizes[part] for part in row.shape.split()
  )


def _fault(name, tensors, shape, layout) -> str | None:
  if name not in tensors:
    return f"missing: {name} {list(shape)}"
  if layout == "number" and tensors[name].size == 1:
    return None  # Some libraries write scalars as [1], others as [].
  if tuple(tensors[name].shape) != shape:
    return f"{name} is {list(tensors[name].shape)}, expected {list(shape)}"
  return None

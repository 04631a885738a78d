"""Placement: the mesh, and from parameter paths to shardings.

There are three mesh axes, and `RULES` maps the logical axes of arrays to them:

    data    rows of the batch; parameters are replicated along it
    fsdp    rows of the batch; parameters are split along their `embed` axis
    model   parameters are split along `mlp`, `heads` and `vocab`

Memory of an objective that has rows, such as a queue, is split along `rows` as
a batch is: over `data` and `fsdp`.
"""

import collections
import contextlib
import dataclasses
import logging
import math
import operator
import re
import types as python_types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from basic import paths, types
from basic.sharding import host_rows, row_sharding

AXES = ("data", "fsdp", "model")
ROWS = row_sharding.ROWS
# JAX's memory kind for host memory that a device can read by itself.
HOST = "pinned_host"
# Logical axis of an array -> the mesh axes that it is split over. All others
# are not split.
RULES: Mapping[str, tuple[str, ...]] = {
    "embed": ("fsdp",), "mlp": ("model",), "heads": ("model",),
    "vocab": ("model",), "rows": ROWS,
}


def join() -> None:
  """Joins the processes of a cluster that JAX recognises; call it first.

  Slurm, Open MPI, Kubernetes and TPU pods are recognised by their environment,
  anything else by JAX_COORDINATOR_ADDRESS and its companions.
  """
  jax.distributed.initialize()


def mesh(
    devices: Sequence[Any] | None = None,
    *,
    data: int = -1,
    fsdp: int = 1,
    model: int = 1,
) -> Mesh:
  """Arranges the devices of all processes in a mesh.

  Devices with fast links between them are neighbours along `model`, then along
  `fsdp`; slices, with a slower network between them, are along `data`.

  Args:
    devices: other devices, such as those of a topology that is not present;
      None: all.
    data: devices along `data`; -1: as many as remain.
    fsdp: devices along `fsdp`; -1 likewise.
    model: devices along `model`; -1 likewise.

  Returns:
    A mesh with the axes data, fsdp, model.

  Raises:
    ValueError: if the sizes do not multiply to the number of devices, or if
      there are several slices of TPUs and `data` is not a multiple of them.
  """
  sizes = {"data": data, "fsdp": fsdp, "model": model}
  devices = jax.devices() if devices is None else devices
  shape = _complete(sizes, len(devices))
  return Mesh(
      _arranged(tuple(shape.values()), devices), AXES,
      axis_types=(AxisType.Auto,) * len(AXES),
  )


def _arranged(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
  """The devices in the shape of a mesh whose first axis is `data`."""
  # A mesh axis may be part of a physical axis: fsdp=8 on a torus of 16 x 16.
  split = {"allow_split_physical_axes": True}
  sizes = collections.Counter(getattr(d, "slice_index", 0) for d in devices)
  slices, even = len(sizes), len(set(sizes.values())) == 1
  if slices == 1:
    return mesh_utils.create_device_mesh(shape, devices, **split)
  data, *within = shape
  if even and data % slices == 0:
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *within), (slices, *(1 for _ in within)), devices,
        **split,
    )
  if devices[0].platform == "tpu":
    raise ValueError(
        f"data is {data}, and the {len(devices)} TPUs lie in {slices} slices of "
        f"{sorted(sizes.values())}; only the axis data can cross slices. Use "
        f"slices of one size, and make data a multiple of {slices}."
    )
  # On GPUs any mesh axis can cross hosts, and hosts can differ in size.
  return np.asarray(sorted(devices, key=operator.attrgetter("id"))).reshape(shape)


def _complete(sizes: Mapping[str, int], devices: int) -> dict[str, int]:
  """Replaces the -1 of a mesh by the number of devices that remain."""
  open_axes = [name for name, size in sizes.items() if size == -1]
  if len(open_axes) > 1:
    raise ValueError(f"mesh {dict(sizes)} has more than one -1: {open_axes}.")
  if any(size < 1 and size != -1 for size in sizes.values()):
    raise ValueError(f"mesh {dict(sizes)} takes sizes of 1 or more, or one -1.")
  taken = int(np.prod([size for size in sizes.values() if size != -1]))
  shape = {n: devices // taken if s == -1 else s for n, s in sizes.items()}
  if int(np.prod(list(shape.values()))) != devices:
    raise ValueError(
        f"mesh {dict(sizes)} does not fit {devices} devices; its sizes must "
        f"multiply to {devices}, and one of them may be -1."
    )
  return shape


def fitting(sizes: Mapping[str, int], devices: int) -> dict[str, int]:
  """The sizes of a mesh, made smaller where there are fewer devices.

  For whoever reads parameters on another machine than that which wrote them.

  Args:
    sizes: arguments of `mesh`.
    devices: number of devices here.

  Returns:
    Sizes that `mesh` accepts: `model` and `fsdp` are divisors of what they were,
    and `data` takes the remaining devices.

  Example:
    >>> fitting({"data": -1, "fsdp": 16, "model": 4}, 8)
    {'data': -1, 'fsdp': 2, 'model': 4}
  """
  model = math.gcd(sizes["model"], devices) if sizes["model"] > 0 else devices
  rest = devices // model
  fsdp = math.gcd(sizes["fsdp"], rest) if sizes["fsdp"] > 0 else rest
  return {"data": -1, "fsdp": fsdp, "model": model}


class Layout(NamedTuple):
  """A mesh and an axis table: the sharding of every array of a run.

  Attributes:
    mesh: with the axes of `AXES`.
    axes: logical axes by path, from `engine.model.axes`.
    waiting: field of a training batch that stays in host memory until its
      chunk is encoded -> number of chunks.
  """

  mesh: Mesh
  axes: types.AxisTable = ()
  waiting: Mapping[str, int] = python_types.MappingProxyType({})

  @property
  def rows(self) -> NamedSharding:
    """The sharding of a batch: split along the leading axis."""
    return NamedSharding(self.mesh, PartitionSpec(ROWS))

  @property
  def everywhere(self) -> NamedSharding:
    """The sharding of replicated arrays."""
    return NamedSharding(self.mesh, PartitionSpec())

  def rows_on_host(self) -> NamedSharding:
    """The sharding of fields in host memory: split as `rows`.

    Raises:
      ValueError: if the devices cannot read host memory.
    """
    try:
      return NamedSharding(self.mesh, PartitionSpec(ROWS), memory_kind=HOST)
    except ValueError as error:
      raise ValueError(
          f"inputs='host' needs devices that can read host memory of the kind "
          f"{HOST!r}: {error}. Use inputs='device'."
      ) from error

  def context(self) -> contextlib.AbstractContextManager:
    """Makes this mesh the one in context, which ops look up."""
    return jax.set_mesh(self.mesh)

  def check_batch(self, batch_size: int, name: str = "batch_size") -> None:
    """Refuses a batch that the devices do not divide.

    Args:
      batch_size: rows of the global batch.
      name: of the setting, for the message.

    Raises:
      ValueError: if the devices of the mesh do not divide it.
    """
    # The objective splits the rows of embeddings over all mesh axes.
    if batch_size % self.mesh.size:
      raise ValueError(
          f"{name} is {batch_size}, which {self.mesh.size} devices do not "
          f"divide (mesh {dict(self.mesh.shape)}); use a multiple of "
          f"{self.mesh.size}."
      )

  def check_waiting(self, batch_size: int) -> None:
    """Refuses fields in host memory where that is not possible.

    Args:
      batch_size: rows of the global batch.

    Raises:
      ValueError: if the devices cannot read host memory, or do not divide the
        rows of every chunk.
    """
    if self.waiting:
      self.rows_on_host()
    devices = math.prod(self.mesh.shape[name] for name in ROWS)
    for field, chunks in self.waiting.items():
      if batch_size % (devices * chunks):
        raise ValueError(
            f"inputs='host' cuts {field!r} into {chunks} chunks on each of "
            f"{devices} devices, which do not divide a batch of {batch_size}; "
            f"use a multiple of {devices * chunks}, or fewer chunks."
        )

  def shard(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """This process's rows of a batch as global arrays.

    Args:
      batch: fields [b / processes ...] in NumPy.

    Returns:
      Fields [b ...], split over the mesh along the leading axis; those of
      `waiting`, as `HostRows`. Fields of strings are left out.
    """
    return {
        name: self._shard(name, field)
        for name, field in batch.items()
        if holds(field)
    }

  def _shard(self, name: str, field: np.ndarray) -> Any:
    put = jax.make_array_from_process_local_data
    if name not in self.waiting:
      return put(self.rows, field)
    folded = host_rows.fold(field, self.waiting[name])
    words = put(self.rows_on_host(), folded.words)
    return dataclasses.replace(folded, words=words)

  def sharded(self, shapes: types.Batch) -> dict[str, Any]:
    """Shapes, dtypes and shardings of the batch that `shard` returns.

    Args:
      shapes: ShapeDtypeStructs of a global batch.
    """
    waiting = {
        name: host_rows.like(shapes[name], chunks)
        for name, chunks in self.waiting.items() if name in shapes
    }
    return {
        name: jax.tree.map(
            lambda a, name=name: jax.ShapeDtypeStruct(
                a.shape, a.dtype,
                sharding=self.rows_on_host() if name in waiting else self.rows,
            ),
            waiting.get(name, shape),
        )
        for name, shape in shapes.items()
    }

  def spread(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch that every process has in full, as global arrays.

    Args:
      batch: fields [b ...], the same in every process.

    Returns:
      Fields [b ...], split over the mesh along the leading axis.
    """
    return {
        name: jax.make_array_from_callback(
            field.shape, self.rows, lambda index, field=field: field[index]
        )
        for name, field in batch.items()
    }

  def place(self, shapes: Any) -> Any:
    """Shardings of a tree: a train state, parameters, or part of them.

    An array whose path ends in that of a parameter is split like the parameter:
    gradients, moments, EMA parameters. Parameters and the objective's memory
    must match a row of the axis table, or have no axes; all other arrays that
    match none are replicated.

    Args:
      shapes: tree of arrays or ShapeDtypeStructs.

    Returns:
      The same tree of NamedShardings.

    Raises:
      ValueError: if a parameter, or an array in the memory of the objective,
        matches no row of the axis table, or a row with another number of axes.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(
            self.mesh, self._spec(paths.of_keys(path), leaf)
        ),
        shapes,
    )

  def _spec(self, path: str, array: Any) -> PartitionSpec:
    names = _names(self.axes, path)
    # Replicated without being asked for, a large array of either would fill
    # every device; of the optimizer state, what is large matches its parameter.
    strict = path.startswith("params/") or path.split("/")[0] == "memory"
    if names is None and not array.shape:
      return PartitionSpec()
    if names is None or len(names) != len(array.shape):
      if strict:
        raise ValueError(_without_axes(path, array.shape, names))
      return PartitionSpec()
    spec, undivided = _assign(self.mesh, names, array.shape)
    if strict:  # And not again for each of its moments.
      for name, size, devices in undivided:
        logging.warning(
            "%s: its axis %r of %d is not divided by the %d devices of %s, so "
            "it is replicated.", path, name, size, devices,
            " x ".join(map(repr, RULES[name])),
        )
    return spec


def _without_axes(
    path: str, shape: tuple[int, ...], names: tuple[str, ...] | None
) -> str:
  kind, owner = "parameter", "encoder"
  if path.startswith("params/objective/"):
    owner = "objective"
  elif not path.startswith("params/"):
    kind, owner = "memory", "objective"
  return (
      f"{kind} {path!r} of shape {tuple(shape)} matches "
      f"{'no row' if names is None else names} of its {owner}'s axis table "
      f"(types.{owner.capitalize()}.axes); add a row with one name for each of "
      "its axes."
  )


def holds(field: np.ndarray) -> bool:
  """Whether a device can hold a field of a batch: numbers, not strings."""
  return field.dtype.kind in "biuf"


def _names(table: types.AxisTable, path: str) -> tuple[str, ...] | None:
  for pattern, names in table:
    if re.fullmatch(f"(?:.*/)?(?:{pattern})", path):
      return names
  return None


def _assign(
    mesh: Mesh, names: tuple[str, ...], shape: tuple[int, ...]
) -> tuple[PartitionSpec, list[tuple[str, int, int]]]:
  """Splits an array by `RULES`, over each mesh axis at most once.

  Returns:
    The spec, and (name, size, devices) of the axes that the devices of their
    rule do not divide, which are not split.
  """
  spec: list[str | tuple[str, ...] | None] = []
  undivided, used = [], set()
  for name, size in zip(names, shape, strict=True):
    axes = tuple(
        axis for axis in RULES.get(name, ())
        if axis not in used and mesh.shape[axis] > 1
    )
    devices = math.prod(mesh.shape[axis] for axis in axes)
    if size % devices:
      undivided.append((name, size, devices))
      axes = ()
    used.update(axes)
    spec.append(axes if len(axes) > 1 else axes[0] if axes else None)
  return PartitionSpec(*spec), undivided

"""Where arrays live: the mesh, and from parameter paths to shardings.

Three mesh axes. Each carries what its name says, and nothing else is decided
anywhere else:

    data    rows of the batch; parameters are copied along it
    fsdp    rows of the batch; parameters are split along their `embed` axis
    model   parameters are split along `mlp`, `heads` and `vocab`
"""

import collections
import contextlib
import dataclasses
import logging
import math
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
# What JAX calls memory of the host that a device reads by itself.
HOST = "pinned_host"
RULES = {"embed": "fsdp", "mlp": "model", "heads": "model", "vocab": "model"}
# What an objective learns may be as large as a tower: a class is a word.
OBJECTIVE: types.AxisTable = (
    ("objective/kernel", ("embed", "vocab")),
    ("objective/bias", ("vocab",)),
)


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
  """Arranges the devices of all processes.

  Those that are near each other come to lie along `model`, then `fsdp`; slices
  with a slower network between them along `data`.

  Args:
    devices: others, such as those of a topology that is not here; None: all.
    data: devices along `data`; -1 takes what the others leave.
    fsdp: devices along `fsdp`; -1 likewise.
    model: devices along `model`; -1 likewise.

  Returns:
    A mesh with the axes data, fsdp, model.

  Raises:
    ValueError: if the sizes do not multiply to the number of devices, or TPUs
      lie in several slices and `data` is no multiple of them.
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
  # An axis may be part of a physical one: fsdp=8 on a torus of 16 x 16.
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
        f"{sorted(sizes.values())}, over which only data can go; use slices of "
        f"one size, and make it a multiple of {slices}."
    )
  # Networks of GPUs take any axis, and hosts of different sizes.
  return np.asarray(sorted(devices, key=lambda d: d.id)).reshape(shape)


def _complete(sizes: Mapping[str, int], devices: int) -> dict[str, int]:
  """Replaces the one -1 of a mesh by what is left of the devices."""
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


class Layout(NamedTuple):
  """A mesh and the axis table of a model: what goes where.

  Attributes:
    mesh: with the axes of `AXES`.
    axes: parameter path -> names of its axes.
    waiting: leaf of a training batch that waits on the host -> into how many
      chunks it is cut there.
  """

  mesh: Mesh
  axes: types.AxisTable = ()
  waiting: Mapping[str, int] = python_types.MappingProxyType({})

  @property
  def rows(self) -> NamedSharding:
    """Leaves of a batch: split along the leading axis."""
    return NamedSharding(self.mesh, PartitionSpec(ROWS))

  @property
  def everywhere(self) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(self.mesh, PartitionSpec())

  def rows_on_host(self) -> NamedSharding:
    """Leaves that wait: split as `rows`, each part beside its device.

    Raises:
      ValueError: if the devices read no memory of the host.
    """
    try:
      return NamedSharding(self.mesh, PartitionSpec(ROWS), memory_kind=HOST)
    except ValueError as error:
      raise ValueError(
          f"inputs='host' needs devices that read the memory {HOST!r} of "
          f"their host: {error}. Leave it at 'device'."
      ) from error

  def context(self) -> contextlib.AbstractContextManager:
    """Makes the mesh the one that ops see."""
    return jax.set_mesh(self.mesh)

  def check_batch(self, batch_size: int, name: str = "batch_size") -> None:
    """Refuses a batch that the devices cannot share evenly.

    Args:
      batch_size: rows of the global batch.
      name: of the setting, for the message.

    Raises:
      ValueError: if the devices of the mesh do not divide it.
    """
    # The objective spreads the rows of embeddings over every axis.
    if batch_size % self.mesh.size:
      raise ValueError(
          f"{name} is {batch_size}, which {self.mesh.size} devices do not "
          f"divide (mesh {dict(self.mesh.shape)}); use a multiple of "
          f"{self.mesh.size}."
      )

  def check_waiting(self, batch_size: int) -> None:
    """Refuses leaves that wait on the host where they cannot.

    Args:
      batch_size: rows of the global batch.

    Raises:
      ValueError: if the devices have no memory of the host, or do not share
        the rows of every chunk evenly.
    """
    if self.waiting:
      self.rows_on_host()
    devices = math.prod(self.mesh.shape[name] for name in ROWS)
    for leaf, chunks in self.waiting.items():
      if batch_size % (devices * chunks):
        raise ValueError(
            f"inputs='host' cuts {leaf!r} into {chunks} chunks on each of "
            f"{devices} devices, which do not divide a batch of {batch_size}; "
            f"use a multiple of {devices * chunks}, or fewer chunks."
        )

  def shard(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """This process's rows of a batch as global arrays.

    Args:
      batch: leaves [b / processes ...] on the host.

    Returns:
      Leaves [b ...], split over the mesh along the leading axis; those that
      wait, as `HostRows`. Text, which no device holds, stays behind.
    """
    return {
        name: self._shard(name, leaf)
        for name, leaf in batch.items()
        if holds(leaf)
    }

  def _shard(self, name: str, leaf: np.ndarray) -> Any:
    put = jax.make_array_from_process_local_data
    if name not in self.waiting:
      return put(self.rows, leaf)
    folded = host_rows.fold(leaf, self.waiting[name])
    words = put(self.rows_on_host(), folded.words)
    return dataclasses.replace(folded, words=words)

  def sharded(self, shapes: types.Batch) -> dict[str, Any]:
    """What `shard` makes of a batch, as placed shapes.

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
    """Rows that every process holds in full, as global arrays.

    Args:
      batch: leaves [b ...], the same in every process.

    Returns:
      Leaves [b ...], split over the mesh along the leading axis.
    """
    return {
        name: jax.make_array_from_callback(
            leaf.shape, self.rows, lambda index, leaf=leaf: leaf[index]
        )
        for name, leaf in batch.items()
    }

  def place(self, shapes: Any) -> Any:
    """Shardings of a tree: a train state, parameters, or part of them.

    A leaf whose path ends in the path of a parameter lives as that parameter
    does: gradients, moments, averages. Everything else is copied.

    Args:
      shapes: tree of arrays or ShapeDtypeStructs.

    Returns:
      The same tree of NamedShardings.

    Raises:
      ValueError: if a parameter of a tower matches no row of the axis table, or
        one with another number of axes.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(
            self.mesh, self._spec(paths.of_keys(path), leaf)
        ),
        shapes,
    )

  def _spec(self, path: str, leaf: Any) -> PartitionSpec:
    names = _names(self.axes, path)
    is_parameter = path.startswith("params/") and not path.startswith(
        "params/objective/"
    )
    if names is None or len(names) != len(leaf.shape):
      if is_parameter:
        raise ValueError(
            f"parameter {path!r} of shape {tuple(leaf.shape)} matches "
            f"{'no row' if names is None else names} of its encoder's axis "
            "table; add a row with one name for each of its axes."
        )
      return PartitionSpec()
    spec, undivided = _assign(self.mesh, names, leaf.shape)
    if path.startswith("params/"):  # And not again for each of its moments.
      for name, size in undivided:
        logging.warning(
            "%s: its axis %r of %d is not divided by the %d devices of %r, so "
            "it is copied.", path, name, size,
            self.mesh.shape[RULES[name]], RULES[name],
        )
    return spec


def holds(leaf: np.ndarray) -> bool:
  """Whether a device can hold a leaf of a batch: numbers, not text."""
  return leaf.dtype.kind in "biuf"


def _names(table: types.AxisTable, path: str) -> tuple[str, ...] | None:
  for pattern, names in table:
    if re.fullmatch(f"(?:.*/)?{pattern}", path):
      return names
  return None


def _assign(
    mesh: Mesh, names: tuple[str, ...], shape: tuple[int, ...]
) -> tuple[PartitionSpec, list[tuple[str, int]]]:
  """Each mesh axis at most once, and the axes that it does not divide."""
  spec: list[str | None] = []
  undivided = []
  for name, size in zip(names, shape, strict=True):
    axis = RULES.get(name)
    if axis is None or axis in spec or mesh.shape[axis] == 1:
      spec.append(None)
    elif size % mesh.shape[axis]:
      undivided.append((name, size))
      spec.append(None)
    else:
      spec.append(axis)
  return PartitionSpec(*spec), undivided

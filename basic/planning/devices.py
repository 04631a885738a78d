"""Devices to compile for: virtual CPU devices, or a TPU topology."""

import os
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies

from basic.sharding import layout

MOST = 4096  # More virtual devices take longer to create than to compile for.


def sizes(text: str | None, config: Mapping[str, Any]) -> dict[str, int]:
  """Number of devices along each axis of the mesh to plan for.

  Args:
    text: "data=64,model=4"; axes that are left out have one device. None: the
      mesh of the configuration, with 1 for -1.
    config: settings of the mesh.

  Raises:
    ValueError: if an axis does not exist or is given twice, a size is not a
      positive integer, or there are more devices than can be simulated.

  Example:
    >>> sizes("data=64,model=4", {})
    {'data': 64, 'fsdp': 1, 'model': 4}
  """
  given = _of_config(config) if text is None else _of_text(text)
  mesh = dict.fromkeys(layout.AXES, 1) | given
  devices = mesh["data"] * mesh["fsdp"] * mesh["model"]
  if devices > MOST:
    raise ValueError(
        f"the mesh {mesh} has {devices} devices, and at most {MOST} can be "
        "simulated; plan for fewer devices, with as many rows on each."
    )
  return mesh


def _of_text(text: str) -> dict[str, int]:
  mesh: dict[str, int] = {}
  for word in text.split(","):
    axis, _, size = word.strip().partition("=")
    # Nine digits are more devices than there are.
    is_count = size.isdecimal() and len(size) < 10 and int(size) > 0
    if axis not in layout.AXES or axis in mesh or not is_count:
      raise ValueError(
          f"--mesh has {word[:40]!r}; it takes each axis of "
          f"{list(layout.AXES)} at most once, with a number of devices, such as "
          "data=64,model=4."
      )
    mesh[axis] = int(size)
  return mesh


def _of_config(config: Mapping[str, Any]) -> dict[str, int]:
  for axis, size in config.items():
    is_count = type(size) is int and (size == -1 or size > 0)
    if axis not in layout.AXES or not is_count:
      raise ValueError(
          f"mesh.{axis} is {size!r}; a mesh has the axes {list(layout.AXES)}, "
          "each with a number of devices, or one of them with -1."
      )
  return {axis: max(size, 1) for axis, size in config.items()}


def virtual(mesh: Mapping[str, int]) -> dict[str, int]:
  """Gives JAX as many virtual CPU devices as a mesh has.

  To be called before JAX is first used.

  Args:
    mesh: number of devices along each axis.

  Returns:
    The mesh.
  """
  jax.config.update("jax_platforms", "cpu")
  jax.config.update(
      "jax_num_cpu_devices", mesh["data"] * mesh["fsdp"] * mesh["model"]
  )
  return dict(mesh)


def topology(name: str) -> list[Any]:
  """The TPUs of a slice, to compile for without having one.

  Args:
    name: such as "v5e:4x8" or "v4:2x2x2".

  Raises:
    ValueError: if the package libtpu is not installed or knows no such slice.
  """
  jax.config.update("jax_platforms", "cpu")  # For everything but compilation.
  # libtpu would wait for a metadata server, which only TPU machines have.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  try:
    return topologies.get_topology_desc(name, "tpu").devices
  except Exception as error:  # The type differs between releases of libtpu.
    raise ValueError(
        f"--topology {name!r} is not available: {error}. It takes a TPU slice "
        "such as v5e:4x8, and needs the package libtpu (pip install libtpu)."
    ) from error

"""Devices that are not here: virtual ones, or those of a TPU slice."""

import os
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies

from basic.sharding import layout

MOST = 4096  # Virtual ones: more take longer to make than to compile for.


def sizes(text: str | None, config: Mapping[str, Any]) -> dict[str, int]:
  """Devices along each axis of the mesh to plan for.

  Args:
    text: "data=64,model=4"; axes that it leaves out have one device. None: the
      mesh of the configuration, whose -1 is then 1.
    config: settings of the mesh.

  Raises:
    ValueError: if an axis does not exist, a size is no number from 1, or there
      are more devices than can be made up.

  Example:
    >>> sizes("data=64,model=4", {})
    {'data': 64, 'fsdp': 1, 'model': 4}
  """
  found = dict.fromkeys(layout.AXES, 1)
  if text is None:
    found |= {axis: max(size, 1) for axis, size in config.items()}
  else:
    for word in text.split(","):
      axis, _, size = word.strip().partition("=")
      if axis not in found or not size.isdecimal() or int(size) < 1:
        raise ValueError(
            f"--mesh has {word!r}; it takes an axis of {list(layout.AXES)} and "
            "a number of devices, such as data=64,model=4."
        )
      found[axis] = int(size)
  devices = found["data"] * found["fsdp"] * found["model"]
  if devices > MOST:
    raise ValueError(
        f"the mesh {found} has {devices} devices, and at most {MOST} "
        "can be made up; plan for fewer, with the same rows on each."
    )
  return found


def virtual(mesh: Mapping[str, int]) -> dict[str, int]:
  """Gives JAX as many CPU devices as a mesh has; before JAX is first used.

  Args:
    mesh: devices along each axis.

  Returns:
    The mesh.
  """
  jax.config.update("jax_platforms", "cpu")
  jax.config.update(
      "jax_num_cpu_devices", mesh["data"] * mesh["fsdp"] * mesh["model"]
  )
  return dict(mesh)


def topology(name: str) -> list[Any]:
  """The TPUs of a slice that is not here, to compile for.

  Args:
    name: such as "v5e:4x8" or "v4:2x2x2".

  Raises:
    ValueError: if the package libtpu is not installed or knows no such slice.
  """
  jax.config.update("jax_platforms", "cpu")  # For what is not compiled.
  # Without a TPU there is no server that knows of one; do not wait for it.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  try:
    return topologies.get_topology_desc(name, "tpu").devices
  except Exception as error:  # Each release of libtpu raises another kind.
    raise ValueError(
        f"--topology {name!r} cannot be made: {error}. It takes a slice such "
        "as v5e:4x8, and the package libtpu (pip install libtpu)."
    ) from error

"""Time of a step by the roofline model, from the peak rates of a chip.

References for `CHIPS`:
  NVIDIA A100 (80 GB SXM). https://www.nvidia.com/en-us/data-center/a100/
  NVIDIA H100 (SXM). https://www.nvidia.com/en-us/data-center/h100/
  NVIDIA H200 (SXM). https://www.nvidia.com/en-us/data-center/h200/
  Google TPU v4. https://docs.cloud.google.com/tpu/docs/v4
  Jouppi et al., TPU v4: An Optically Reconfigurable Supercomputer for Machine
  Learning, 2023, table 4 (interconnect). https://arxiv.org/abs/2304.01433
  Google TPU v5e. https://docs.cloud.google.com/tpu/docs/v5e
  Google TPU v5p. https://docs.cloud.google.com/tpu/docs/v5p
  Google TPU v6e. https://docs.cloud.google.com/tpu/docs/v6e
"""

import math
from typing import Any, NamedTuple

from basic.planning import collectives, fit, flops


class Chip(NamedTuple):
  """Peak rates of one device.

  Attributes:
    compute: FLOP/s of dense bfloat16 products that accumulate in float32.
    exact: FLOP/s of float32 products at the highest precision.
    bandwidth: bytes a second between the chip and its memory.
    memory: bytes of device memory.
    interconnect: bytes a second that it can send to its neighbours; 0: none.
    host: bytes a second that it can read from host memory.
  """

  compute: float
  exact: float
  bandwidth: float
  memory: int
  interconnect: float
  # 16 lanes of PCIe 4.0; hosts differ, and many vendors do not state it.
  host: float = 31.5e9


GIB = 2**30
_PASSES = 6  # A TPU computes one float32 product as six bfloat16 products.

# Vendors' figures for dense products; from the H100 on, NVIDIA publishes those
# with sparsity, twice as high. Interconnect is counted in one direction, half of
# what both vendors give for two; a v4 has six links of 50e9. The H100 and H200
# have PCIe 5.0, twice the default. A "GB" of memory is taken as 2**30 bytes, of
# which a driver keeps about 1%. For the v5e Google publishes both 819 GB/s and
# 800 GiB/s; this is the smaller.
CHIPS = {
    "A100": Chip(312e12, 19.5e12, 2.039e12, 80 * GIB, 300e9),
    "H100": Chip(989e12, 67e12, 3.35e12, 80 * GIB, 450e9, 63e9),
    "H200": Chip(989e12, 67e12, 4.8e12, 141 * GIB, 450e9, 63e9),
    "v4": Chip(275e12, 275e12 / _PASSES, 1.2e12, 32 * GIB, 300e9),
    "v5e": Chip(197e12, 197e12 / _PASSES, 0.819e12, 16 * GIB, 200e9),
    "v5p": Chip(459e12, 459e12 / _PASSES, 2.765e12, 95 * GIB, 600e9),
    "v6e": Chip(918e12, 918e12 / _PASSES, 1.638e12, 32 * GIB, 400e9),
}


def chip(text: str) -> Chip:
  """The peak rates of a chip: a preset, given numbers, or both.

  Args:
    text: one of `CHIPS`, then numbers that differ: "H100,interconnect=50e9".
      "TPU v4" and lower case are understood, and "memory=80GiB" too. Without a
      preset all numbers but `host` are required.

  Raises:
    ValueError: if there is no such preset or number, or a number is out of
      range or given twice; the message lists the choices.

  Example:
    >>> chip("TPU v5e").memory // GIB
    16
    >>> chip("H100,interconnect=50e9").interconnect
    50000000000.0
  """
  words = [word.strip() for word in text.split(",")]
  pairs = [word.split("=", 1) for word in words if "=" in word]
  given = dict(pairs)
  names = [word for word in words if "=" not in word]
  unknown = given.keys() - set(Chip._fields)
  if unknown or len(names) > 1 or len(given) < len(pairs):
    raise ValueError(
        f"chip is {text!r}; it takes one preset ({', '.join(CHIPS)}) and numbers "
        f"for {', '.join(Chip._fields)}, each once."
    )
  try:
    numbers: dict[str, Any] = {key: _number(key, value) for key, value in given.items()}
    return _preset(names[0])._replace(**numbers) if names else Chip(**numbers)
  except (TypeError, ValueError) as error:
    raise ValueError(
        f"chip is {text!r}: {error}. There are {', '.join(CHIPS)}; another "
        f"needs all of {', '.join(Chip._fields[:-1])}, as numbers."
    ) from None


def _number(key: str, text: str) -> float | int:
  if key == "memory" and text.strip()[-1:] in ("b", "B"):
    return fit.size(text)
  number = float(text)
  least = 0 if key == "interconnect" else 1
  if not least <= number < math.inf:
    raise ValueError(f"{key} is {text}, and takes a number from {least}")
  return int(number) if key == "memory" else number


def _preset(name: str) -> Chip:
  wanted = name.lower().removeprefix("tpu").strip(" -")
  for key, preset in CHIPS.items():
    if key.lower() == wanted:
      return preset
  raise ValueError(f"there is no preset {name!r}")


def seconds(
    work: flops.Work,
    traffic: collectives.Collectives,
    *,
    chip: Chip,
    devices: int,
    state: int,
    batch_size: int,
    brought: int = 0,
) -> dict[str, Any]:
  """Estimates the time of a step by the roofline model.

      compute        (flops - exact) / compute rate + exact / exact rate
      memory         (operands and results of products, the state) / bandwidth
      communication  bytes sent / interconnect
      host           bytes read from host memory / host
      step           the largest of these, as if they overlapped fully

  Only `compute` is a lower bound. `memory` counts every operand and result as
  if it went through device memory: tiles of a loss that stay in cache, and
  fused products, take less. `communication` is that of the compiler that was
  used; another's may be less. Elementwise operations, and what does not
  overlap, are not counted: a well-optimised step takes up to twice as long.

  Args:
    work: of the step on all devices, shared evenly.
    traffic: of the step on one device.
    chip: peak rates of a device.
    devices: number of devices.
    state: bytes that the optimizer reads and writes on one device.
    batch_size: examples in a step.
    brought: bytes that one device reads from host memory.

  Returns:
    Seconds for each resource and for the step; `bound`, the name of the slowest
    resource; and the resulting `examples_per_second`.

  Raises:
    ValueError: if devices communicate and the chip has no interconnect.
  """
  if traffic.bytes and not chip.interconnect:
    raise ValueError(
        f"interconnect is 0, and each of {devices} devices sends "
        f"{traffic.bytes:.3g} bytes a step; give the bytes a second of its "
        "links, such as interconnect=50e9, or plan for one device."
    )
  result: dict[str, Any] = {
      "compute": (
          (work.flops - work.exact) / chip.compute + work.exact / chip.exact
      ) / devices,
      "memory": (work.moved / devices + state) / chip.bandwidth,
      "communication": traffic.bytes and traffic.bytes / chip.interconnect,
      "host": brought / chip.host,
  }
  bound = max(result, key=result.__getitem__)
  result["step"] = result[bound]
  result["bound"] = bound
  result["examples_per_second"] = batch_size / result["step"]
  return result

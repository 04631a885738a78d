"""How long a step takes, by what it does and the peak numbers of a chip.

References, for the numbers of `CHIPS`:
  NVIDIA A100 (80 GB SXM). https://www.nvidia.com/en-us/data-center/a100/
  NVIDIA H100 (SXM). https://www.nvidia.com/en-us/data-center/h100/
  NVIDIA H200 (SXM). https://www.nvidia.com/en-us/data-center/h200/
  Google TPU v4. https://docs.cloud.google.com/tpu/docs/v4
  Jouppi et al., TPU v4: An Optically Reconfigurable Supercomputer for Machine
  Learning, 2023, table 4: its links. https://arxiv.org/abs/2304.01433
  Google TPU v5e. https://docs.cloud.google.com/tpu/docs/v5e
  Google TPU v5p. https://docs.cloud.google.com/tpu/docs/v5p
  Google TPU v6e. https://docs.cloud.google.com/tpu/docs/v6e
"""

import math
from typing import Any, NamedTuple

from basic.planning import collectives, flops


class Chip(NamedTuple):
  """Peak numbers of one device.

  Attributes:
    compute: flops a second of bfloat16 products with float32 sums, dense.
    exact: flops a second of products whose float32 factors are not rounded.
    bandwidth: bytes a second between chip and its memory.
    memory: bytes of it.
    interconnect: bytes a second that it can send to its neighbours; 0: none.
    host: bytes a second that it can read from the memory of its host.
  """

  compute: float
  exact: float
  bandwidth: float
  memory: int
  interconnect: float
  # 16 lanes of PCIe 4.0; hosts differ, and many vendors do not say.
  host: float = 31.5e9


GIB = 2**30
_PASSES = 6  # bfloat16 products that a TPU makes of one float32 product.

# As their vendors state them, for dense products: from the H100 on NVIDIA's
# figures are those with sparsity, twice these. Links are counted in one
# direction: half of what both vendors give for two; a v4 has six of 50e9. An
# H100 and an H200 reach their hosts by PCIe 5.0, twice the default. "GB" of
# memory are 2**30 bytes, of which a driver keeps about one in a hundred. For a
# v5e Google states 819 GB/s here and 800 GiB/s there: this is the lesser.
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
  """The numbers of a chip: a preset's, or given ones, or some of each.

  Args:
    text: one of `CHIPS`, then numbers that differ: "H100,interconnect=50e9".
      "TPU v4" and lower case are understood; without a preset all are needed
      but `host`.

  Raises:
    ValueError: if there is no such preset or number, or a number is none that
      a chip can have; the message lists those there are.

  Example:
    >>> chip("TPU v5e").memory // GIB
    16
    >>> chip("H100,interconnect=50e9").interconnect
    50000000000.0
  """
  words = [word.strip() for word in text.split(",")]
  given = dict(word.split("=", 1) for word in words if "=" in word)
  names = [word for word in words if "=" not in word]
  unknown = given.keys() - set(Chip._fields)
  if unknown or len(names) > 1:
    raise ValueError(
        f"chip is {text!r}; it takes a preset ({', '.join(CHIPS)}) and numbers "
        f"for {', '.join(Chip._fields)}."
    )
  try:
    numbers = {key: _number(key, value) for key, value in given.items()}
    if "memory" in numbers:
      numbers["memory"] = int(numbers["memory"])
    return _preset(names[0])._replace(**numbers) if names else Chip(**numbers)
  except (TypeError, ValueError) as error:
    raise ValueError(
        f"chip is {text!r}: {error}. There are {', '.join(CHIPS)}; another "
        f"needs all of {', '.join(Chip._fields[:-1])}, as numbers."
    ) from None


def _number(key: str, text: str) -> float:
  number = float(text)
  least = 0 if key == "interconnect" else 1
  if not least <= number < math.inf:
    raise ValueError(f"{key} is {text}, and takes a number from {least}")
  return number


def _preset(name: str) -> Chip:
  wanted = name.lower().removeprefix("tpu").strip(" -")
  for key, found in CHIPS.items():
    if key.lower() == wanted:
      return found
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
  """The time of a step, if each of four resources were all that it took.

      compute        (flops - exact) / compute + exact / exact rate
      memory         (factors and results of products, the state) / bandwidth
      communication  bytes sent / interconnect
      host           bytes brought / host
      step           the largest of these, as if they overlapped fully

  An estimate. `compute` alone is a floor, below which no step comes. `memory`
  counts every factor and result as if it left the chip: tiles of a loss that
  stay in its cache, and products that one kernel joins, take less. Sends are
  those of one compiler, and another's may be fewer. What is done entry by entry
  and what does not overlap add to all of it: a good step takes up to twice as
  long.

  Args:
    work: of the step on all devices, evenly shared.
    traffic: of the step on one.
    chip: its peak numbers.
    devices: that share the work.
    state: bytes that the optimizer reads and writes on one device.
    batch_size: examples of a step.
    brought: bytes that one device reads from the memory of its host.

  Returns:
    Seconds by resource and of the step, `bound`, the name of the resource that
    takes longest, and the `examples_per_second` that follow.

  Raises:
    ValueError: if devices send to each other and the chip has no links.
  """
  if traffic.bytes and not chip.interconnect:
    raise ValueError(
        f"interconnect is 0, and one of {devices} devices sends "
        f"{traffic.bytes:.3g} bytes a step; give the bytes a second that its "
        "links take, such as interconnect=50e9, or plan for one device."
    )
  found: dict[str, Any] = {
      "compute": (
          (work.flops - work.exact) / chip.compute + work.exact / chip.exact
      ) / devices,
      "memory": (work.moved / devices + state) / chip.bandwidth,
      "communication": traffic.bytes and traffic.bytes / chip.interconnect,
      "host": brought / chip.host,
  }
  bound = max(found, key=found.__getitem__)
  found["step"] = found[bound]
  found["bound"] = bound
  found["examples_per_second"] = batch_size / found["step"]
  return found

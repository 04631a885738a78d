"""Counts collectives, and their bytes, in the text of a compiled program."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

KINDS = (
    "all-gather", "all-reduce", "all-to-all", "collective-broadcast",
    "collective-permute", "ragged-all-to-all", "reduce-scatter",
)

_HEADER = re.compile(r"^(ENTRY )?%?([\w.$-]+) .*\{$")
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?[\w.$-]+ = (.*?) ([a-z][a-z0-9-]*)\("
)
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)"
    r"=%?([\w.$-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_NAMED_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"\bcondition=%?([\w.$-]+)")
_BELOW = re.compile(
    r"^\s+ROOT .* compare\(%?[\w.$-]+, %?([\w.$-]+)\), direction=LT"
)
_CONSTANT = re.compile(r"^\s+%?([\w.$-]+) = s32\[\]\S* constant\((\d+)\)")


class Traffic(NamedTuple):
  """Collectives of one kind in one step.

  Attributes:
    runs: how many run; one in a loop counts once an iteration.
    bytes: sent by one device, with ring algorithms.
  """

  runs: int
  bytes: float


class Collectives(NamedTuple):
  """All collectives of one step.

  Attributes:
    kinds: traffic by kind of collective; kinds that do not occur are absent.
    unbounded: loops with collectives whose trip count XLA does not state; they
      are counted as one iteration.
  """

  kinds: Mapping[str, Traffic]
  unbounded: int

  @property
  def bytes(self) -> float:
    """Bytes sent by one device, over all kinds."""
    return sum(traffic.bytes for traffic in self.kinds.values())


def read(text: str, devices: int) -> Collectives:
  """Counts the collectives of a compiled program.

  With n devices in a group and s the bytes of the result on one of them, a
  device sends

      all-gather, all-to-all      s (n - 1) / n
      reduce-scatter              s (n - 1)
      all-reduce                  2 s (n - 1) / n
      the others                  s

  Args:
    text: `compiled.as_text()`.
    devices: number of devices of the program.

  Returns:
    Counts and bytes, those in loops times their trip count.
  """
  return _Reader(_computations(text), devices).result()


def _computations(text: str) -> dict[str, list[str]]:
  """Lines by name of computation; "" is the entry computation."""
  computations: dict[str, list[str]] = {}
  lines: list[str] = []
  for line in text.splitlines():
    if header := _HEADER.match(line):
      lines = computations.setdefault("" if header[1] else header[2], [])
    elif line.startswith(" "):
      lines.append(line)
  return computations


class _Reader:
  """Walks from the entry computation into those that it calls."""

  def __init__(self, computations: Mapping[str, list[str]], devices: int):
    self._computations, self._devices = computations, devices
    self._kinds: dict[str, Traffic] = {}
    self._unbounded = 0

  def result(self) -> Collectives:
    self._walk("", 1)
    return Collectives(dict(sorted(self._kinds.items())), self._unbounded)

  def _walk(self, name: str, rounds: int) -> int:
    """Adds the traffic of a computation; returns its number of collectives."""
    count = 0
    for line in self._computations.get(name, ()):
      if not (match := _INSTRUCTION.match(line)):
        continue
      shape, operation = match.groups()
      kind = operation.removesuffix("-start")
      if kind in KINDS:
        # In a fusion of this name each device keeps only its shard of the sum.
        if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
          kind = "all-reduce-scatter"
        count += self._add(kind, shape, line, rounds)
        continue
      trips = self._trips(line) if operation == "while" else 1
      inside = sum(
          self._walk(called, rounds * (trips or 1)) for called in _called(line)
      )
      if inside and not trips:
        self._unbounded += 1
      count += inside
    return count

  def _trips(self, line: str) -> int | None:
    """Trip count of a loop, stated or from a condition `index < constant`."""
    if stated := _TRIPS.search(line):
      return int(stated[1])
    condition = _CONDITION.search(line)
    lines = self._computations.get(condition[1], ()) if condition else ()
    constants = {m[1]: m[2] for m in map(_CONSTANT.match, lines) if m}
    below = next((m[1] for m in map(_BELOW.match, lines) if m), None)
    # Loops of JAX start at 0 and count by 1.
    return int(constants[below]) if below in constants else None

  def _add(self, kind: str, shape: str, line: str, rounds: int) -> int:
    n = _group(line, self._devices)
    if n == 1:
      return 0
    factor = {
        "all-gather": (n - 1) / n, "all-to-all": (n - 1) / n,
        "all-reduce-scatter": (n - 1) / n,
        "reduce-scatter": n - 1, "all-reduce": 2 * (n - 1) / n,
    }.get(kind, 1)
    kind = kind.replace("all-reduce-scatter", "reduce-scatter")
    started = f" {kind}-start(" in line and kind != "all-reduce"
    sent = factor * (_result_bytes(shape) if started else _bytes(shape))
    runs, total = self._kinds.get(kind, Traffic(0, 0.0))
    self._kinds[kind] = Traffic(runs + rounds, total + rounds * sent)
    return 1


def _called(line: str) -> Iterator[str]:
  yield from _CALLED.findall(line)
  for names in _BRANCHES.findall(line):
    yield from (name.strip().lstrip("%") for name in names.split(","))


def _group(line: str, devices: int) -> int:
  """Number of devices in a replica group."""
  if "source_target_pairs=" in line:
    return 2
  if match := re.search(r"replica_groups=\[(?:\d+,)*(\d+)\]<=", line):
    return int(match[1])
  if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
    return len(match[1].split(","))
  if match := _NAMED_GROUPS.search(line):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    # 'data' is a whole axis, 'data':(2)4 the part of it that has size 4.
    axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  return devices


def _bytes(shape: str) -> float:
  """Bytes of an array, or of all arrays of a tuple."""
  total = 0.0
  for letters, bits, sizes in _ARRAY.findall(shape):
    size = math.prod(int(n) for n in sizes.split(",") if n)
    total += size * (1 if letters == "pred" else int(bits or 0) / 8)
  return total


def _result_bytes(shape: str) -> float:
  """Bytes that an async start returns: the second half of its tuple."""
  if nested := re.match(r"\(\(.*?\), (\(.*?\))[,)]", shape):
    return _bytes(nested[1])
  arrays = [m[0] for m in _ARRAY.finditer(shape)]
  return _bytes(arrays[1]) if len(arrays) > 1 else _bytes(shape)

"""Formats a plan as text."""

from collections.abc import Iterator, Mapping
from typing import Any

Lines = Iterator[tuple[str, str]]

_ROWS = {
    "parameters": "parameters",
    "optimizer": "optimizer state",
    "memory": "objective memory",
    "input": "input batch",
    "other": "key, metrics, padding",
    "gradients": "gradients",
    "embeddings": "embeddings and gradients",
    "activations": "activations and the rest",
    "total": "total",
    "loss": "(loss alone, temporaries)",
    "input_on_host": "(input, on the host)",
}
_RESOURCES = {
    "compute": "compute, at least",
    "memory": "memory, if nothing stays in cache",
    "communication": "communication",
    "host": "inputs from the host",
    "step": "the longest of these",
}


def table(plan: Mapping[str, Any]) -> str:
  """Formats a plan as text: a heading for each part, then aligned rows.

  Args:
    plan: what `plan.plan` returns.
  """
  parts = []
  for heading, lines in (
      ("parameters", _parameters(plan)),
      ("stages", _stages(plan)),
      ("bytes per device", _memory(plan)),
      ("floating-point operations", _flops(plan)),
      ("collectives per device and step", _collectives(plan)),
      ("time of a step, by peak rates", _seconds(plan)),
  ):
    rows = list(lines)
    if rows:
      width = max(len(name) for name, _ in rows)
      value_width = max(len(value) for _, value in rows)
      parts.append("\n".join(
          [heading] + [f"  {n:<{width}}  {v:>{value_width}}" for n, v in rows]
      ))
  parts += [f"note: {note}" for note in plan.get("notes", ())]
  if plan.get("fit"):
    parts.append(plan["fit"]["sentence"])
  return "\n\n".join(parts)


def _parameters(plan: Mapping[str, Any]) -> Lines:
  for tower, count in plan["parameters"].items():
    yield tower, f"{count:,}"
  optimizer_bytes = plan["optimizer_bytes"]
  yield "trainable", f"{plan['trainable']:,}"
  yield "optimizer state, all devices together", amount(
      optimizer_bytes, "B", 1024)
  each = plan["optimizer_bytes_per_parameter"]
  yield "bytes per trainable parameter", f"{each:.2f}"


def _stages(plan: Mapping[str, Any]) -> Lines:
  for number, stage in enumerate(plan.get("stages", ()), 1):
    state = amount(stage["optimizer_bytes"], "B", 1024)
    yield f"{number}: {stage['steps']:,} steps of {stage['batch_size']:,}", (
        f"{stage['trainable']:,} trainable, optimizer state of {state}")


def _memory(plan: Mapping[str, Any]) -> Lines:
  bytes_per_device = plan.get("bytes_per_device")
  if bytes_per_device is None:
    return
  for name, label in _ROWS.items():
    yield label, amount(bytes_per_device[name], "B", 1024)
  mesh = " x ".join(f"{k} {v}" for k, v in plan["mesh"].items())
  yield "devices", f"{plan['devices']} ({mesh})"


def _flops(plan: Mapping[str, Any]) -> Lines:
  counts = plan.get("flops")
  if counts is None:
    return
  for view, count in counts["forward"].items():
    yield f"forward pass of one {view}", amount(count, "", 1000)
  yield "training step, per example", amount(counts["per_example"], "", 1000)
  yield f"training step of {plan['batch_size']:,} examples", amount(
      counts["per_step"], "", 1000)


def _collectives(plan: Mapping[str, Any]) -> Lines:
  for kind, traffic in plan.get("collectives", {}).items():
    yield kind, f"{traffic['count']:,} x, {amount(traffic['bytes'], 'B', 1024)}"


def _seconds(plan: Mapping[str, Any]) -> Lines:
  seconds = plan.get("seconds")
  if not seconds:
    return
  for name, label in _RESOURCES.items():
    yield label, f"{amount(seconds[name], 's', 1000)}"
  yield "bound by", seconds["bound"]
  yield "examples a second, by this time", f"{seconds['examples_per_second']:,.0f}"


def amount(value: float | int, unit: str, base: int) -> str:
  """A number with three digits and a unit prefix.

  Args:
    value: not negative.
    unit: "B" or "s", or "" for a count.
    base: 1024 for KiB, MiB, ...; 1000 for k, M, ... and m, u below 1.

  Example:
    >>> amount(1536, "B", 1024), amount(.002, "s", 1000)
    ('1.5 KiB', '2 ms')
  """
  letters = ["", "Ki", "Mi", "Gi", "Ti", "Pi"]
  if base == 1000:
    letters = ["", "k", "M", "G", "T", "P", "E"]
  scaled, power = float(value), 0
  while scaled >= base and power < len(letters) - 1:
    scaled, power = scaled / base, power + 1
  prefix = letters[power]
  if unit == "s" and 0 < value < 1:
    prefix, scale = ("m", 1e3) if value >= 1e-3 else ("u", 1e6)
    scaled = value * scale
  digits = f"{scaled:.0f}" if scaled >= 100 else f"{scaled:.3g}"
  return f"{digits} {prefix}{unit}".strip()

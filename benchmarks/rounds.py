"""Interleaved rounds of contenders, each in a process of its own.

A contender is a function that prepares and returns a callable; `serve` answers
one line a round with its seconds, and its peak memory at the end. `compare`
starts all of them and lets them run in turn.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def serve(
    prepare: Callable[[], Callable[[], None]],
    peak: Callable[[], int],
    clock: Callable[[], float] = time.perf_counter,
):
  """Runs in a contender's process: one round for every line of input.

  Memory is what the rounds took above the idle process with its libraries.
  """
  idle = peak()
  once = prepare()
  once()  # Compiles, and touches all memory.
  print(json.dumps({"ready": True}), flush=True)
  for line in sys.stdin:
    if line.strip() == "stop":
      break
    start = clock()
    once()
    print(json.dumps({"seconds": clock() - start}), flush=True)
  print(json.dumps({"peak_bytes": peak() - idle}), flush=True)


def libraries(name: str) -> Callable[[], int]:
  """Loads what a contender needs and returns what measures its memory."""
  if name != "torch":
    import jax

    jax.block_until_ready(jax.numpy.zeros(1) + 1)
    return on_device
  import torch

  torch.zeros(1)
  if torch.cuda.is_available():
    return torch.cuda.max_memory_allocated
  return resident


def resident() -> int:
  """Peak resident memory of this process, in bytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def on_device() -> int:
  """Peak bytes on JAX's first device; of the process where it has no count."""
  import jax

  found = jax.devices()[0].memory_stats()
  return found["peak_bytes_in_use"] if found else resident()


def compare(
    script: str, contenders: Sequence[str], arguments: Sequence[str], rounds: int
) -> dict[str, Any]:
  """Lets contenders run in turn.

  Args:
    script: program that serves one with `--contender NAME`.
    contenders: names; the first is ours.
    arguments: passed to each.
    rounds: of which the medians are taken.

  Returns:
    By contender: seconds (median, all), peak_bytes, and ratios to ours.
  """
  running = {}
  for name in contenders:
    process = subprocess.Popen(
        [sys.executable, script, "--contender", name, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    if process.stdout.readline():
      running[name] = process
    else:
      process.wait()
      print(f"{name}: left out, it did not start", file=sys.stderr)
  seconds: dict[str, list[float]] = {name: [] for name in running}
  for _ in range(rounds):
    for name, process in running.items():
      seconds[name].append(_ask(process, "run")["seconds"])
  found = {}
  for name, process in running.items():
    peak = _ask(process, "stop")["peak_bytes"]
    process.wait()
    found[name] = dict(
        seconds=statistics.median(seconds[name]), all_seconds=seconds[name],
        peak_bytes=peak,
    )
  ours = contenders[0]
  for name, row in found.items():
    pairs = zip(seconds[name], seconds[ours], strict=True)
    row["time_ratio"] = statistics.median(a / b for a, b in pairs)
    row["memory_ratio"] = row["peak_bytes"] / found[ours]["peak_bytes"]
  return found


def _ask(process: subprocess.Popen, word: str) -> dict[str, Any]:
  process.stdin.write(word + "\n")
  process.stdin.flush()
  return json.loads(process.stdout.readline())


def table(title: str, found: Mapping[str, Any]) -> str:
  """Rows of contenders: seconds, peak memory and ratios to ours."""
  lines = [
      title, "",
      "| contender | seconds | x ours | peak GiB | x ours |",
      "|---|---|---|---|---|",
  ]
  for name, row in found.items():
    lines.append(
        f"| {name} | {row['seconds']:.3f} | {row['time_ratio']:.2f} | "
        f"{row['peak_bytes'] / 2**30:.2f} | {row['memory_ratio']:.2f} |"
    )
  return "\n".join(lines)


def machine() -> dict[str, Any]:
  """What the figures were measured on."""
  import importlib.metadata

  import jax

  def version(name):
    try:
      return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      return None

  return dict(
      processor=platform.processor() or platform.machine(),
      python=platform.python_version(),
      device=jax.devices()[0].device_kind, devices=jax.device_count(),
      **{n: version(n) for n in ("jax", "jaxlib", "torch", "numpy")},
  )

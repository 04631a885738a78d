"""Interleaved rounds of contenders, each in a process of its own.

A contender is a function that returns a callable, one call of which is a round.
`serve` runs it in its process: it answers a line of input with the seconds of a
round and, at the end, with the peak memory. `compare` starts all contenders and
runs their rounds in turn.
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
    rest: Callable[[], object] = lambda: None,
):
  """Runs in a contender's process: one round for every line of input.

  Before a round and after it `rest` waits for what goes on in the background, which
  would slow this round or that of the next contender.

  Memory is the peak during the rounds minus that of the idle process with its
  libraries loaded.
  """
  idle = peak()
  once = prepare()
  once()  # Compiles, and allocates all memory.
  print(json.dumps({"ready": True}), flush=True)
  for line in sys.stdin:
    if line.strip() == "stop":
      break
    rest()
    start = clock()
    once()
    seconds = clock() - start
    rest()
    print(json.dumps({"seconds": seconds}), flush=True)
  print(json.dumps({"peak_bytes": peak() - idle}), flush=True)


def libraries(name: str) -> Callable[[], int]:
  """Imports the library of a contender; returns a function for its peak memory."""
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
  """Peak bytes on the first device, or of the process if JAX does not know."""
  import jax

  stats = jax.devices()[0].memory_stats()
  return stats["peak_bytes_in_use"] if stats else resident()


def compare(
    script: str, contenders: Sequence[str], arguments: Sequence[str], rounds: int
) -> dict[str, Any]:
  """Runs contenders in interleaved rounds.

  Args:
    script: program that serves a contender with `--contender NAME`.
    contenders: names; the first is ours.
    arguments: passed to each.
    rounds: number of rounds.

  Returns:
    For each contender: seconds (median) and all_seconds, peak_bytes, and ratios
    to ours.
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
      print(f"{name}: skipped, since it did not start", file=sys.stderr)
  seconds: dict[str, list[float]] = {name: [] for name in running}
  for _ in range(rounds):
    for name, process in running.items():
      seconds[name].append(_ask(process, "run")["seconds"])
  results = {}
  for name, process in running.items():
    peak = _ask(process, "stop")["peak_bytes"]
    process.wait()
    results[name] = dict(
        seconds=statistics.median(seconds[name]), all_seconds=seconds[name],
        peak_bytes=peak,
    )
  ours = contenders[0]
  for name, row in results.items():
    pairs = zip(seconds[name], seconds[ours], strict=True)
    row["time_ratio"] = statistics.median(a / b for a, b in pairs)
    row["memory_ratio"] = row["peak_bytes"] / results[ours]["peak_bytes"]
  return results


def _ask(process: subprocess.Popen, word: str) -> dict[str, Any]:
  process.stdin.write(word + "\n")
  process.stdin.flush()
  return json.loads(process.stdout.readline())


def table(title: str, results: Mapping[str, Any]) -> str:
  """Rows of contenders: seconds, peak memory and ratios to ours."""
  lines = [
      title, "",
      "| contender | seconds | relative to ours | peak GiB | relative to ours |",
      "|---|---|---|---|---|",
  ]
  for name, row in results.items():
    lines.append(
        f"| {name} | {row['seconds']:.3f} | {row['time_ratio']:.2f} | "
        f"{row['peak_bytes'] / 2**30:.2f} | {row['memory_ratio']:.2f} |"
    )
  return "\n".join(lines)


def machine() -> dict[str, Any]:
  """Hardware and versions with which the figures were measured."""
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

"""The stages of a run, as its configuration gives them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Stage(NamedTuple):
  """Steps of a run with the same settings.

  Attributes:
    end: the last step.
    steps: their number.
    batch_size: rows of a batch; None if the configuration does not say.
  """

  end: int
  steps: int
  batch_size: int | None


def stages(config: Mapping[str, Any]) -> list[Stage]:
  """The stages of a run, in order; empty if the configuration does not say.

  Args:
    config: the complete configuration, as `config.json` holds it.

  Example:
    >>> [each.end for each in stages({"steps": 9, "batch_size": 8, "stages": [
    ...     {"steps": 4}, {"steps": 2, "batch_size": 16}]})]
    [4, 6]
  """
  found, end = [], 0
  for changes in config.get("stages") or [{}]:
    own = {**config, **changes} if isinstance(changes, Mapping) else config
    steps, size = own.get("steps"), own.get("batch_size")
    if not isinstance(steps, int):
      if config.get("stages"):
        return []
      steps = 0  # one stage, of any length
    end += steps
    found.append(Stage(end, steps, size if isinstance(size, int) else None))
  return found


def boundaries(config: Mapping[str, Any]) -> list[int]:
  """The last steps of all stages but the last one."""
  return [each.end for each in stages(config)[:-1]]


def facts(
    config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
  """How far a run has come: its steps, the size of batches, the examples.

  Args:
    config: the complete configuration.
    rows: the lines of `metrics.jsonl`.

  Returns:
    Text; empty if nothing was written.
  """
  if not rows:
    return []
  done = max(row["step"] for row in rows)
  found = ["1 step" if done == 1 else f"{done:,} steps"]
  known = stages(config)
  if len(known) > 1:
    found.append(f"{len(known)} stages")
  sizes = [each.batch_size for each in known if each.batch_size is not None]
  if not known or len(sizes) < len(known):
    return found
  low, high = min(sizes), max(sizes)
  found.append(
      f"batches of {low:,}" + (f" to {high:,}" if high > low else "")
  )
  taken = [max(0, min(done, s.end) - (s.end - s.steps)) for s in known]
  # A run may have been made longer than its configuration says here.
  taken[-1] += max(0, done - known[-1].end)
  examples = sum(n * size for n, size in zip(taken, sizes, strict=True))
  return [*found, f"{examples:,} examples"]


def batch_size(config: Mapping[str, Any]) -> int | None:
  """The size of batches at the end of a run; None if it is not known."""
  known = stages(config)
  return known[-1].batch_size if known else None

"""Makes a run longer, where its steps so far are those of the longer run."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from basic.experiment import build, settings
from basic.recording import manifest


def shorter(
    workdir: str | os.PathLike, config: Mapping[str, Any]
) -> dict[str, Any] | None:
  """What a configuration that asks for more steps was before that.

  Args:
    workdir: folder of the run; it need not hold one.
    config: complete configuration.

  Returns:
    `config` with the number of steps that the folder has, in its last stage if
    there are several; None if it does not ask for more.
  """
  stored = manifest.load(pathlib.Path(workdir) / "config.json")
  if stored is None:
    return None
  before = settings.upgraded(stored)
  if len(before.get("stages") or ()) != len(config["stages"]):
    return None
  old, new = _last(before), _last(config)
  return _with_last(config, old) if type(old) is int and old < new else None


def check(
    workdir: str | os.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
  """Rejects a longer run whose steps so far would have been other steps.

  Each of them must have the learning rate that it has in the longer run: with
  the schedules constant and rsqrt, with a schedule whose length
  `optimizer.steps` gives, and in a run of no steps so far.

  Args:
    workdir: folder of the run.
    old: complete configuration of the run as it is.
    new: the same with more steps.

  Raises:
    ValueError: if the learning rate of a step so far depends on the length.
  """
  configs, longer = build.stage_configs(old), build.stage_configs(new)
  first, last = build.span(configs, len(configs) - 1)
  lengths = [
      sum(each["steps"] for each in some[first:last + 1])
      for some in (configs, longer)
  ]
  steps = np.arange(lengths[0])
  before, after = (
      np.broadcast_to(build.optimizer(configs[-1], n).rate(steps), steps.shape)
      for n in lengths
  )
  if (before != after).any():
    n = int(np.argmax(before != after))
    raise ValueError(
        f"{os.fspath(workdir)} holds a run of {_last(old)} steps, and {_last(new)} "
        "are asked for. Its learning rates were those of its length "
        f"(schedule={configs[-1]['optimizer'].get('schedule')!r}): in the longer "
        f"run, step {n + 1} would have had {after[n]:.4g} in place of "
        f"{before[n]:.4g}. To train on from here, begin a run in a new --workdir, "
        "with a schedule of its own, by "
        f"weights=dict(name='run', path={os.fspath(workdir)!r}, optimizer=True). "
        "Only schedules that do not depend on the length, 'constant' and 'rsqrt', "
        "go on with more steps. Nothing was overwritten."
    )


def _last(config) -> Any:
  """The steps of the last stage."""
  stages = config.get("stages") or ()
  return stages[-1].get("steps", config.get("steps")) if stages else config["steps"]


def _with_last(config, steps):
  """A configuration with another number of steps of the last stage."""
  if not config["stages"]:
    return {**config, "steps": steps}
  *others, last = config["stages"]
  return {**config, "stages": (*others, {**last, "steps": steps})}

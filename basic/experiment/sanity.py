"""Settings that every table admits and nobody can mean.

`check` looks at a whole configuration before a run begins. What cannot work is
refused; what works and does nothing is warned of. Whoever reads a run that is
there does not come here, so that old runs stay readable.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ml_collections

from basic import files, paths
from basic.experiment import build, settings

_log = logging.getLogger(__name__)
# Settings of towers that are sizes of arrays; others may be 0.
_SIZES = ("width", "vocab", "length", "heads", "patch", "mlp", "depth")


def plain(config: Any) -> Any:
  """A configuration as nested dicts; ConfigDicts are taken at any depth."""
  if isinstance(config, ml_collections.ConfigDict):
    # Not to_dict: it leaves alone what lists and tuples hold.
    return {k: plain(v) for k, v in config.items(preserve_field_references=False)}
  if isinstance(config, Mapping):
    return {key: plain(value) for key, value in config.items()}
  if isinstance(config, (list, tuple)):
    return tuple(plain(each) for each in config)
  return config


def check(config: Mapping[str, Any], complete: Mapping[str, Any]) -> None:
  """Refuses what cannot be meant, and warns of what does nothing.

  Args:
    config: as it was given; defaults are not complained of.
    complete: what `settings.complete` made of it.

  Raises:
    ValueError: if a run of these settings could not begin or not learn: a seed,
      a size or a number of checkpoints out of range, a path for a shell, one row a
      batch where rows are told apart, one class.
  """
  seed = complete["seed"]
  if not 0 <= seed < 2**32:
    raise ValueError(f"config.seed is {seed}; it takes 0 to 2**32 - 1.")
  for name in ("keep", "keep_every"):
    value = complete["checkpoint"][name]
    if value is not None and value < 1:
      raise ValueError(
          f"checkpoint.{name} is {value}; it takes a number of at least 1."
      )
  _check_paths(complete)
  _check_sizes(complete)
  stages = build.stage_configs(complete)
  for n, stage in enumerate(stages):
    _check_sizes(stage)
    _check_learning(f"stages[{n}]." if complete["stages"] else "", stage)
  for sentence in (*_useless(config, complete, stages), *_unused(config, stages)):
    _log.warning("%s", sentence)


def check_overrides(config: Any, overridden: Collection[str]) -> None:
  """Refuses settings of the command line that every stage overrides.

  Args:
    config: as it was given.
    overridden: paths of the settings that the command line sets:
      "optimizer.peak".

  Raises:
    ValueError: if one of them would do nothing.
  """
  dead = _overridden_by_all(plain(config))
  for path in overridden:
    if path.replace(".", "/") in dead:
      raise ValueError(
          f"--config.{path} does nothing: every stage sets {path} itself. Set "
          f"it in the stages, as by --config.stages[0].{path}=..."
      )


def _check_paths(config):
  for path, value in paths.flatten({**config, "stages": None}).items():
    where = path.replace("/", ".")
    if where in ("weights.path", "tokenizer.model") and value is not None:
      files.checked(where, value)
    elif isinstance(value, str) and files.is_for_a_shell(value):
      files.checked(where, value)


def _check_sizes(config):
  """Refuses integers that no array can have as a size."""
  for path, value in paths.flatten({**config, "stages": None}).items():
    if not isinstance(value, int) or isinstance(value, bool):
      continue
    group, _, name = path.partition("/")
    least = 1 if name in _SIZES else 0
    if group in ("image", "text", "projection") and value < least:
      raise ValueError(
          f"{path.replace('/', '.')} is {value}; it takes a number of at least "
          f"{least}."
      )
    if value >= 2**31 and path.rpartition("/")[2] != "seed":
      raise ValueError(
          f"{path.replace('/', '.')} is {value}; it takes less than 2**31."
      )


def _check_learning(where, config):
  """Refuses losses that are constant, whatever the parameters."""
  views = config["views"] or [t for t in ("image", "text") if config[t] is not None]
  if config["batch_size"] == 1 and len(views) > 1:
    raise ValueError(
        f"{where}batch_size is 1, and {config['objective']['name']} tells the "
        "rows of a batch apart: with one row there is nothing to learn. Give 2 "
        "or more; large batches learn best."
    )
  classes = config["objective"].get("classes")
  if isinstance(classes, int) and classes < 2:
    raise ValueError(
        f"{where}objective.classes is {classes}; with less than 2 there is "
        "nothing to tell apart, and nothing to learn."
    )


def _useless(config, complete, stages) -> Iterator[str]:
  """What was given and happens at the end of the run only, or never."""
  steps = sum(stage["steps"] for stage in stages)
  for group, what in (("record", "metrics are"), ("checkpoint", "a checkpoint is")):
    given = config.get(group) or {}
    if isinstance(given, Mapping) and given.get("every", 0) > steps:
      yield (
          f"{group}.every is {given['every']}, and the run has {steps} steps: "
          f"{what} written at the end of each stage only."
      )
  for label, settings_ in complete["evals"].items():
    if settings_["every"] is not None and settings_["every"] > steps:
      yield (
          f"evals.{label}.every is {settings_['every']}, and the run has {steps} "
          "steps: it runs at the end only."
      )
  for stage in stages:
    warmup = stage["optimizer"].get("warmup") or 0
    if warmup >= steps:
      yield (
          f"optimizer.warmup is {warmup}, and the run has {steps} steps: the "
          "learning rate never reaches optimizer.peak."
      )
      break
  if all(stage["text"] is None for stage in stages):
    for name in ("captions", "tokenizer"):
      if config.get(name):
        yield f"{name} is set, and no stage has a text tower: it does nothing."


def _unused(config, stages) -> Iterator[str]:
  """What the top level sets, all stages override, and none repeats."""
  total = sum(stage["steps"] for stage in stages)
  for path, value in _overridden_by_all(config).items():
    in_force = [_at(stage, path.split("/")) for stage in stages]
    if value not in (*in_force, *([total] if path == "steps" else [])):
      yield (
          f"{path.replace('/', '.')} is {value!r} outside `stages`, and every "
          f"stage sets its own ({', '.join(map(repr, in_force))}), so "
          f"{value!r} does nothing."
      )


def _overridden_by_all(config) -> dict[str, Any]:
  """Path -> value of what is set outside `stages` and again in every stage."""
  stages = config.get("stages") or ()
  own = {k: v for k, v in config.items() if k not in settings.OF_RUN}
  return {
      path: value for path, value in paths.flatten(own).items()
      if stages and all(_overrides(stage, config, path.split("/")) for stage in stages)
  }


def _overrides(changes, base, keys) -> bool:
  """Whether changes leave nothing of what the base says at a path."""
  key, *rest = keys
  if not isinstance(changes, Mapping) or key not in changes:
    return False
  below, old = changes[key], base.get(key)
  if not rest or not isinstance(below, Mapping) or not isinstance(old, Mapping):
    return True
  if below.get("name", old.get("name")) != old.get("name"):
    return True
  return rest != ["name"] and _overrides(below, old, rest)


def _at(config, keys):
  for key in keys:
    config = config.get(key) if isinstance(config, Mapping) else None
  return config

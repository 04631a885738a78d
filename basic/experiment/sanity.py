"""Checks for settings that have the right type but cannot be intended.

`check` looks at a whole configuration before a run begins. Settings that cannot
work raise; settings without effect are warned about. Only new runs are checked,
so that existing runs stay readable.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ml_collections

from basic import files, paths
from basic.experiment import build, schema, settings

_log = logging.getLogger(__name__)
# Settings of towers that are sizes of arrays, so at least 1; others may be 0.
_SIZES = ("width", "vocab", "length", "heads", "patch", "mlp", "depth")


def plain(config: Any) -> Any:
  """A configuration as nested dicts; converts ConfigDicts at any depth."""
  if isinstance(config, ml_collections.ConfigDict):
    # Not to_dict, which does not convert inside lists and tuples.
    return {k: plain(v) for k, v in config.items(preserve_field_references=False)}
  if isinstance(config, Mapping):
    return {key: plain(value) for key, value in config.items()}
  if isinstance(config, (list, tuple)):
    return tuple(plain(each) for each in config)
  return config


def check(config: Mapping[str, Any], complete: Mapping[str, Any]) -> None:
  """Rejects settings that cannot work; warns about settings without effect.

  Args:
    config: as the user wrote it; defaults cause no warnings.
    complete: the result of `settings.complete` for it.

  Raises:
    ValueError: if a run with these settings could not start or not learn: a
      seed, a size or a number of checkpoints out of range, an unexpanded "~" or
      "$NAME" in a path, a batch size of 1 for a contrastive loss.
  """
  config, _ = settings.renewed(config)
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
  """Rejects command-line settings that every stage overrides.

  Args:
    config: as the user wrote it.
    overridden: paths of the settings on the command line: "optimizer.peak".

  Raises:
    ValueError: if one of them would have no effect.
  """
  without_effect = _overridden_by_all(settings.renewed(plain(config))[0])
  for path in overridden:
    if path.replace(".", "/") in without_effect:
      raise ValueError(
          f"--config.{path} has no effect: every stage sets {path} itself. Set "
          f"it in the stages, as by --config.stages[0].{path}=..."
      )


def _check_paths(config):
  """Rejects paths with an unexpanded "~" or "$NAME"."""
  for path, value in paths.flatten({**config, "stages": None}).items():
    name = path.replace("/", ".")
    if name in ("weights.path", "tokenizer.model") and value is not None:
      files.checked(name, value)
    elif isinstance(value, str) and files.is_for_a_shell(value):
      if not name.startswith("record."):  # Of wandb, where any text may stand.
        files.checked(name, value)


def _check_sizes(config):
  """Rejects integers that cannot be the size of an array."""
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
    # Others are no sizes: bytes, arguments of Weights & Biases, seeds.
    is_size = group not in ("gradient", "record") and not path.endswith("seed")
    if is_size and value >= 2**31 and not _is_weight(path.split("/")):
      raise ValueError(
          f"{path.replace('/', '.')} is {value}; it takes less than 2**31."
      )


def _is_weight(keys: list[str]) -> bool:
  """Whether the path of a setting is that of a proportion in a source."""
  return (
      "source" in keys[:-2] and keys[-2] in ("weights", "text")
      and keys[-3] != "sources"  # There it is a label.
  )


def _check_learning(where, config):
  """Rejects losses that are constant, whatever the parameters."""
  views = config["views"] or [t for t in ("image", "text") if config[t] is not None]
  objective = schema.make("objectives", config["objective"])
  if config["batch_size"] == 1 and len(views) > 1 and objective.logits:
    raise ValueError(
        f"{where}batch_size is 1, and {config['objective']['name']} compares the "
        "rows of a batch: with one row there is nothing to learn. Give 2 or "
        "more; large batches learn best."
    )


def _useless(config, complete, stages) -> Iterator[str]:
  """Warnings about settings that take effect only at the end, or never."""
  steps = sum(stage["steps"] for stage in stages)
  if steps:
    yield from _too_late(config, complete, stages, steps)
  if all(stage["text"] is None for stage in stages):
    for name in ("captions", "tokenizer"):
      if config.get(name):
        yield f"{name} is set, but no stage has a text tower: it has no effect."


def _too_late(config, complete, stages, steps) -> Iterator[str]:
  """Warnings about intervals that are longer than the run."""
  for group, written in (
      ("record", "metrics are"), ("checkpoint", "a checkpoint is"),
  ):
    own = config.get(group) or {}
    if isinstance(own, Mapping) and own.get("every", 0) > steps:
      yield (
          f"{group}.every is {own['every']}, and the run has {steps} steps: "
          f"{written} written at the end of each stage only."
      )
  for label, evaluation in complete["evals"].items():
    every = evaluation["every"]
    if every is not None and every > steps:
      yield (
          f"evals.{label}.every is {every}, and the run has {steps} "
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


def _unused(config, stages) -> Iterator[str]:
  """Warnings about top-level settings that every stage overrides."""
  total = sum(stage["steps"] for stage in stages)
  for path, value in _overridden_by_all(config).items():
    in_force = [_at(stage, path.split("/")) for stage in stages]
    if value not in (*in_force, *([total] if path == "steps" else [])):
      yield (
          f"{path.replace('/', '.')} is {value!r} outside `stages`, but every "
          f"stage sets its own ({', '.join(map(repr, in_force))}), so "
          f"{value!r} has no effect."
      )


def _overridden_by_all(config) -> dict[str, Any]:
  """Path -> value of top-level settings that every stage overrides."""
  stages = config.get("stages") or ()
  own = {k: v for k, v in config.items() if k not in settings.OF_RUN}
  return {
      path: value for path, value in paths.flatten(own).items()
      if stages and all(_overrides(stage, config, path.split("/")) for stage in stages)
  }


def _overrides(changes, base, keys) -> bool:
  """Whether a stage's changes fully replace the base setting at a path."""
  key, *rest = keys
  if not isinstance(changes, Mapping) or key not in changes:
    return False
  new, old = changes[key], base.get(key)
  if not rest or not isinstance(new, Mapping) or not isinstance(old, Mapping):
    return True
  if new.get("name", old.get("name")) != old.get("name"):
    return True
  return rest != ["name"] and _overrides(new, old, rest)


def _at(config, keys):
  """The setting at a path; None if there is none."""
  for key in keys:
    config = config.get(key) if isinstance(config, Mapping) else None
  return config

"""Checks a configuration and fills in its defaults."""

import contextlib
from collections.abc import Mapping
from typing import Any

from basic import gradient, optim, types
from basic.data import captions, images
from basic.engine import checkpoint, model
from basic.experiment import limits, manual, renamed, schema
from basic.ops import photometric
from basic.sharding import layout

Settings = manual.Settings

# Group of settings -> the function that takes them as arguments.
_FUNCTIONS = {
    "": manual.experiment, "projection": model.model, "augment": images.augment,
    "mesh": layout.mesh, "loader": manual.loader, "tokenizer": manual.vocabulary,
    "record": manual.recording, "unreadable": manual.unreadable,
    "checkpoint": checkpoint.Checkpoints,
    "weights": manual.initial, "captions": captions.captions,
    "label_captions": captions.captions, "evaluation": manual.evaluation,
    "change": photometric.check,
}
# Group of settings -> the folder with the plug-ins that it can name.
_FOLDERS = {
    "source": "sources", "objective": "objectives", "image": "encoders",
    "text": "encoders", "evaluation": "evals", "weights": "weights",
    "look": "augmentations", "reference": "sources",
}
# Group of settings -> (module, return type) of the functions that it can name.
_MEMBERS = {
    "gradient": (gradient, types.Gradient), "optimizer": (optim, optim.Optimizer)
}
# Group of settings -> keyword-only arguments that are no settings.
_SUPPLIED = {
    "projection": ("views", "changes"), "captions": ("classes",),
    "label_captions": ("classes",), "gradient": ("frozen",),
}
# The same, where a setting of this name takes precedence.
_SUPPLIED_UNLESS_SET = {
    "optimizer": ("steps",), "evaluation": ("tokenize", "classes", "batch_size"),
}
# Settings that all stages of a run share.
OF_RUN = (
    "mesh", "tokenizer", "checkpoint", "record", "unreadable", "weights", "stages",
)


def complete(config: Settings) -> dict[str, Any]:
  """The complete configuration: checked, with all defaults filled in.

  Args:
    config: settings of `manual.experiment`, as a nested mapping.

  Returns:
    A nested dict of plain data.

  Raises:
    ValueError: if a setting is unknown, missing or of the wrong type, or there
      is no plug-in of a given name. No device is used.
  """
  config, sentences = renewed(config)
  renamed.warn(sentences)
  full = schema.complete("config", manual.experiment, config)
  full["checkpoint"] = {"every": 1_000, **(full["checkpoint"] or {})}
  full["gradient"] = full["gradient"] or {"name": "direct"}
  for key in (
      "projection", "augment", "loader", "mesh", "tokenizer", "record", "unreadable",
      "checkpoint",
  ):
    full[key] = _group(key, key, full[key] or {})
  for key in ("captions", "weights"):
    if full[key] is not None:
      full[key] = _group(key, key, full[key])
  for key in ("source", "objective", "image", "text", *_MEMBERS):
    if full[key] is not None:
      full[key] = _named(key, key, full[key])
  _positive("config", full, "batch_size")
  if full["steps"] < 0:
    raise ValueError(f"config.steps is {full['steps']}; it takes 0 or more.")
  _positive("checkpoint", full["checkpoint"], "every")
  _positive("record", full["record"], "every")
  _positive("loader", full["loader"], "threads", "window")
  for name in ("workers", "prefetch"):
    if full["loader"][name] < 0:
      raise ValueError(
          f"loader.{name} is {full['loader'][name]}; it takes 0 or more."
      )
  limits.unreadable(full["unreadable"])
  full["evals"] = {
      label: evaluation(f"evals.{label}", settings)
      for label, settings in sorted((full["evals"] or {}).items())
  }
  full["looks"] = {
      field: _look(f"looks.{field}", settings)
      for field, settings in sorted((full["looks"] or {}).items())
  }
  limits.looks(full)
  limits.weights(full["weights"])
  full["photometric"] = {
      field: _photometric(f"photometric.{field}", settings)
      for field, settings in sorted((full["photometric"] or {}).items())
  }
  for n, stage_settings in enumerate(full["stages"]):
    _check_stage(n, stage_settings, config)
  return full


def _group(where, group, settings):
  """Complete settings of a group that configures one function."""
  name = {}
  if group in _FOLDERS:  # Of weights, the name alone is the plug-in's.
    _function(where, group, settings)
    name = {"name": settings["name"]}
  return name | schema.complete(
      where, _FUNCTIONS[group], settings, kept=_SUPPLIED.get(group, ())
  )


def _named(where, group, settings):
  """Complete settings of the function that a group names, with that name."""
  return {"name": settings.get("name")} | schema.complete(
      where, _function(where, group, settings), settings,
      given=_SUPPLIED_UNLESS_SET.get(group, ()), kept=_SUPPLIED.get(group, ()),
  )


def _function(where, group, settings):
  """The function that a group names; errors have the path of the setting."""
  if "name" not in settings:
    raise ValueError(f"{where} has no 'name', which says what to build.")
  name = settings["name"]
  if not isinstance(name, str):
    raise ValueError(
        f"{where}.name is {name!r}; it takes the name of what to build."
    )
  try:
    return _find(group, name)
  except ValueError as error:
    own = f" {manual.OWN!r} is a run of this library." if group == "weights" else ""
    raise ValueError(f"{where}.name: {error}{own}") from error


def _find(group, name):
  """The function `name` in the folder or module of a group."""
  if group == "weights" and name == manual.OWN:
    return manual.initial
  if group in _FOLDERS:
    return schema.plugin(_FOLDERS[group], name)
  module, result = _MEMBERS[group]
  return schema.member(module, name, result)


def evaluation(where: str, settings: Any) -> dict[str, Any]:
  """Complete settings of an evaluation and of its evaluator.

  Args:
    where: their path, for messages: "evals.pairs".
    settings: those of `manual.evaluation`, and `name` of an evaluator and its own.

  Returns:
    A nested dict of plain data.

  Raises:
    ValueError: if a setting is unknown, missing or of the wrong type, or there
      is no plug-in of a given name.
  """
  if not isinstance(settings, Mapping):
    raise ValueError(
        f"{where} is {settings!r}; it takes the settings of an evaluation, such "
        "as dict(name='zeroshot', source=...)."
    )
  common = {
      k: v for k, v in settings.items() if schema.takes(manual.evaluation, k)
  }
  evaluator = {k: v for k, v in settings.items() if k not in common}
  common = schema.complete(where, manual.evaluation, common)
  _positive(where, common, "batch_size")
  for name in ("every", "limit"):
    if common[name] is not None:
      _positive(where, common, name)
  common["source"] = _named(f"{where}.source", "source", common["source"])
  if common["label_captions"] is not None:
    common["label_captions"] = _group(
        f"{where}.label_captions", "label_captions", common["label_captions"]
    )
  reference = _reference(where, evaluator)
  evaluator = {k: v for k, v in evaluator.items() if k not in reference}
  return {**_named(where, "evaluation", evaluator), **common, **reference}


def _reference(where, settings):
  """Complete settings of the second source of an evaluator; {} without one."""
  if not _has_reference(_function(where, "evaluation", settings)):
    return {}
  second = manual.evaluation_with_reference
  full = schema.complete(
      where, second, {k: v for k, v in settings.items() if schema.takes(second, k)}
  )
  if full["reference_limit"] is not None:
    _positive(where, full, "reference_limit")
  where = f"{where}.reference"
  return {**full, "reference": _named(where, "reference", full["reference"])}


def _has_reference(function):
  """Whether a plug-in is an evaluator that reads a second source."""
  return schema.hints(function).get("return") is types.ReferenceEvaluator


def _look(where, settings):
  """Complete settings of an augmentation, tried for values out of range."""
  if not isinstance(settings, Mapping):
    raise ValueError(
        f"{where} is {settings!r}; it takes the settings of an augmentation, "
        "such as dict(name='crop', size=224)."
    )
  full = _named(where, "look", settings)
  try:
    schema.make("augmentations", full)
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from error
  return full


def _photometric(where, settings):
  """Complete settings of changes on the device."""
  if not isinstance(settings, Mapping):
    raise ValueError(
        f"{where} is {settings!r}; it takes settings, such as dict(gray=0.2)."
    )
  full = schema.complete(where, photometric.check, settings)
  try:
    photometric.check(**full)
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from error
  return full


def _check_stage(n, stage_settings, config):
  """Checks a stage as the complete experiment that results from it."""
  own, changes = split_stage(stage_settings)
  if n == 0 and own["fresh"]:
    raise ValueError(
        "the first stage sets `fresh`, but no stage comes before it: all of its "
        "parameters are fresh. Set it in the stage that changes them."
    )
  if shared := [key for key in OF_RUN if key in changes]:
    raise ValueError(
        f"a stage cannot change {shared}: all stages of a run share them. Set "
        "them outside `stages`."
    )
  _positive(
      f"stages[{n}]", complete(changed({**config, "stages": ()}, changes)), "steps"
  )


def _positive(where, settings, *names):
  """Rejects settings that are not at least 1."""
  for name in names:
    if settings[name] is None or settings[name] < 1:
      raise ValueError(
          f"{where}.{name} is {settings[name]}; it takes a number of at least 1."
      )


def split_stage(changes: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
  """(complete settings of `manual.stage`, the other settings, which it changes)."""
  own = {k: v for k, v in changes.items() if schema.takes(manual.stage, k)}
  return (
      schema.complete("stages", manual.stage, own),
      {k: v for k, v in changes.items() if k not in own},
  )


def renewed(config: Settings) -> tuple[dict[str, Any], list[str]]:
  """The configuration under the present names of settings (renamed.py).

  Args:
    config: settings of `manual.experiment`, as a nested mapping.

  Returns:
    (configuration, one warning for each old name in it).

  Raises:
    ValueError: if a setting is given under its old and its new name.
  """
  return renamed.configuration(config, _functions)


def upgraded(stored: Any) -> Any:
  """A run's stored configuration, converted to this version's settings.

  Renamed settings get their new names, and new settings their defaults. There
  are no warnings, since the user did not write the file.

  Args:
    stored: the content of config.json.

  Returns:
    The complete configuration; if this version rejects its values, only the
    names are converted.
  """
  if not isinstance(stored, Mapping):
    return stored
  config, _ = renewed(stored)
  try:
    return complete(config)
  except ValueError:
    return config


def changed(base: Settings, changes: Settings) -> dict[str, Any]:
  """Merges `changes` into `base`.

  A group with another `name` is replaced, and so are mappings among the settings
  of a source.
  """
  merged = dict(base)
  for key, value in changes.items():
    old = base.get(key)
    if (
        key in ("source", "reference")
        and isinstance(old, Mapping) and isinstance(value, Mapping)
    ):
      # Its settings are values: the sources of a mixture are not merged.
      same = value.get("name", old.get("name")) == old.get("name")
      merged[key] = {**old, **value} if same else value
    elif (
        isinstance(value, Mapping) and isinstance(old, Mapping)
        and value.get("name", old.get("name")) == old.get("name")
    ):
      merged[key] = changed(old, value)
    else:
      merged[key] = value
  return merged


def arguments(where: str, group: str, name: Any) -> dict[str, Any]:
  """The settings that a group takes, by name, with their types.

  Args:
    where: path of the group, for messages: "evals.single".
    group: "" for the experiment itself, "stage" for one of its stages,
      "evaluation", "look" and "change" for an entry of `evals`, `looks` and
      `photometric`.
    name: the plug-in that it names; None if it names none.

  Returns:
    Setting -> type, also of old names (renamed.py).

  Raises:
    ValueError: if the group must name a plug-in and does not, or there is none
      of that name.
  """
  named = is_named(group)
  if named:
    _function(where, group, {} if name is None else {"name": name})
  found: dict[str, Any] = {"name": str} if named else {}
  functions = _functions("" if group == "stage" else group, name)
  for function in [*functions, *([manual.stage] if group == "stage" else [])]:
    types_of = schema.hints(function)
    for key in schema.arguments(function, _SUPPLIED.get(group, ())):
      found[key] = types_of.get(key, Any)
    for old, new in renamed.table(function).items():
      found[old] = types_of.get(new, Any)
  return found


def is_named(group: str) -> bool:
  """Whether a group has a `name`, which says whose settings it holds."""
  return group in _FOLDERS or group in _MEMBERS


def is_group(outer: str, key: str) -> bool:
  """Whether a setting of the group `outer` is the group of settings `key`."""
  if outer == "evaluation":
    return key in ("source", "label_captions", "reference")
  known = (*_FUNCTIONS, *_FOLDERS, *_MEMBERS)
  return outer in ("", "stage") and key in known and schema.takes(
      manual.experiment, key)


def _functions(group: str, name: Any) -> list[Any]:
  """The functions that take a group's settings; none for an unknown name."""
  functions = [_FUNCTIONS[group]] if group in _FUNCTIONS else []
  if isinstance(name, str) and (group in _FOLDERS or group in _MEMBERS):
    # `complete` raises for an unknown name, with the path of the setting.
    with contextlib.suppress(ValueError):
      functions.append(_find(group, name))
      if _has_reference(functions[-1]):
        functions.append(manual.evaluation_with_reference)
  return functions

"""The settings of an experiment: documentation, defaults and checks.

The functions without a body are schemas: their arguments are the settings, with
their types and defaults, and their docstrings are the manual.
"""

from collections.abc import Mapping
from typing import Any

from basic import gradient, optim, types
from basic.data import captions, images
from basic.engine import checkpoint, model
from basic.experiment import renamed, schema
from basic.sharding import layout

Settings = Mapping[str, Any]


def experiment(
    *,
    steps: int,
    batch_size: int,
    source: Settings,
    objective: Settings,
    optimizer: Settings,
    image: Settings | None = None,
    text: Settings | None = None,
    seed: int = 0,
    views: Settings | None = None,
    projection: Settings | None = None,
    augment: Settings | None = None,
    captions: Settings | None = None,
    gradient: Settings | None = None,
    frozen: tuple[str, ...] = (),
    stored: tuple[str, ...] = (),
    mesh: Settings | None = None,
    tokenizer: Settings | None = None,
    checkpoint: Settings | None = None,
    record: Settings | None = None,
    evals: Settings | None = None,
    weights: Settings | None = None,
    stages: tuple[Settings, ...] = (),
) -> None:
  """The settings of an experiment; each group configures what it names.

  Args:
    steps: length of the run; with `stages`, each stage sets its own.
    batch_size: examples in the global batch.
    source: `name` of a source and its settings.
    objective: `name` of an objective and its settings.
    optimizer: `name` of an optimizer and its settings.
    image: `name` of the encoder that reads "image", and its settings.
    text: `name` of the encoder that reads "text", and its settings.
    seed: seed of all random numbers.
    views: field of the batch -> tower, where their names differ.
    projection: `width` and `bias` of the projections (engine/model.py).
    augment: augmentation of training images (data/images.py).
    captions: how captions are made from labels (data/captions.py); None: the
      source's own captions.
    gradient: `name` of a gradient method in gradient/, and its settings.
    frozen: patterns of the paths of parameters that are not trained.
    stored: views of locked towers whose embeddings are computed once, at the
      start of the stage, stored in the run's folder and read from there.
    mesh: devices along data, fsdp and model (sharding/layout.py).
    tokenizer: origin of the vocabulary (`vocabulary` below).
    checkpoint: `every` and `keep` (engine/checkpoint.py).
    record: which metrics are recorded, and how often (`recording` below).
    evals: by label: `name` of an evaluator, its settings, and those of
      `evaluation` below.
    weights: pretrained weights to begin from: `name` of a format in weights/,
      and `initial` below.
    stages: for each stage in order, the settings that it changes, and settings
      of its own (`stage` below). A stage that changes `optimizer` or `frozen`
      resets optimizer state, EMA parameters and the learning rate schedule.
  """


def stage(*, fresh: tuple[str, ...] = ()) -> None:
  """Settings that only a stage has, besides those that it changes.

  Args:
    fresh: patterns of the paths of parameters that are initialised again
      instead of continuing from the stage before (engine/step.py,
      `check_carry`).
  """


def split_stage(changes: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
  """(complete settings of `stage`, the experiment's settings that it changes)."""
  own = {k: v for k, v in changes.items() if schema.takes(stage, k)}
  return (
      schema.complete("stages", stage, own),
      {k: v for k, v in changes.items() if k not in own},
  )


def vocabulary(*, captions: int = 10_000, model: str | None = None) -> None:
  """Settings of the vocabulary.

  Args:
    captions: number of examples whose captions the tokenizer is trained on.
    model: a file to use instead: a vocabulary of this library, a tokenizer.json
      or another SentencePiece model (data/vocabulary.py, `read`).
  """


def initial(*, path: str, paths: tuple[str, ...] = (".*",)) -> None:
  """Settings of the pretrained weights that a run begins from.

  Args:
    path: the file or folder, in the format `name`.
    paths: patterns of the paths of parameters to load: ("image/.*",).
  """


def recording(
    *,
    every: int = 100,
    tensorboard: bool = True,
    wandb: Settings | None = None,
) -> None:
  """Settings of the recorded metrics.

  Args:
    every: steps between two lines of metrics.jsonl.
    tensorboard: whether to write TensorBoard event files too.
    wandb: arguments of `wandb.init`; None leaves Weights & Biases out.
  """


def evaluation(
    *,
    source: Settings,
    every: int | None = None,
    batch_size: int = 128,
    limit: int | None = None,
    label_captions: Settings | None = None,
) -> None:
  """Settings of an evaluation, besides those of its evaluator.

  Args:
    source: `name` of a source and its settings.
    every: steps between two evaluations; None: at the end only.
    batch_size: examples that are encoded at a time.
    limit: number of examples to evaluate on; None: all.
    label_captions: how captions are made from labels (data/captions.py): always
      the first template, none drawn at random; None: its source's own captions.
  """


OF_RUN = ("mesh", "tokenizer", "checkpoint", "record", "weights", "stages")
# Arguments of evaluators that the evaluation supplies.
GIVEN = ("tokenize", "classes", "batch_size")


def complete(config: Settings) -> dict[str, Any]:
  """The complete configuration: checked, with all defaults filled in.

  Args:
    config: settings of `experiment`, as a nested mapping.

  Returns:
    A nested dict of plain data.

  Raises:
    ValueError: if a setting is unknown, missing or of the wrong type, or there
      is no plug-in of a given name. No device is used.
  """
  config, sentences = renewed(config)
  renamed.warn(sentences)
  full = schema.complete("config", experiment, config)
  _check_evals(full)
  for key, function in (
      ("projection", model.model), ("augment", images.augment),
      ("mesh", layout.mesh), ("tokenizer", vocabulary), ("record", recording),
  ):
    kept = ("views",) if key == "projection" else ()
    full[key] = schema.complete(key, function, full[key] or {}, kept=kept)
  full["captions"] = _captions("captions", full["captions"])
  full["checkpoint"] = schema.complete(
      "checkpoint", checkpoint.Checkpoints,
      {"every": 1_000, **(full["checkpoint"] or {})},
  )
  for key, folder in (
      ("source", "sources"), ("objective", "objectives"),
      ("image", "encoders"), ("text", "encoders"),
  ):
    if full[key] is not None:
      full[key] = _named(key, folder, full[key])
  full["gradient"] = _member(
      "gradient", gradient, types.Gradient, full["gradient"] or
      {"name": "direct"}, kept=("frozen",),
  )
  full["optimizer"] = _member(
      "optimizer", optim, optim.Optimizer, full["optimizer"],
      given=("steps",),
  )
  _positive("config", full, "steps", "batch_size")
  _positive("checkpoint", full["checkpoint"], "every")
  _positive("record", full["record"], "every")
  full["evals"] = {
      label: _complete_eval(f"evals.{label}", settings)
      for label, settings in sorted((full["evals"] or {}).items())
  }
  if full["weights"] is not None:
    _lookup(
        "weights", schema.plugin, "weights", _name("weights", full["weights"])
    )
    full["weights"] = {
        "name": full["weights"]["name"],
        **schema.complete("weights", initial, full["weights"]),
    }
  # Each stage is checked as the complete experiment that results from it.
  for n, stage_settings in enumerate(full["stages"]):
    own, changes = split_stage(stage_settings)
    if n == 0 and own["fresh"]:
      raise ValueError(
          "the first stage sets `fresh`, but no stage comes before it: all of "
          "its parameters are fresh. Set it in the stage that changes them."
      )
    if shared := [key for key in OF_RUN if key in changes]:
      raise ValueError(
          f"a stage cannot change {shared}: all stages of a run share them. Set "
          "them outside `stages`."
      )
    complete(changed({**config, "stages": ()}, changes))
  return full


def renewed(config: Settings) -> tuple[dict[str, Any], list[str]]:
  """The configuration under the present names of settings (renamed.py).

  Args:
    config: settings of `experiment`, as a nested mapping.

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
  """Merges `changes` into `base`; a group with another `name` is replaced."""
  merged = dict(base)
  for key, value in changes.items():
    old = base.get(key)
    if (
        isinstance(value, Mapping) and isinstance(old, Mapping)
        and value.get("name", old.get("name")) == old.get("name")
    ):
      merged[key] = changed(old, value)
    else:
      merged[key] = value
  return merged


# Group of settings -> the function that takes them as arguments.
_FUNCTIONS = {
    "": experiment, "projection": model.model, "augment": images.augment,
    "mesh": layout.mesh, "tokenizer": vocabulary, "record": recording,
    "checkpoint": checkpoint.Checkpoints, "weights": initial,
    "captions": captions.captions, "label_captions": captions.captions,
    "evaluation": evaluation,
}
# Group of settings -> the folder with the plug-ins that it can name.
_FOLDERS = {
    "source": "sources", "objective": "objectives", "image": "encoders",
    "text": "encoders", "evaluation": "evals",
}
# Group of settings -> (module, return type) of the functions that it can name.
_MEMBERS = {
    "gradient": (gradient, types.Gradient), "optimizer": (optim, optim.Optimizer)
}


def _functions(group: str, name: Any) -> list[Any]:
  """The functions that take a group's settings; none for an unknown name."""
  functions = [_FUNCTIONS[group]] if group in _FUNCTIONS else []
  if not isinstance(name, str):
    return functions
  try:
    if group in _FOLDERS:
      functions.append(schema.plugin(_FOLDERS[group], name))
    elif group in _MEMBERS:
      module, result = _MEMBERS[group]
      functions.append(schema.member(module, name, result))
  except ValueError:  # `complete` raises this with the path of the setting.
    pass
  return functions


def _check_evals(full: Settings) -> None:
  """Rejects evaluations that are not groups of settings."""
  for label, own in (full["evals"] or {}).items():
    if not isinstance(own, Mapping):
      raise ValueError(
          f"evals.{label} is {own!r}; it takes the settings of an evaluation, "
          "such as dict(name='zeroshot', source=...)."
      )


def _name(where: str, settings: Settings) -> str:
  """The name of the plug-in that a group configures."""
  if "name" not in settings:
    raise ValueError(f"{where} has no 'name', which says what to build.")
  if not isinstance(settings["name"], str):
    raise ValueError(
        f"{where}.name is {settings['name']!r}; it takes the name of what to build."
    )
  return settings["name"]


def _lookup(where, find, *arguments):
  """Looks a name up; an unknown one raises with the path of the setting."""
  try:
    return find(*arguments)
  except ValueError as error:
    raise ValueError(f"{where}.name: {error}") from error


def _named(where, folder, settings, given=()):
  """Complete settings of a plug-in of a folder, with its name."""
  function = _lookup(where, schema.plugin, folder, _name(where, settings))
  return {
      "name": settings["name"],
      **schema.complete(where, function, settings, given),
  }


def _member(where, module, result, settings, **arguments):
  """Complete settings of a function of a module, with its name."""
  function = _lookup(where, schema.member, module, _name(where, settings), result)
  return {
      "name": settings["name"],
      **schema.complete(where, function, settings, **arguments),
  }


def _captions(where, settings):
  """Complete settings of captions made from labels; None stays None."""
  return None if settings is None else schema.complete(
      where, captions.captions, settings, kept=("classes",)
  )


def _positive(where, settings, *names):
  """Rejects settings that are not at least 1."""
  for name in names:
    if settings[name] is None or settings[name] < 1:
      raise ValueError(
          f"{where}.{name} is {settings[name]}; it takes a number of at least 1."
      )


def _complete_eval(where, settings):
  """Complete settings of an evaluation and of its evaluator."""
  common = {k: v for k, v in settings.items() if schema.takes(evaluation, k)}
  evaluator = {k: v for k, v in settings.items() if k not in common}
  common = schema.complete(where, evaluation, common)
  _positive(where, common, "batch_size")
  for name in ("every", "limit"):
    if common[name] is not None:
      _positive(where, common, name)
  common["source"] = _named(f"{where}.source", "sources", common["source"])
  common["label_captions"] = _captions(
      f"{where}.label_captions", common["label_captions"]
  )
  return {**_named(where, "evals", evaluator, GIVEN), **common}

"""What an experiment can be told: its settings, checked and completed.

The functions without a body are tables: their arguments are settings, their
defaults are the defaults, their docstrings the manual.
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
  """The settings of an experiment; each group goes to what it names.

  Args:
    steps: length of the run; with `stages`, each stage says its own.
    batch_size: rows of the global batch.
    source: `name` of a source and its settings.
    objective: `name` of an objective and its settings.
    optimizer: `name` of an optimizer and its settings.
    image: `name` of the encoder that reads "image", and its settings.
    text: `name` of the encoder that reads "text", and its settings.
    seed: of everything that is drawn.
    views: leaf of the batch -> tower, where they are not equal.
    projection: `width` and `bias` of the projections (engine/model.py).
    augment: noise of training images (data/images.py).
    captions: how labels become text (data/captions.py); None: the source's own.
    gradient: `name` of a way in gradient/, and its settings.
    frozen: patterns of parameter paths that do not train.
    stored: views of locked towers whose embeddings are computed once, at the
      start of the stage, kept in the run's folder and read from there.
    mesh: devices along data, fsdp and model (sharding/layout.py).
    tokenizer: how the vocabulary is found (`vocabulary` below).
    checkpoint: `every` and `keep` (engine/checkpoint.py).
    record: what is written how often (`recording` below).
    evals: by label: `name` of an evaluator, its settings, and those of
      `evaluation` below.
    weights: what step 0 begins from: `name` of a format in weights/, and
      `initial` below.
    stages: what each stage changes of all this, in order, and settings of its
      own (`stage` below). A stage that changes the optimizer or what is frozen
      starts optimizer state, EMA parameters and learning rate schedule anew.
  """


def stage(*, fresh: tuple[str, ...] = ()) -> None:
  """Settings that only a stage has, beside what it changes.

  Args:
    fresh: patterns of parameter paths that start anew instead of going on from
      the stage before (engine/step.py, `check_carry`).
  """


def split_stage(changes: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
  """(complete settings of `stage`, what the stage changes of the experiment)."""
  own = {k: v for k, v in changes.items() if schema.takes(stage, k)}
  return (
      schema.complete("stages", stage, own),
      {k: v for k, v in changes.items() if k not in own},
  )


def vocabulary(*, captions: int = 10_000, model: str | None = None) -> None:
  """Settings of the vocabulary.

  Args:
    captions: examples of the source whose captions it is trained on.
    model: a file to use instead: a vocabulary of ours, or a tokenizer.json or
      SentencePiece model of others (data/vocabulary.py, `read`).
  """


def initial(*, path: str, paths: tuple[str, ...] = (".*",)) -> None:
  """Settings of the weights that a run begins from.

  Args:
    path: the file or folder, in the format that is named.
    paths: patterns of parameter paths that are taken: ("image/.*",).
  """


def recording(
    *,
    every: int = 100,
    tensorboard: bool = True,
    wandb: Settings | None = None,
) -> None:
  """Settings of the record.

  Args:
    every: steps between two lines of metrics.jsonl.
    tensorboard: whether to write event files too.
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
  """Settings of an evaluation, beside those of its evaluator.

  Args:
    source: `name` of a source and its settings.
    every: steps between two evaluations; None: at the end only.
    batch_size: rows that are encoded at a time.
    limit: examples that are judged; None: all.
    label_captions: how its labels become text (data/captions.py): the first
      template, nothing drawn; None: its source's own.
  """


OF_RUN = ("mesh", "tokenizer", "checkpoint", "record", "weights", "stages")
GIVEN = ("tokenize", "classes", "batch_size")  # what an evaluator may be given


def complete(config: Settings) -> dict[str, Any]:
  """The whole configuration: checked, and with all defaults filled in.

  Args:
    config: settings of `experiment`, as a nested mapping.

  Returns:
    A nested dict of plain data.

  Raises:
    ValueError: if a setting is unknown, missing or of the wrong type, or a
      name stands for nothing; in words, before any device is touched.
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
    _found(
        "weights", schema.plugin, "weights", _name("weights", full["weights"])
    )
    full["weights"] = {
        "name": full["weights"]["name"],
        **schema.complete("weights", initial, full["weights"]),
    }
  # Each stage is checked as the whole experiment that it makes.
  for n, stage_settings in enumerate(full["stages"]):
    own, changes = split_stage(stage_settings)
    if n == 0 and own["fresh"]:
      raise ValueError(
          "the first stage has fresh, and nothing goes on into it: all of its "
          "parameters are fresh. Set it in the stage that changes them."
      )
    if shared := [key for key in OF_RUN if key in changes]:
      raise ValueError(
          f"a stage cannot change {shared}: all stages of a run share them; set "
          "them outside `stages`."
      )
    complete(changed({**config, "stages": ()}, changes))
  return full


def renewed(config: Settings) -> tuple[dict[str, Any], list[str]]:
  """The configuration under the present names of settings (renamed.py).

  Args:
    config: settings of `experiment`, as a nested mapping.

  Returns:
    (configuration, a sentence for each old name in it).

  Raises:
    ValueError: if a setting is given under its old and its new name.
  """
  return renamed.configuration(config, _functions)


def upgraded(stored: Any) -> Any:
  """A run's stored configuration as this version would have written it.

  Settings that were renamed since have their new names, and settings that are
  new have their defaults. Nothing is warned of: the file is not the user's.

  Args:
    stored: the content of config.json.

  Returns:
    The complete configuration; with new names alone if this version refuses
    its values.
  """
  if not isinstance(stored, Mapping):
    return stored
  config, _ = renewed(stored)
  try:
    return complete(config)
  except ValueError:
    return config


def changed(base: Settings, changes: Settings) -> dict[str, Any]:
  """`changes` over `base`; groups that name something else are replaced."""
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


# Group of settings -> the function whose arguments they are.
_FUNCTIONS = {
    "": experiment, "projection": model.model, "augment": images.augment,
    "mesh": layout.mesh, "tokenizer": vocabulary, "record": recording,
    "checkpoint": checkpoint.Checkpoints, "weights": initial,
    "captions": captions.captions, "label_captions": captions.captions,
    "evaluation": evaluation,
}
# Group of settings -> the folder of the plug-in that it names.
_FOLDERS = {
    "source": "sources", "objective": "objectives", "image": "encoders",
    "text": "encoders", "evaluation": "evals",
}
_MEMBERS = {
    "gradient": (gradient, types.Gradient), "optimizer": (optim, optim.Optimizer)
}


def _functions(group: str, name: Any) -> list[Any]:
  """The functions whose arguments a group holds; none for a wrong name."""
  functions = [_FUNCTIONS[group]] if group in _FUNCTIONS else []
  if not isinstance(name, str):
    return functions
  try:
    if group in _FOLDERS:
      functions.append(schema.plugin(_FOLDERS[group], name))
    elif group in _MEMBERS:
      module, result = _MEMBERS[group]
      functions.append(schema.member(module, name, result))
  except ValueError:  # `complete` says this, with what there is to choose from.
    pass
  return functions


def _check_evals(full: Settings) -> None:
  """Refuses evaluations that are no groups of settings."""
  for label, own in (full["evals"] or {}).items():
    if not isinstance(own, Mapping):
      raise ValueError(
          f"evals.{label} is {own!r}; it takes the settings of an evaluation, "
          "such as dict(name='zeroshot', source=...)."
      )


def _name(where: str, settings: Settings) -> str:
  if "name" not in settings:
    raise ValueError(f"{where} has no 'name'; it says what to build.")
  if not isinstance(settings["name"], str):
    raise ValueError(
        f"{where}.name is {settings['name']!r}; it takes the name of what to build."
    )
  return settings["name"]


def _found(where, find, *arguments):
  """What a name stands for; what it does not stand for is said with its path."""
  try:
    return find(*arguments)
  except ValueError as error:
    raise ValueError(f"{where}.name: {error}") from error


def _named(where, folder, settings, given=()):
  function = _found(where, schema.plugin, folder, _name(where, settings))
  return {
      "name": settings["name"],
      **schema.complete(where, function, settings, given),
  }


def _member(where, module, result, settings, **arguments):
  function = _found(where, schema.member, module, _name(where, settings), result)
  return {
      "name": settings["name"],
      **schema.complete(where, function, settings, **arguments),
  }


def _captions(where, settings):
  return None if settings is None else schema.complete(
      where, captions.captions, settings, kept=("classes",)
  )


def _positive(where, settings, *names):
  for name in names:
    if settings[name] is None or settings[name] < 1:
      raise ValueError(
          f"{where}.{name} is {settings[name]}; it takes a number of at least 1."
      )


def _complete_eval(where, settings):
  ours = {k: v for k, v in settings.items() if schema.takes(evaluation, k)}
  theirs = {k: v for k, v in settings.items() if k not in ours}
  ours = schema.complete(where, evaluation, ours)
  _positive(where, ours, "batch_size")
  for name in ("every", "limit"):
    if ours[name] is not None:
      _positive(where, ours, name)
  ours["source"] = _named(f"{where}.source", "sources", ours["source"])
  ours["label_captions"] = _captions(
      f"{where}.label_captions", ours["label_captions"]
  )
  return {**_named(where, "evals", theirs, GIVEN), **ours}

"""Trained towers, of a run or of other projects' weights, ready to encode.

Neither the data nor the optimizer of the run is needed: a folder that somebody
else trained, or a file of weights, is enough to evaluate, embed and search.
"""

import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from basic import files, paths, types
from basic.engine import model
from basic.experiment import (
    build,
    evaluation,
    input_pipeline,
    pretrained,
    restore,
    schema,
    settings,
)
from basic.sharding import layout

_AVERAGE, _COUNT = "opt_state/average", "opt_state/count"
# What of a checkpoint determines the parameters for evaluation.
EVALUATED = ("params", _AVERAGE, _COUNT)
# Settings that embeddings depend on.
_READ = ("image", "text", "views", "projection", "augment")


class Towers(NamedTuple):
  """Trained towers with all that they need to read images and texts.

  Attributes:
    origin: where they come from: "runs/x, step 500", or "hf_clip:DIR".
    config: complete configuration of the stage that they belong to.
    params: those used for evaluation, of the towers and of the objective; the
      moving average, if the run keeps one.
    model: how they are applied.
    objective: what they were trained with.
    layout: mesh and shardings of their parameters.
    encoder: compiled, for batches that every process holds in full.
    tokenizer: text -> ids; None without a text tower.
    step: of the run; None for weights of other projects.
    fingerprint: changes with everything that an embedding depends on: the
      weights, the vocabulary, the settings of the towers and of their inputs.
  """

  origin: str
  config: Mapping[str, Any]
  params: types.Params
  model: types.Model
  objective: types.Objective
  layout: layout.Layout
  encoder: evaluation.Encoder
  tokenizer: input_pipeline.Tokenizer | None
  step: int | None
  fingerprint: str


def named(where: str | os.PathLike, step: int | None = None) -> Towers:
  """The towers that a name stands for.

  Args:
    where: the folder of a run, "runs/x"; or a format of weights/ and a path,
      "hf_clip:DIR".
    step: the checkpoint of a run; None: the newest intact one. Weights of other
      projects have no steps.

  Raises:
    FileNotFoundError: if there is neither a run nor such weights, or the run has no
      such checkpoint.
    ValueError: if there is no such format, or the files are damaged.
  """
  kind, colon, path = os.fspath(where).partition(":")
  if colon and kind in schema.plugins("weights"):
    return of_weights(kind, path)
  if colon and not pathlib.Path(where).exists() and kind.isidentifier():
    raise ValueError(
        f"{os.fspath(where)!r} names the format {kind!r}; there are "
        f"{schema.plugins('weights')}. Give one of these with a path, as in "
        "hf_clip:DIR, or the folder of a run."
    )
  return of_run(where, step)


def of_run(workdir: str | os.PathLike, step: int | None = None) -> Towers:
  """The towers of a run, finished or not.

  The sources of the run are not opened. Axes of its mesh that do not fit the
  devices here are made smaller.

  Args:
    workdir: folder of the run.
    step: the checkpoint; None: the newest intact one.

  Raises:
    FileNotFoundError: if the folder is not that of a run, or holds no such
      checkpoint, or its vocabulary is missing.
    ValueError: if its files are damaged, or its vocabulary is not that of the
      checkpoint.
  """
  folder = pathlib.Path(workdir).absolute()
  config = restore.configuration(folder)
  configs = build.stage_configs(config)
  mesh = layout.mesh(
      None, **layout.fitting(config["mesh"], jax.device_count())
  )
  tokenizer = input_pipeline.run_tokenizer(configs, folder)
  words = None if tokenizer is None else input_pipeline.fingerprint(folder)

  def place(n, shapes):
    placement = _Applied.of(stage_at(configs, n), mesh).layout
    return paths.flatten(placement.place(paths.unflatten(shapes)))

  with restore.reading(folder, config) as checkpoints:
    part = checkpoints.parameters(place, step, EVALUATED)
  restore.check_vocabulary(checkpoints.directory, part.step, part.position, words)
  return _towers(
      f"{os.fspath(workdir)}, step {part.step}", stage_at(configs, part.step),
      mesh, evaluated(part.leaves), tokenizer, part.step, facts(part, words),
  )


def of_weights(
    kind: str,
    path: str | os.PathLike,
    *,
    tokenizer: str | os.PathLike | None = None,
    dtype: str = "float32",
) -> Towers:
  """The towers of another project's weights, without a run.

  Args:
    kind: a format of weights/.
    path: the file or folder.
    tokenizer: the file of a vocabulary, for weights that come without one.
    dtype: to compute in, "float32" or "bfloat16".

  Raises:
    FileNotFoundError: if the file or folder does not exist.
    ValueError: if there is no such format, a file is damaged, or there is no
      vocabulary for the text tower.
  """
  weights = schema.plugin("weights", kind)().read(path)
  config = _complete(weights, dtype)
  words = _words(weights, path, config, tokenizer)
  mesh = layout.mesh()
  shardings = paths.flatten(
      _Applied.of(config, mesh).layout.place({"params": weights.params})
  )
  digest, leaves = hashlib.sha256(), {}
  for name, leaf in paths.flatten({"params": weights.params}).items():
    array = np.asarray(leaf)  # Scalars, such as the scale, stay scalars.
    digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    leaves[name] = jax.device_put(array, shardings[name])
  if words is not None:
    digest.update(words.content + repr((words.length, words.clean)).encode())
  return _towers(
      f"{kind}:{os.fspath(path)}", config, mesh, evaluated(leaves), words, None,
      (digest.hexdigest(),),
  )


def _complete(weights: Any, dtype: str) -> dict[str, Any]:
  """The complete configuration of a run with these towers."""
  towers = {
      key: {"dtype": dtype, **each} if key in ("image", "text") else each
      for key, each in weights.settings.items()
  }
  return settings.complete({
      # Of no effect where nothing is trained.
      "steps": 1, "batch_size": 1, "source": {"name": "digits"},
      "optimizer": {"name": "sgd"}, "objective": {"name": "softmax"}, **towers,
  })


def _words(weights, path, config, file) -> input_pipeline.Tokenizer | None:
  """The vocabulary of the weights, or that of a file."""
  if file is None or config["text"] is None:
    return pretrained.vocabulary_of(weights, path, config)
  words = input_pipeline.from_file(
      files.checked("tokenizer", file), config["text"]["length"]
  )
  pretrained.check_vocabulary(words, config["text"])
  return words


class _Applied(NamedTuple):
  """How the parameters of a configuration are applied, and where they lie."""

  model: types.Model
  objective: types.Objective
  layout: layout.Layout

  @classmethod
  def of(cls, config: settings.Settings, mesh: Any) -> "_Applied":
    network, objective = build.networks(config)
    return cls(
        network, objective, layout.Layout(mesh, model.axes(network, objective))
    )


def stage_at(
    configs: Sequence[settings.Settings], step: int
) -> settings.Settings:
  """The configuration of the stage that a step belongs to."""
  ends = itertools.accumulate(each["steps"] for each in configs)
  return next((c for c, end in zip(configs, ends, strict=True) if step <= end),
              configs[-1])


def evaluated(leaves: Mapping[str, Any]) -> types.Params:
  """The parameters for evaluation: averages where they are kept and begun.

  Args:
    leaves: arrays of a checkpoint by path, those of the groups `EVALUATED`.
  """
  begun = int(leaves.get(_COUNT, 0)) > 0
  return paths.unflatten({
      path.removeprefix("params/"): (
          leaves.get(path.replace("params", _AVERAGE, 1), leaf) if begun else leaf
      )
      for path, leaf in leaves.items() if path.startswith("params/")
  })


def _towers(origin, config, mesh, params, tokenizer, step, facts) -> Towers:
  """The towers of a configuration with these parameters."""
  network, objective, placement = _Applied.of(config, mesh)
  views = network.encode.views.values()
  return Towers(
      origin, config, params, network, objective, placement,
      evaluation.encoder(
          network, placement, {view.field for view in views}, objective
      ),
      input_pipeline.at_length(tokenizer, config), step,
      fingerprint(config, facts),
  )


def facts(part: Any, words: str | None) -> tuple[Any, ...]:
  """What identifies the parameters of a run and its vocabulary.

  Args:
    part: of a checkpoint, with the groups `EVALUATED` at least.
    words: the fingerprint of the vocabulary.
  """
  digest = {
      path: row for path, row in part.digest.items()
      if any(path == group or path.startswith(f"{group}/") for group in EVALUATED)
  }
  return json.dumps(digest, sort_keys=True), words


def fingerprint(config: settings.Settings, facts: Sequence[Any]) -> str:
  """The fingerprint of towers, 32 hexadecimal digits.

  Args:
    config: complete configuration of their stage.
    facts: what identifies their parameters and their vocabulary, as JSON data.
  """
  read = {key: config[key] for key in _READ}
  digest = hashlib.sha256(json.dumps([facts, read], sort_keys=True).encode())
  return digest.hexdigest()[:32]

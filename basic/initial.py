"""The first state of a run: drawn at random, or begun from foreign weights."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from basic import paths, schema, types, vocabulary
from basic.ops import patches

# Sizes show in the shapes of parameters, and are compared there.
_SIZES = (
    "width", "depth", "depths", "heads", "features", "mlp", "patch", "vocab",
    "length",
)

_log = logging.getLogger(__name__)


def begin(
    state: types.TrainState, config: Mapping[str, Any]
) -> types.TrainState:
  """The state of step 0, with the weights that the configuration names.

  Places learned on another grid of patches are resized to this one. What the
  weights do not have stays as it was drawn, and is named in the log.

  Args:
    state: fresh, of the first stage.
    config: complete, of that stage.

  Returns:
    The state, parameters replaced and placed as they were.

  Raises:
    ValueError: if the weights are for other towers, with the list of what
      differs.
    FileNotFoundError: if they are not where the configuration says.
  """
  how = config.get("weights")
  if how is None:
    return state
  weights = schema.plugin("weights", how["name"])().read(how["path"])
  wanted = paths.any_of(how["paths"])
  theirs = {
      path: leaf for path, leaf in paths.flatten(weights.params).items()
      if wanted(path)
  }
  ours = paths.flatten(state.params)
  faults = [
      *_other_settings(config, weights.settings, theirs),
      *_other_shapes(ours, theirs),
  ]
  if faults:
    raise ValueError("\n  ".join([
        f"the weights at {how['path']} are not for these towers:", *faults,
        "change these settings, or narrow weights.paths.",
    ]))
  rest = sorted(ours.keys() - theirs.keys())
  _log.info(
      "%d parameters begin from %s, %d as they were drawn: %s",
      len(theirs), how["path"], len(rest), rest,
  )
  params = {
      path: _placed(theirs[path], leaf) if path in theirs else leaf
      for path, leaf in ours.items()
  }
  return types.TrainState(
      state.step, paths.unflatten(params), state.opt_state, state.memory,
      state.rng,
  )


def words(
    config: Mapping[str, Any], folder: pathlib.Path
) -> vocabulary.Vocabulary | None:
  """The vocabulary of the text tower that a run begins from, if there is one.

  Stored with the run, so that the weights are needed at its start alone.

  Args:
    config: complete, of a stage.
    folder: of the run.

  Returns:
    A vocabulary; None where the text tower is not taken from weights, or they
    hold no vocabulary.
  """
  how, stored = config.get("weights"), folder / vocabulary.FILE
  if how is None or not paths.any_of(how["paths"])("text/encoder/vocabulary"):
    return None
  # Without a configuration it is left from a start that failed.
  if (folder / "config.json").exists() and stored.exists():
    return vocabulary.Vocabulary(stored.read_bytes(), config["text"]["length"])
  found = schema.plugin("weights", how["name"])().read(how["path"]).vocabulary
  if found is not None:
    folder.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(found.content)
  return found


def _other_settings(config, settings, theirs) -> list[str]:
  """What changes the meaning of parameters without changing their shapes."""
  towers = {path.split("/")[0] for path in theirs} & {"image", "text"}
  return [
      f"{tower}.{key} is {config[tower].get(key)!r}, the weights need {value!r}"
      for tower in sorted(towers) if config[tower] is not None
      for key, value in settings[tower].items()
      if key not in _SIZES and config[tower].get(key) != value
  ]


def _other_shapes(ours, theirs) -> list[str]:
  return [
      f"{path} is {list(ours[path].shape)} here, {list(leaf.shape)} there"
      if path in ours else f"{path} {list(leaf.shape)} has no place here"
      for path, leaf in theirs.items()
      if path not in ours or not _fits(path, leaf, ours[path])
  ]


def _fits(path: str, theirs: Any, ours: Any) -> bool:
  """Whether it has our shape, or is a grid of places of our width."""
  grid = path.endswith("/positions") and theirs.ndim == ours.ndim == 3
  return theirs.shape == ours.shape or (
      grid and theirs.shape[2] == ours.shape[2])


def _placed(theirs: np.ndarray, ours: jax.Array) -> jax.Array:
  """Their parameter in the shape, type and place of ours."""
  if theirs.shape != ours.shape:
    theirs = patches.resize(jax.numpy.asarray(theirs), *ours.shape[:2])
  return jax.device_put(np.asarray(theirs, ours.dtype), ours.sharding)

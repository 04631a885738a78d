"""The first state of a run: drawn at random, or begun from foreign weights."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from basic import paths, types
from basic.data import tokenizer, vocabulary
from basic.experiment import schema
from basic.ops import learned_positions

# Sizes show in the shapes of parameters, and are compared there.
_SIZES = (
    "width", "depth", "depths", "heads", "features", "mlp", "patch", "vocab",
    "length",
)

_WORDS = "text/encoder/vocabulary"
_log = logging.getLogger(__name__)


def begin(
    state: types.TrainState, config: Mapping[str, Any]
) -> types.TrainState:
  """The state of step 0, with the weights that the configuration names.

  Position embeddings of another grid of patches are resized to this one. Texts
  that are shorter than those of the weights use the first of their position
  embeddings. What the weights do not have keeps its random values, and is named
  in the log.

  Args:
    state: fresh, of the first stage.
    config: complete, of that stage.

  Returns:
    The state, parameters replaced and placed as they were.

  Raises:
    ValueError: if the weights are for other towers, with the list of what
      differs, or hold numbers that are not finite.
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
  strange = [path for path, x in theirs.items() if not np.isfinite(x).all()]
  if strange:
    raise ValueError(
        f"the weights at {how['path']} hold numbers that are not finite, in "
        f"{strange[:4]}: the file is damaged, or of a run that diverged."
    )
  faults = [
      *_other_settings(config, weights.settings, theirs),
      *_other_shapes(ours, theirs),
      *_other_length(config, weights.settings, theirs),
  ]
  if faults:
    raise ValueError("\n  ".join([
        f"the weights at {how['path']} are not for these towers:", *faults,
        "change these settings, or narrow weights.paths.",
    ]))
  if other := _other_pixels(config, weights.settings, theirs):
    _log.warning(
        "the weights at %s saw other images than this run shows them: %s",
        how["path"], "; ".join(other),
    )
  rest = sorted(ours.keys() - theirs.keys())
  _log.info(
      "%d parameters begin from %s, %d as they were drawn: %s",
      len(theirs), how["path"], len(rest), rest,
  )
  params = {
      path: _placed(path, theirs[path], leaf) if path in theirs else leaf
      for path, leaf in ours.items()
  }
  return types.TrainState(
      state.step, paths.unflatten(params), state.opt_state, state.memory,
      state.rng,
  )


def words(config: Mapping[str, Any]) -> vocabulary.Vocabulary | None:
  """The vocabulary of the text tower that a run begins from, if there is one.

  Args:
    config: complete, of a stage.

  Returns:
    A vocabulary; None where the text tower is not taken from weights.

  Raises:
    ValueError: if it is, and they hold no vocabulary.
  """
  how = config.get("weights")
  if how is None or not paths.any_of(how["paths"])(_WORDS):
    return None
  weights = schema.plugin("weights", how["name"])().read(how["path"])
  if _WORDS not in paths.flatten(weights.params):
    return None
  if weights.vocabulary is None:
    raise ValueError(
        f"the weights at {how['path']} have a text tower and no vocabulary, and "
        "ids of another one would stand for other words. Name theirs by "
        "tokenizer.model: a tokenizer.json, or a SentencePiece model with its "
        f"{vocabulary.SETTINGS} beside it. Or leave the tower out, as by "
        "weights.paths=('image/.*',)."
    )
  # Rows of this run's length, whatever that of the weights is.
  return vocabulary.Vocabulary(
      weights.vocabulary.content, config["text"]["length"])


def check_vocabulary(
    words: tokenizer.Tokenizer | vocabulary.Vocabulary, text: Mapping[str, Any]
) -> None:
  """Refuses a vocabulary that the text tower would misread in silence.

  Args:
    words: what makes token ids of captions.
    text: complete settings of the text tower.

  Raises:
    ValueError: with all reasons: more ids than `vocab`; padding that "masked"
      does not hide; a pooled place that would be that of the first token, or
      of padding, in every text.
  """
  faults = []
  if words.vocab > text["vocab"]:
    faults.append(
        f"the vocabulary has {words.vocab} pieces and text.vocab is "
        f"{text['vocab']}; set text.vocab to {words.vocab} or more."
    )
  if text.get("padding") == "masked" and words.pad_id != 0:
    faults.append(
        f"the vocabulary pads with id {words.pad_id} and text.padding='masked' "
        "hides id 0: padding would count as text; set text.padding='read', or "
        "give a vocabulary whose padding token is id 0."
    )
  if text.get("pool") == "first" and words.side == "left":
    faults.append(
        "text.pool is 'first' and the vocabulary puts padding on the left, "
        "before the first token; set text.pool='last', or padding_side='right' "
        f"in the vocabulary's {vocabulary.SETTINGS}."
    )
  if text.get("pool") == "eos":
    faults += _lost_eos(words, text["eos"])
  if faults:
    raise ValueError("\n  ".join(faults))


def _lost_eos(words, eos: int) -> list[str]:
  """Why texts would not be pooled where they end."""
  if words.end is None:
    return [
        f"text.pool is 'eos' and looks for text.eos={eos}, and the vocabulary "
        "ends texts in no id of its own: every text would be pooled at its "
        "first token. Set text.pool='last', or give a vocabulary that ends "
        "texts."
    ]
  if words.end != eos:
    return [
        f"text.pool is 'eos' and looks for text.eos={eos}, and the vocabulary "
        f"ends texts in id {words.end}: every text would be pooled at its "
        f"first token. Set text.eos={words.end}, or give the vocabulary that "
        "the tower was trained on."
    ]
  short, empty = words("a"), words("")
  if short[0] == eos and (short != empty).any():
    return [
        f"text.pool is 'eos' and takes the first id {eos}, and the vocabulary "
        "also begins texts with it, or pads them with it on the left: every "
        "text would be pooled there. Give a vocabulary that begins texts with "
        "another id and pads on the right, or set text.pool='last'."
    ]
  return []


def _other_settings(config, settings, theirs) -> list[str]:
  """What changes the meaning of parameters without changing their shapes."""
  towers = {path.split("/")[0] for path in theirs} & {"image", "text"}
  return [
      f"{tower}.{key} is {config[tower].get(key)!r}, the weights need {value!r}"
      for tower in sorted(towers) if config[tower] is not None
      for key, value in settings[tower].items()
      if key not in _SIZES and config[tower].get(key) != value
  ]


def _other_pixels(config, settings, theirs) -> list[str]:
  """What scales images otherwise, where evaluations see them.

  A random crop is noise of training alone, and becomes a middle there.
  """
  augment, wanted = config["augment"], settings.get("augment", {})
  taken = any(path.startswith("image/") for path in theirs)
  if not taken or augment["size"] is None:  # Then nothing is scaled.
    return []
  crop = "none" if augment["crop"] == "none" else "center"
  found = {"crop": crop, "method": augment["method"]}
  return [
      f"augment.{key} is {augment[key]!r}, theirs is {wanted[key]!r}"
      for key, value in found.items() if wanted.get(key, value) != value
  ]


def _other_shapes(ours, theirs) -> list[str]:
  return [
      f"{path} is {list(ours[path].shape)} here, {list(leaf.shape)} there"
      if path in ours else f"{path} {list(leaf.shape)} has no parameter here"
      for path, leaf in theirs.items()
      if path not in ours or not _fits(path, leaf, ours[path])
  ]


def _other_length(config, settings, theirs) -> list[str]:
  """Whether another text length would change what every text means.

  A causal tower, and one that masks its padding, gives a text the same vector
  at any length that it fits into. One that reads its padding does not.
  """
  if _WORDS not in theirs or config["text"] is None:
    return []
  length, text = settings["text"].get("length"), config["text"]
  if length in (None, text["length"]):
    return []
  if text.get("causal") or text.get("padding") != "read":
    return []
  return [
      f"text.length is {text['length']}, the weights need {length}: their tower "
      "reads its padding, and so every text at one length alone"
  ]


def _fits(path: str, theirs: Any, ours: Any) -> bool:
  """Whether it has our shape, or can be resized to it."""
  return theirs.shape == ours.shape or learned_positions.fits(
      path, theirs.shape, ours.shape)


def _placed(path: str, theirs: np.ndarray, ours: jax.Array) -> jax.Array:
  """Their parameter with the shape, dtype and sharding of ours."""
  values: Any = theirs
  if theirs.shape != ours.shape:
    values = learned_positions.resize(path, jax.numpy.asarray(theirs), ours)
  return jax.device_put(np.asarray(values, ours.dtype), ours.sharding)

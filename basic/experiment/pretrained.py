"""The initial state of a run: random, or taken from pretrained weights."""

import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from basic import paths, types
from basic.data import tokenizer, vocabulary
from basic.experiment import manual, schema
from basic.ops import learned_positions

# Settings that determine shapes of parameters, where they are compared.
_SIZES = (
    "width", "depth", "depths", "heads", "features", "mlp", "patch", "vocab",
    "length",
)

_TOKEN_EMBEDDINGS = "text/encoder/vocabulary"
_log = logging.getLogger(__name__)


def begin(
    state: types.TrainState, config: Mapping[str, Any]
) -> types.TrainState:
  """The state at step 0, with the pretrained weights of the configuration.

  Position embeddings of another patch grid are resized to this one. A shorter
  text length uses the first position embeddings of the weights. Parameters that
  the weights do not contain keep their random values, and are logged.

  Args:
    state: randomly initialised state of the first stage.
    config: complete configuration of that stage.

  Returns:
    The state with parameters replaced; shapes, dtypes and shardings are kept.

  Raises:
    ValueError: if the weights are for other towers, with a list of all
      differences, or contain values that are not finite.
    FileNotFoundError: if the file or folder does not exist.
  """
  initial = config.get("weights")
  if initial is None:
    return state
  weights = schema.plugin("weights", initial["name"])().read(initial["path"])
  theirs = selected(weights.params, initial)
  not_finite = [path for path, x in theirs.items() if not np.isfinite(x).all()]
  if not_finite:
    raise ValueError(
        f"the weights at {initial['path']} hold numbers that are not finite, in "
        f"{not_finite[:4]}: the file is damaged, or comes from a run that "
        "diverged."
    )
  check(state, config, weights.settings, theirs)
  return types.TrainState(
      state.step, loaded(state, config, theirs), state.opt_state, state.memory,
      state.rng,
  )


def selected(params: types.Params, initial: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters, by path, that the settings `weights` select."""
  chosen = paths.any_of(initial["paths"])
  return {
      path: leaf for path, leaf in paths.flatten(params).items() if chosen(path)
  }


def check(
    state: types.TrainState,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    theirs: Mapping[str, Any],
) -> None:
  """Rejects weights for other towers; warns of other image preprocessing.

  Args:
    state: randomly initialised state of the first stage, or its shapes.
    config: complete configuration of that stage.
    settings: groups of a configuration that the weights need.
    theirs: their parameters by path, or their shapes.

  Raises:
    ValueError: with a list of all differences.
  """
  initial = config["weights"]
  faults = [
      *_other_settings(config, settings, theirs),
      *_other_shapes(paths.flatten(state.params), theirs),
      *_other_length(config, settings, theirs),
  ]
  if faults:
    raise ValueError("\n  ".join([
        f"the weights at {initial['path']} are not for these towers:", *faults,
        "change these settings, or narrow weights.paths.",
    ]))
  if other := _other_pixels(config, settings, theirs):
    _log.warning(
        "the weights at %s were trained with other image preprocessing: %s",
        initial["path"], "; ".join(other),
    )


def loaded(
    state: types.TrainState, config: Mapping[str, Any], theirs: Mapping[str, Any]
) -> types.Params:
  """The parameters of a state, replaced where weights have them.

  What is resized, and what stays random, is logged.

  Args:
    state: randomly initialised state of the first stage.
    config: complete configuration of that stage.
    theirs: parameters by path that passed `check`.
  """
  ours, where = paths.flatten(state.params), config["weights"]["path"]
  rest = sorted(ours.keys() - theirs.keys())
  _log.info(
      "%d parameters are initialised from %s, %d at random: %s",
      len(theirs), where, len(rest), rest,
  )
  for path, leaf in theirs.items():
    if leaf.shape != ours[path].shape:
      _log.warning("%s", learned_positions.sentence(
          path, leaf.shape, ours[path].shape))
  return paths.unflatten({
      path: _placed(path, theirs[path], leaf) if path in theirs else leaf
      for path, leaf in ours.items()
  })


def words(config: Mapping[str, Any]) -> vocabulary.Vocabulary | None:
  """The vocabulary of the pretrained text tower that a run begins from.

  Args:
    config: complete configuration of a stage.

  Returns:
    A vocabulary; None if the text tower is not pretrained.

  Raises:
    ValueError: if the pretrained weights come without a vocabulary.
  """
  initial = config.get("weights")
  if initial is None or initial["name"] == manual.OWN or not reads_texts(initial):
    return None
  weights = schema.plugin("weights", initial["name"])().read(initial["path"])
  if _TOKEN_EMBEDDINGS not in paths.flatten(weights.params):
    return None
  return vocabulary_of(weights, initial["path"], config)


def reads_texts(initial: Mapping[str, Any]) -> bool:
  """Whether the settings `weights` select the embeddings of tokens."""
  return paths.any_of(initial["paths"])(_TOKEN_EMBEDDINGS)


def vocabulary_of(
    weights: Any, path: Any, config: Mapping[str, Any]
) -> vocabulary.Vocabulary | None:
  """The vocabulary of weights, at the text length of a configuration.

  Args:
    weights: as a format of weights/ reads them.
    path: where they come from, for messages.
    config: complete configuration of a stage.

  Returns:
    A vocabulary; None if the weights have no text tower.

  Raises:
    ValueError: if they have a text tower and no vocabulary.
  """
  if config["text"] is None:
    return None
  if weights.vocabulary is None:
    raise ValueError(
        f"the weights at {path} have a text tower and no vocabulary, "
        "and another vocabulary would give words other ids. Set tokenizer.model "
        "to theirs: a tokenizer.json, or a SentencePiece model with its "
        f"{vocabulary.SETTINGS} beside it. Or leave the tower out, for example "
        "with weights.paths=('image/.*',)."
    )
  # Texts are padded to this run's length, which may differ from the weights'.
  return vocabulary.Vocabulary(
      weights.vocabulary.content, config["text"]["length"],
      clean=weights.vocabulary.clean,
  )


def check_vocabulary(
    tokenize: tokenizer.Tokenizer | vocabulary.Vocabulary,
    text: Mapping[str, Any],
) -> None:
  """Rejects a vocabulary that the text tower would silently misread.

  Args:
    tokenize: captions -> token ids.
    text: complete settings of the text tower.

  Raises:
    ValueError: with all reasons: more ids than `vocab`; padding that "masked"
      does not hide; a pooled position that would be that of the first token,
      or of padding, in every text.
  """
  faults = []
  if tokenize.vocab > text["vocab"]:
    faults.append(
        f"the vocabulary has {tokenize.vocab} tokens and text.vocab is "
        f"{text['vocab']}; set text.vocab to {tokenize.vocab} or more."
    )
  if text.get("padding") == "masked" and tokenize.pad_id != 0:
    faults.append(
        f"the vocabulary pads with id {tokenize.pad_id} and text.padding='masked' "
        "masks id 0: padding would be read as text; set text.padding='read', or "
        "give a vocabulary whose padding token is id 0."
    )
  if text.get("pool") == "first" and tokenize.side == "left":
    faults.append(
        "text.pool is 'first' and the vocabulary puts padding on the left, "
        "before the first token; set text.pool='last', or padding_side='right' "
        f"in the vocabulary's {vocabulary.SETTINGS}."
    )
  if text.get("pool") == "eos":
    faults += _lost_eos(tokenize, text["eos"])
  if faults:
    raise ValueError("\n  ".join(faults))


def _lost_eos(tokenize, eos: int) -> list[str]:
  """Reasons why texts would not be pooled at their end token."""
  if tokenize.end is None:
    return [
        f"text.pool is 'eos' and looks for text.eos={eos}, and the vocabulary "
        "has no end token: every text would be pooled at its "
        "first token. Set text.pool='last', or give a vocabulary with an "
        "end token."
    ]
  if tokenize.end != eos:
    return [
        f"text.pool is 'eos' and looks for text.eos={eos}, and the vocabulary "
        f"ends texts with id {tokenize.end}: every text would be pooled at its "
        f"first token. Set text.eos={tokenize.end}, or give the vocabulary that "
        "the tower was trained on."
    ]
  short, empty = tokenize("a"), tokenize("")
  if short[0] == eos and (short != empty).any():
    return [
        f"text.pool is 'eos' and takes the first id {eos}, and the vocabulary "
        "also begins texts with it, or pads them with it on the left: every "
        "text would be pooled there. Give a vocabulary that begins texts with "
        "another id and pads on the right, or set text.pool='last'."
    ]
  return []


def _other_settings(config, settings, theirs) -> list[str]:
  """Differing settings that change what the towers compute, but no shapes."""
  towers = {path.split("/")[0] for path in theirs} & {"image", "text"}
  return [
      f"{tower}.{key} is {config[tower].get(key)!r}, the weights need {value!r}"
      for tower in sorted(towers) if config[tower] is not None
      for key, value in settings[tower].items()
      if key not in _SIZES and config[tower].get(key) != value
  ]


def _other_pixels(config, settings, theirs) -> list[str]:
  """Differences in the resizing and cropping of images at evaluation.

  There, a random crop of training is replaced by a center crop.
  """
  augment, expected = config["augment"], settings.get("augment", {})
  has_image_tower = any(path.startswith("image/") for path in theirs)
  if not has_image_tower or augment["size"] is None:  # Images are not resized.
    return []
  crop = "none" if augment["crop"] == "none" else "center"
  actual = {"crop": crop, "method": augment["method"]}
  if crop == "center":
    actual["offset"] = augment["offset"]
  return [
      f"augment.{key} is {augment[key]!r}, theirs is {expected[key]!r}"
      for key, value in actual.items() if expected.get(key, value) != value
  ]


def _other_shapes(ours, theirs) -> list[str]:
  """Parameters of the weights that have another shape here, or do not exist."""
  return [
      f"{path} is {list(ours[path].shape)} here, {list(leaf.shape)} there"
      if path in ours else f"{path} {list(leaf.shape)} has no parameter here"
      for path, leaf in theirs.items()
      if path not in ours or not _fits(path, leaf, ours[path])
  ]


def _other_length(config, settings, theirs) -> list[str]:
  """Whether another text length would change the embedding of every text.

  A causal tower, and one that masks its padding, embeds a text the same way at
  any length that the text fits into. One that attends to padding does not.
  """
  if _TOKEN_EMBEDDINGS not in theirs or config["text"] is None:
    return []
  length, text = settings["text"].get("length"), config["text"]
  if length in (None, text["length"]):
    return []
  if text.get("causal") or text.get("padding") != "read":
    return []
  if config["weights"].get("other_length"):
    _log.warning(
        "text.length is %d and was %d for the weights, whose tower attends to "
        "padding: every text has another embedding than with them", text["length"],
        length,
    )
    return []
  return [
      f"text.length is {text['length']}, the weights need {length}: their tower "
      "attends to padding, so its embeddings hold for one text length only; "
      "weights.other_length=True trains on from them all the same"
  ]


def _fits(path: str, theirs: Any, ours: Any) -> bool:
  """Whether their parameter has our shape, or can be resized to it."""
  return theirs.shape == ours.shape or learned_positions.fits(
      path, theirs.shape, ours.shape)


def _placed(path: str, theirs: Any, ours: jax.Array) -> jax.Array:
  """Their parameter with the shape, dtype and sharding of ours."""
  if theirs.shape == ours.shape:
    return jax.device_put(theirs.astype(ours.dtype), ours.sharding)
  # Compiled, for no process may hold all of `ours`.
  resize = jax.jit(
      functools.partial(learned_positions.resize, path),
      out_shardings=ours.sharding,
  )
  return resize(theirs, ours)

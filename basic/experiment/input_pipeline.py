"""Builds the input pipeline from settings: source, captions, tokenizer, batches."""

import os
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import jax

from basic import types
from basic.data import (
    captions,
    examples,
    images,
    pipeline,
    stalls,
    tokenizer,
    vocabulary,
)
from basic.experiment import pretrained, schema, settings
from basic.sharding import layout

Settings = settings.Settings
Tokenizer: TypeAlias = tokenizer.Tokenizer | vocabulary.Vocabulary


def run_tokenizer(
    configs: Sequence[Settings], workdir: str | os.PathLike
) -> Tokenizer | None:
  """The run's tokenizer.

  That of the run's folder if it has begun; else that of `tokenizer.model`; else
  that of the pretrained weights; else one trained on the source's captions.

  Args:
    configs: complete configurations of all stages.
    workdir: folder of the run, where a new vocabulary is stored.

  Returns:
    A tokenizer; None without a text tower.

  Raises:
    FileNotFoundError: if the run has begun and its vocabulary is missing.
    ValueError: if the vocabulary has more tokens than the text tower's
      embedding table, or another end or padding token than the tower expects;
      or if the text tower is pretrained, its weights come without a vocabulary,
      and `tokenizer.model` is not set.
  """
  with_text = [c for c in configs if c["text"] is not None]
  if not with_text:
    return None
  config, folder = with_text[0], pathlib.Path(workdir)
  text, model_path = config["text"], config["tokenizer"]["model"]
  # A vocabulary without config.json is left over from a start that failed.
  if (folder / "config.json").exists():
    return _stored(folder, text["length"])
  if model_path is not None:
    result = _from_file(pathlib.Path(model_path), text["length"])
  else:
    result = pretrained.words(config) or _trained(config)
  for each in with_text:
    pretrained.check_vocabulary(result, each["text"])
  _store(result, folder)
  return result


def at_length(tokenize: Tokenizer | None, config: Settings) -> Tokenizer | None:
  """The tokenizer of a stage: the run's vocabulary, at the stage's text length."""
  length = None if config["text"] is None else config["text"]["length"]
  if tokenize is None or length in (None, tokenize.length):
    return tokenize
  return type(tokenize)(tokenize.content, length)


def _stored(folder: pathlib.Path, length: int) -> Tokenizer:
  """The tokenizer of a run that has begun."""
  if (folder / tokenizer.FILE).exists():
    return tokenizer.Tokenizer(tokenizer.load(folder), length)
  if (folder / vocabulary.FILE).exists():
    content = (folder / vocabulary.FILE).read_bytes()
    return vocabulary.Vocabulary(content, length)
  # A new vocabulary would map captions to ids that the run was not trained on.
  raise FileNotFoundError(
      f"{folder} holds a run with a text tower, but neither {tokenizer.FILE} nor "
      f"{vocabulary.FILE}; restore the file that the run began with, or use "
      "another --workdir."
  )


def _from_file(path: pathlib.Path, length: int) -> Tokenizer:
  """A vocabulary of this library, or one in another library's format."""
  try:
    return tokenizer.Tokenizer(path.read_bytes(), length)
  except ValueError:
    return vocabulary.read(path, length)


def _trained(config: Settings) -> tokenizer.Tokenizer:
  """A tokenizer trained on captions of the source."""
  source = schema.make("sources", config["source"])
  content = tokenizer.train(
      captions.spread(
          source, config["tokenizer"]["captions"],
          caption=caption(source, config["captions"]), seed=config["seed"],
      ),
      vocab=config["text"]["vocab"], seed=config["seed"],
  )
  return tokenizer.Tokenizer(content, config["text"]["length"])


def _store(new: Tokenizer, folder: pathlib.Path) -> None:
  """Writes the vocabulary; removes one of the other kind from a failed start."""
  if isinstance(new, tokenizer.Tokenizer):
    tokenizer.save(new.content, folder)
    (folder / vocabulary.FILE).unlink(missing_ok=True)
  else:
    vocabulary.save(new.content, folder)
    (folder / tokenizer.FILE).unlink(missing_ok=True)


def caption(
    source: types.Source, templates: Settings | None
) -> captions.Caption | None:
  """Makes captions from labels; None if examples have texts of their own."""
  if templates is None:
    return None
  return captions.captions(classes=getattr(source, "classes", ()), **templates)


def to_arrays(
    source: types.Source,
    tokenize: Callable[[Any], Any] | None,
    config: Settings,
    templates: Settings | None,
    *,
    embedded: Collection[str] = (),
) -> examples.Prepare:
  """The function that turns an example into arrays.

  Args:
    source: source of the examples.
    tokenize: caption -> token ids; None without text.
    config: complete configuration of the stage.
    templates: settings of captions made from labels; None: the examples' text.
    embedded: fields that hold stored embeddings, and are left as they are.

  Returns:
    As `examples.prepare` does.
  """
  if config["text"] is None:
    tokenize = templates = None  # Another stage may have a text tower.
  augment = images.augment(**config["augment"])
  return examples.prepare(
      tokenize=tokenize, augment=None if "image" in embedded else augment,
      caption=caption(source, templates),
  )


def stream(
    source: types.Source,
    prepare: examples.Prepare,
    batch_size: int,
    seed: int,
    patience: stalls.Patience,
    position: int,
) -> pipeline.Stream:
  """This process's rows of the batches, starting at a position in the data."""
  return pipeline.stream(
      source, prepare=prepare, batch_size=batch_size, seed=seed, start=position,
      shard=(jax.process_index(), jax.process_count()), patience=patience,
  )


def patience(config: Settings) -> stalls.Patience:
  """How long a stage waits while no example is read."""
  group = config["unreadable"]
  return stalls.Patience(group["warn_after"], group["stop_after"])


def shapes(
    source: types.Source, prepare: examples.Prepare, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """ShapeDtypeStructs of a global batch, from one example."""
  with pipeline.stream(
      source, prepare=prepare, batch_size=1, seed=0, threads=0
  ) as one:
    return {
        name: jax.ShapeDtypeStruct((batch_size, *field.shape[1:]), field.dtype)
        for name, field in next(one).items()
        if layout.holds(field)
    }


def batch_shapes(
    config: Settings, tokenize: Callable[[Any], Any] | None
) -> dict[str, jax.ShapeDtypeStruct]:
  """ShapeDtypeStructs of a stage's global batch, from one example."""
  source = schema.make("sources", config["source"])
  arrays = to_arrays(source, tokenize, config, config["captions"])
  return shapes(source, arrays, config["batch_size"])

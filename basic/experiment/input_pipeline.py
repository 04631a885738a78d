"""From settings to data: what a stage reads, in which words, as which arrays."""

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
  tokenizer,
  vocabulary,
)
from basic.experiment import pretrained, schema, settings
from basic.sharding import layout

Settings = settings.Settings
Words: TypeAlias = tokenizer.Tokenizer | vocabulary.Vocabulary


def words(
    configs: Sequence[Settings], workdir: str | os.PathLike
) -> Words | None:
  """The run's vocabulary: stored, given, its weights', or of its captions.

  Args:
    configs: complete, of every stage.
    workdir: folder of the run, where a new vocabulary is stored.

  Returns:
    What makes token ids of captions; None without a text tower.

  Raises:
    ValueError: if it has more pieces than the text tower knows, or ends or
      pads texts in other ids than the tower looks for, or the tower is taken
      from weights that hold no vocabulary, and none is given.
  """
  texts = [c for c in configs if c["text"] is not None]
  if not texts:
    return None
  config, folder = texts[0], pathlib.Path(workdir)
  text, given = config["text"], config["tokenizer"]["model"]
  # Without a configuration it is left from a start that failed.
  if (folder / "config.json").exists():
    if found := _stored(folder, text["length"]):
      return found
  if given is not None:
    made = _given(pathlib.Path(given), text["length"])
  else:
    made = pretrained.words(config) or _trained(config)
  for each in texts:
    pretrained.check_vocabulary(made, each["text"])
  _store(made, folder)
  return made


def _stored(folder: pathlib.Path, length: int) -> Words | None:
  if (folder / tokenizer.FILE).exists():
    return tokenizer.Tokenizer(tokenizer.load(folder), length)
  if (folder / vocabulary.FILE).exists():
    content = (folder / vocabulary.FILE).read_bytes()
    return vocabulary.Vocabulary(content, length)
  return None


def _given(path: pathlib.Path, length: int) -> Words:
  """A vocabulary of ours, or of others."""
  try:
    return tokenizer.Tokenizer(path.read_bytes(), length)
  except ValueError:
    return vocabulary.read(path, length)


def _trained(config: Settings) -> tokenizer.Tokenizer:
  source = schema.make("sources", config["source"])
  content = tokenizer.train(
      captions.spread(
          source, config["tokenizer"]["captions"],
          caption=caption(source, config["captions"]), seed=config["seed"],
      ),
      vocab=config["text"]["vocab"], seed=config["seed"],
  )
  return tokenizer.Tokenizer(content, config["text"]["length"])


def _store(words: Words, folder: pathlib.Path) -> None:
  """Writes it down, and removes what a start that failed left instead of it."""
  if isinstance(words, tokenizer.Tokenizer):
    tokenizer.save(words.content, folder)
    (folder / vocabulary.FILE).unlink(missing_ok=True)
  else:
    vocabulary.save(words.content, folder)
    (folder / tokenizer.FILE).unlink(missing_ok=True)


def caption(
    source: types.Source, how: Settings | None
) -> captions.Caption | None:
  """What says an example's labels in words; None: it has text of its own."""
  if how is None:
    return None
  return captions.captions(classes=getattr(source, "classes", ()), **how)


def prepare(
    source: types.Source,
    words: Callable[[Any], Any] | None,
    config: Settings,
    how: Settings | None,
    *,
    given: Collection[str] = (),
) -> examples.Prepare:
  """What turns an example into arrays.

  Args:
    source: of the examples.
    words: caption -> token ids; None where there is no text.
    config: complete, of the stage.
    how: settings of captions made of labels; None: the source's own text.
    given: leaves that are embeddings already, and stay as they are.

  Returns:
    As `pipeline.prepare` does.
  """
  if config["text"] is None:
    words = how = None  # Of the stages with a text tower, not of this one.
  augment = images.augment(**config["augment"])
  return pipeline.prepare(
      tokenize=words, augment=None if "image" in given else augment,
      caption=caption(source, how),
  )


def stream(
    source: types.Source,
    ready: examples.Prepare,
    batch_size: int,
    seed: int,
    position: int,
) -> pipeline.Stream:
  """This process's rows of the batches from a position on."""
  return pipeline.stream(
      source, prepare=ready, batch_size=batch_size, seed=seed, start=position,
      shard=(jax.process_index(), jax.process_count()),
  )


def shapes(
    source: types.Source, ready: examples.Prepare, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a global batch, from one example."""
  with pipeline.stream(
      source, prepare=ready, batch_size=1, seed=0, threads=0
  ) as one:
    return {
        name: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in next(one).items()
        if layout.holds(leaf)
    }


def batch_shapes(
    config: Settings, tokenize: Callable[[Any], Any] | None
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a global batch of a stage, from one example of its source."""
  source = schema.make("sources", config["source"])
  ready = prepare(source, tokenize, config, config["captions"])
  return shapes(source, ready, config["batch_size"])

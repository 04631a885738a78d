"""From settings to data: sources, captions, the tokenizer, and arrays."""

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
Tokenizer: TypeAlias = tokenizer.Tokenizer | vocabulary.Vocabulary


def run_tokenizer(
    configs: Sequence[Settings], workdir: str | os.PathLike
) -> Tokenizer | None:
  """The run's tokenizer: stored, given, its weights', or of its captions.

  Args:
    configs: complete, of every stage.
    workdir: folder of the run, where a new vocabulary is stored.

  Returns:
    What makes token ids of captions; None without a text tower.

  Raises:
    FileNotFoundError: if a run began in the folder, and its vocabulary is gone.
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
    return _stored(folder, text["length"])
  if given is not None:
    made = _given(pathlib.Path(given), text["length"])
  else:
    made = pretrained.words(config) or _trained(config)
  for each in texts:
    pretrained.check_vocabulary(made, each["text"])
  _store(made, folder)
  return made


def _stored(folder: pathlib.Path, length: int) -> Tokenizer:
  if (folder / tokenizer.FILE).exists():
    return tokenizer.Tokenizer(tokenizer.load(folder), length)
  if (folder / vocabulary.FILE).exists():
    content = (folder / vocabulary.FILE).read_bytes()
    return vocabulary.Vocabulary(content, length)
  # Another one would give the same captions other ids than those learned.
  raise FileNotFoundError(
      f"{folder} holds a run with a text tower, and neither {tokenizer.FILE} nor "
      f"{vocabulary.FILE}; put back the file that the run began with, or use "
      "another --workdir."
  )


def _given(path: pathlib.Path, length: int) -> Tokenizer:
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


def _store(made: Tokenizer, folder: pathlib.Path) -> None:
  """Writes the vocabulary, and removes what a start that failed left."""
  if isinstance(made, tokenizer.Tokenizer):
    tokenizer.save(made.content, folder)
    (folder / vocabulary.FILE).unlink(missing_ok=True)
  else:
    vocabulary.save(made.content, folder)
    (folder / tokenizer.FILE).unlink(missing_ok=True)


def caption(
    source: types.Source, templates: Settings | None
) -> captions.Caption | None:
  """What makes a caption of an example's labels; None: it has its own text."""
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
  """What turns an example into arrays.

  Args:
    source: of the examples.
    tokenize: caption -> token ids; None where there is no text.
    config: complete, of the stage.
    templates: settings of captions made of labels; None: the source's own text.
    embedded: fields that are embeddings already, and stay as they are.

  Returns:
    As `examples.prepare` does.
  """
  if config["text"] is None:
    tokenize = templates = None  # Other stages have a text tower, this has none.
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
    position: int,
) -> pipeline.Stream:
  """This process's rows of the batches from a position on."""
  return pipeline.stream(
      source, prepare=prepare, batch_size=batch_size, seed=seed, start=position,
      shard=(jax.process_index(), jax.process_count()),
  )


def shapes(
    source: types.Source, prepare: examples.Prepare, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a global batch, from one example."""
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
  """Shapes of a global batch of a stage, from one example of its source."""
  source = schema.make("sources", config["source"])
  arrays = to_arrays(source, tokenize, config, config["captions"])
  return shapes(source, arrays, config["batch_size"])

"""Builds the input pipeline from settings: source, captions, tokenizer, batches."""

import hashlib
import logging
import math
import os
import pathlib
import random
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any, TypeAlias

import jax

from basic import types
from basic.data import (
    captions,
    cleaning,
    examples,
    images,
    pipeline,
    stalls,
    tokenizer,
    vocabulary,
)
from basic.experiment import manual, pretrained, schema, settings
from basic.recording import manifest
from basic.sharding import layout

Settings = settings.Settings
Tokenizer: TypeAlias = tokenizer.Tokenizer | vocabulary.Vocabulary

_MEASURED = 1_000  # captions whose length is measured
_log = logging.getLogger(__name__)


def run_tokenizer(
    configs: Sequence[Settings], workdir: str | os.PathLike
) -> Tokenizer | None:
  """The run's tokenizer.

  That of the run's folder if it has begun; else that of `tokenizer.model`; else
  that of the weights that it begins from; else one trained on the source's
  captions.
  A tokenizer_config.json beside it says how captions are cleaned.

  Args:
    configs: complete configurations of all stages.
    workdir: folder of the run, where a new vocabulary is stored.

  Returns:
    A tokenizer; None without a text tower.

  Raises:
    FileNotFoundError: if the run has begun and its vocabulary is missing, or
      there is no file `tokenizer.model`.
    ValueError: if the vocabulary has more tokens than the text tower's
      embedding table, or another end or padding token than the tower expects;
      if the text tower is pretrained, its weights come without a vocabulary,
      and `tokenizer.model` is not set; or a file is damaged.
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
    result = from_file(pathlib.Path(model_path), text["length"])
  else:
    result = _of_run(config) or pretrained.words(config) or _trained(config)
  if config["tokenizer"]["clean"] is not None:
    result = _as(result, result.length, config["tokenizer"]["clean"])
  for each in with_text:
    pretrained.check_vocabulary(result, each["text"])
  _store(result, folder)
  return result


def at_length(tokenize: Tokenizer | None, config: Settings) -> Tokenizer | None:
  """The tokenizer of a stage: the run's vocabulary, at the stage's text length."""
  length = None if config["text"] is None else config["text"]["length"]
  if tokenize is None or length in (None, tokenize.length):
    return tokenize
  return _as(tokenize, length, tokenize.clean)


def _as(tokenize: Tokenizer, length: int, clean: str | None) -> Tokenizer:
  """The same vocabulary at another length, or with another cleaning."""
  return type(tokenize)(tokenize.content, length, clean=clean)


def fingerprint(workdir: str | os.PathLike) -> str | None:
  """A hash of the files that hold a run's vocabulary; None without a vocabulary.

  It is saved with every checkpoint, whose embeddings have no meaning with the
  ids of another vocabulary.
  """
  folder, found = pathlib.Path(workdir), hashlib.sha256()
  kinds = (tokenizer.FILE, vocabulary.FILE)
  first = next((name for name in kinds if (folder / name).exists()), None)
  if first is None:
    return None
  for name in (first, vocabulary.SETTINGS):
    if (folder / name).exists():
      content = (folder / name).read_bytes()
      found.update(f"{name} {len(content)} ".encode() + content)
  return found.hexdigest()[:32]


def _stored(folder: pathlib.Path, length: int) -> Tokenizer:
  """The tokenizer of a run that has begun."""
  clean = vocabulary.settings(folder).get("clean")
  if (folder / tokenizer.FILE).exists():
    return tokenizer.Tokenizer(tokenizer.load(folder), length, clean)
  if (folder / vocabulary.FILE).exists():
    content = (folder / vocabulary.FILE).read_bytes()
    try:
      return vocabulary.Vocabulary(content, length, clean=clean)
    except ValueError as error:
      raise ValueError(
          f"{folder / vocabulary.FILE}: {error}; restore the file that the run "
          "began with"
      ) from error
  # A new vocabulary would map captions to ids that the run was not trained on.
  raise FileNotFoundError(
      f"{folder} holds a run with a text tower, but neither {tokenizer.FILE} nor "
      f"{vocabulary.FILE}; restore the file that the run began with, or use "
      "another --workdir."
  )


def from_file(path: pathlib.Path, length: int) -> Tokenizer:
  """A vocabulary of this library, or one in another library's format.

  Args:
    path: the file, as `tokenizer.model` names it.
    length: of the texts, in tokens.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it holds no vocabulary, or does not say how texts are padded.
  """
  content, beside = _content(path), vocabulary.settings(path.parent)
  if content.lstrip()[:1] != b"{":
    try:
      return tokenizer.Tokenizer(content, length, beside.get("clean"))
    except ValueError as error:
      if vocabulary.padding(beside)[0] is None:
        raise ValueError(
            f"{path}: {error}. If it is of another project, its padding token "
            f"must be named in a {vocabulary.SETTINGS} beside it, such as "
            '{"pad_token": "</s>", "tokenizer_class": "SiglipTokenizer"} for '
            "SigLIP"
        ) from error
  try:
    return vocabulary.read(path, length)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _content(path: pathlib.Path) -> bytes:
  """The content of the file that `tokenizer.model` names."""
  advice = (
      "Give the file of a vocabulary, which `python -m basic.prepare vocabulary "
      "--out=FILE` trains, or leave it out: the run then trains its own."
  )
  if path.is_dir():
    raise ValueError(f"tokenizer.model is {str(path)!r}, which is a folder. {advice}")
  try:
    return path.read_bytes()
  except FileNotFoundError as error:
    raise FileNotFoundError(
        f"tokenizer.model is {str(path)!r}, and there is no such file. {advice}"
    ) from error


def _of_run(config: Settings) -> Tokenizer | None:
  """The vocabulary of the run whose text tower this run begins from."""
  initial = config["weights"]
  if initial is None or initial["name"] != manual.OWN:
    return None
  folder = pathlib.Path(initial["path"])
  stored = manifest.load(folder / "config.json")
  if stored is None:
    raise FileNotFoundError(
        f"weights.path is {initial['path']!r}, which holds no config.json, so it is "
        "not the folder of a run; give the --workdir that its training was given."
    )
  texts = [each.get("text") for each in (stored, *(stored.get("stages") or ()))]
  if not any(texts) or not pretrained.reads_texts(initial):
    return None
  return _stored(folder, config["text"]["length"])


def _trained(config: Settings) -> tokenizer.Tokenizer:
  """A tokenizer trained on captions of the source."""
  source = schema.make("sources", config["source"])
  texts = captions.spread(
      source, config["tokenizer"]["captions"],
      caption=caption(source, config["captions"]), seed=config["seed"],
  )
  clean = cleaning.cleaner(config["tokenizer"]["clean"])
  some: list[str] = []
  content = tokenizer.train(
      _noted(texts if clean is None else map(clean, texts), some),
      vocab=config["text"]["vocab"], seed=config["seed"],
  )
  made = tokenizer.Tokenizer(content, config["text"]["length"])
  _say_how_long(made, some)
  return made


def _noted(texts: Iterable[str], kept: list[str]) -> Iterator[str]:
  """The texts; a random sample of them, drawn evenly, is put into `kept`."""
  rng = random.Random(0)
  for number, text in enumerate(texts):
    if number < _MEASURED:
      kept.append(text)
    elif (place := rng.randrange(number + 1)) < _MEASURED:
      kept[place] = text
    yield text


def _say_how_long(made: tokenizer.Tokenizer, texts: Sequence[str]) -> None:
  """Warns if some captions are cut off, since they are longer than a row."""
  lengths = sorted(len(made.ids(text)) + 1 for text in texts)  # with the end
  cut = sum(length > made.length for length in lengths)
  if cut:
    _log.warning(
        "%.3g%% of the captions have more than text.length=%d tokens, and what is "
        "beyond is cut off; 99%% have at most %d.", 100 * cut / len(lengths),
        made.length, lengths[math.ceil(0.99 * len(lengths)) - 1],
    )


def _store(new: Tokenizer, folder: pathlib.Path) -> None:
  """Writes the vocabulary; removes what is left from a start that failed."""
  if isinstance(new, tokenizer.Tokenizer):
    tokenizer.save(new.content, folder)
    (folder / vocabulary.FILE).unlink(missing_ok=True)
  else:
    vocabulary.save(new.content, folder)
    (folder / tokenizer.FILE).unlink(missing_ok=True)
  if new.clean is None:
    (folder / vocabulary.SETTINGS).unlink(missing_ok=True)
  else:
    vocabulary.save_settings({"clean": new.clean}, folder)


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
  looks = {
      field: schema.make("augmentations", each)
      for field, each in config["looks"].items()
  }
  return examples.prepare(
      tokenize=tokenize, augment=None if "image" in embedded else augment,
      caption=caption(source, templates), looks=looks,
  )


def stream(
    source: types.Source,
    prepare: examples.Prepare,
    batch_size: int,
    seed: int,
    loader: Settings,
    patience: stalls.Patience,
    position: int,
) -> pipeline.Stream:
  """This process's rows of the batches, starting at a position in the data."""
  return pipeline.stream(
      source, prepare=prepare, batch_size=batch_size, seed=seed, start=position,
      shard=(jax.process_index(), jax.process_count()), patience=patience,
      **loader,
  )


def order(config: Settings) -> dict[str, Any]:
  """The settings of a stage that decide in which order examples are read."""
  return {name: config["loader"][name] for name in ("shuffle", "window")}


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

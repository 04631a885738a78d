"""Trains a vocabulary on the captions of a source, once and for all runs."""

import logging
import pathlib
from collections.abc import Iterable

import numpy as np

from basic import files, types
from basic.data import captions as data_captions
from basic.data import cleaning, tokenizer
from basic.data import vocabulary as data_vocabulary

# Captions that the report is of, and the most ids that it counts of one.
_JUDGED, _LONGEST = 10_000, 4096
_SUFFIXES = (".model", ".spm")  # of other vocabularies
_PERCENTILES = (50, 90, 95, 99, 100)

_log = logging.getLogger(__name__)


def vocabulary(
    *,
    source: types.Source,
    out: str,
    size: int = 32_000,
    captions: int = 1_000_000,
    templates: tuple[str, ...] | None = None,
    clean: str | None = None,
    length: int = 64,
    seed: int = 0,
) -> types.Counts:
  """Trains a SentencePiece vocabulary on captions, and says what it covers.

  A run uses it with `tokenizer=dict(model=OUT)`. The same source and settings
  give the same file.

  Args:
    source: settings of the source: {"name": "folder", "path": "pictures"}.
    out: the file to write, such as tokenizer.model. With `clean`, a
      tokenizer_config.json beside it says so, and runs clean captions alike.
    size: the largest number of pieces, text.vocab of the runs.
    captions: number of examples, at equal distances, whose captions are read.
    templates: makes captions from the labels of the examples:
      ("a photo of {}",); None: the captions that they have.
    clean: how captions are cleaned first: "none", "whitespace", "lower" or
      "canonicalize" (data/cleaning.py).
    length: ids of a row, the end included, text.length of the runs; the report
      says how many captions are longer.
    seed: of the choice of captions where there are more than five million.

  Returns:
    The number of pieces, of captions that were learned from, and of those that
    were judged: of up to 10,000 examples at equal distances. Of these, percentages
    (ids of unknown text, ids of single bytes, captions beyond `length`), the
    mean number of ids with the end, and its percentiles; at most 4,096 ids of a
    caption are counted.

  Raises:
    ValueError: if the source has no caption that is text, `size` cannot hold
      its characters, `length` is not positive, there is no such cleaning, or
      `out` is a folder, or in one with a vocabulary of another cleaning.
    OSError: if the file cannot be written; an old one is then kept.
  """
  path = _file(out, clean)
  if length < 1:
    raise ValueError(f"length is {length}; a row has at least 1 id")
  make, caption = cleaning.cleaner(clean), None
  if templates is not None:
    caption = data_captions.captions(
        classes=getattr(source, "classes", ()), templates=templates)

  def read(count):
    return data_captions.spread(source, count, caption=caption, seed=seed)

  texts = [text if make is None else make(text) for text in read(captions)]
  model = tokenizer.train(texts, vocab=size, seed=seed)
  files.replace(path, model)
  _tell(path.parent, clean)
  _log.info("wrote %s", path)
  words = tokenizer.Tokenizer(model, _LONGEST, clean)
  return {
      "pieces": words.vocab, "captions learned from": len(texts),
      **_coverage(words, read(_JUDGED), length),
  }


def _file(out: str, clean: str | None) -> pathlib.Path:
  """The file to write, if nothing that is there is spoiled by it."""
  path = files.checked("--out", out)
  if path.is_dir():
    raise ValueError(
        f"--out is {out!r}, which is a folder; name the file in it, such as "
        f"{path / tokenizer.FILE}."
    )
  files.folder("the folder of --out", path.parent)
  if not path.parent.is_dir():
    return path
  now = data_vocabulary.settings(path.parent).get("clean")
  others = sorted(
      each.name for each in path.parent.iterdir()
      if each.name != path.name
      and (each.suffix in _SUFFIXES or each.name == data_vocabulary.FILE)
  )
  if others and now != clean:
    raise ValueError(
        f"--out is {out!r}, and {data_vocabulary.SETTINGS} there says that captions "
        f"are cleaned by {now!r}, also for {others[0]}; with clean={clean!r} that "
        "vocabulary would change. Write to a folder of its own, or clean alike."
    )
  return path


def _tell(folder: pathlib.Path, clean: str | None) -> None:
  """Says in the folder how captions are cleaned, or no longer that they are."""
  before = data_vocabulary.settings(folder)
  now = {name: value for name, value in before.items() if name != "clean"}
  if clean is not None:
    now["clean"] = clean
  if now != before:
    data_vocabulary.save_settings(now, folder)


def _coverage(
    words: tokenizer.Tokenizer, texts: Iterable[str], length: int
) -> types.Counts:
  rows = [words.ids(text) for text in texts]
  ids = np.asarray([i for row in rows for i in row], np.int64)
  lengths = np.asarray([len(row) + 1 for row in rows])
  spelled = np.asarray(sorted(words.byte_ids), np.int64)
  percentiles = np.percentile(lengths, _PERCENTILES, method="higher")
  return {
      "captions judged": len(rows),
      "% of ids unknown": _percent(ids == tokenizer.UNK),
      "% of ids single bytes": _percent(np.isin(ids, spelled)),
      f"% of captions beyond {length} ids": _percent(lengths > length),
      "ids of a caption, mean": round(float(lengths.mean()), 2),
      **{
          f"ids of a caption, {p}%": int(n)
          for p, n in zip(_PERCENTILES, percentiles, strict=True)
      },
  }


def _percent(found: np.ndarray) -> float:
  return round(100 * float(found.mean()), 4) if found.size else 0.0

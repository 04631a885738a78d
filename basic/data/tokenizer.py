"""Text to int32[t] and back, by a SentencePiece vocabulary trained here.

Ids 0 to 3 are always pad, unk, bos and eos. A row of ids is the caption, then
eos, then padding (zeros). Even an empty caption ends in eos, so that no text is
all padding and a mean over its tokens is finite.
"""

import hashlib
import io
import logging
import os
import pathlib
import random
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece
from jaxtyping import Int, Int32

from basic import files, types
from basic.data import _sentencepiece, cleaning

PAD, UNK, BOS, EOS = 0, 1, 2, 3
FILE = "tokenizer.model"

# Byte fallback takes 256 pieces, and pays only where at least as many are left
# for words. In smaller vocabularies, characters unseen in training become unk.
_LEAST_WITH_BYTES = 512

# Longer captions are cut, since SentencePiece would skip them entirely. UTF-8
# needs at most four bytes per character.
_MOST_CHARACTERS = 4096
_MOST_CAPTIONS = 5_000_000

_log = logging.getLogger(__name__)


def train(captions: Iterable[str], *, vocab: int, seed: int = 0) -> bytes:
  """Learns a vocabulary from captions.

  Byte-pair encoding (BPE) of text that is normalized to Unicode NFKC and
  case-folded, because captions differ in case and width far more than in
  meaning. It is deterministic: the same captions give the same pieces, and
  even a few captions fill the vocabulary.

  With 512 pieces or more, 256 of them are the bytes (byte fallback), so that
  different texts have different ids. Smaller vocabularies spend their pieces on
  words: they keep every character of the captions, and turn others into unk.

  Args:
    captions: at least one that is not blank. Beyond five million, a random
      five million are used.
    vocab: the largest number of pieces, including the four special ones. There
      are fewer if the captions do not yield that many; see `Tokenizer.vocab`.
    seed: of the choice of captions where there are too many.

  Returns:
    A serialized SentencePiece model, for `Tokenizer` and `save`.

  Raises:
    ValueError: if no caption has a visible character, or `vocab` cannot hold
      the characters of the captions.
    types.Unreadable: if a caption is not a `str`.

  References:
    Kudo and Richardson, SentencePiece, 2018. https://arxiv.org/abs/1808.06226

  Example:
    >>> model = train(["a red cat", "a blue cat"], vocab=40)
    >>> Tokenizer(model, 8).decode(Tokenizer(model, 8)("A RED cat"))
    'a red cat'
  """
  with_bytes = vocab >= _LEAST_WITH_BYTES
  _log.info(
      "vocabulary of %d pieces %s byte pieces (bytes need at least %d)",
      vocab, "with" if with_bytes else "without", _LEAST_WITH_BYTES,
  )
  model = io.BytesIO()
  sentences = _sample(captions, seed)
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab,
        hard_vocab_limit=False,
        byte_fallback=with_bytes,
        # With byte fallback, rare characters need no piece of their own.
        character_coverage=0.9995 if with_bytes else 1.0,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=PAD, unk_id=UNK, bos_id=BOS, eos_id=EOS,
        max_sentence_length=4 * _MOST_CHARACTERS,
        num_threads=1,
        minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(_why_untrained(str(error), vocab)) from error
  return model.getvalue()


def _sample(captions: Iterable[str], seed: int) -> list[str]:
  """Captions as valid UTF-8, cut to the length that the trainer accepts.

  Of more than `_MOST_CAPTIONS`, a uniform sample is taken (reservoir sampling).
  """
  rng, sample = random.Random(seed), []
  for n, caption in enumerate(captions):
    text = _text(caption)[:_MOST_CHARACTERS]
    if n < _MOST_CAPTIONS:
      sample.append(text)
    elif (slot := rng.randrange(n + 1)) < _MOST_CAPTIONS:
      sample[slot] = text
  return sample


def _text(caption: object) -> str:
  """The caption, with "?" for lone surrogates, which UTF-8 cannot encode."""
  if not isinstance(caption, str):
    raise types.Unreadable(
        "caption is not text",
        f"found {type(caption).__name__}, expected str; decode bytes in the "
        "source, where their encoding is known",
    )
  return caption.encode("utf-8", "replace").decode("utf-8")


def _why_untrained(error: str, vocab: int) -> str:
  if "required_chars" in error:
    return (
        f"a vocabulary of {vocab} pieces cannot hold every character of these "
        f"captions and the special pieces; give a larger vocab ({error})"
    )
  if "sentences_.empty()" in error or "all_chars_count" in error:
    return "no caption has a visible character; a vocabulary needs at least one"
  return f"SentencePiece could not train a vocabulary of {vocab} pieces: {error}"


class Tokenizer:
  """Turns captions into rows of ids, all of one length.

  It accepts any text: unknown characters become unk, and a text that is too
  long is truncated, but still ends in eos. A written "</s>" is text. It can be
  pickled, and shared by threads.

  Args:
    model: from `train` or `load`.
    length: ids per row, t; at least 1.
    clean: how captions are cleaned first, one of `cleaning.NAMES`; None: not.

  Raises:
    ValueError: if `model` is not a SentencePiece model whose ids 0 to 3 are
      pad, unk, bos and eos, `length` is not positive, or there is no such
      cleaning.

  Example:
    >>> tokenize = Tokenizer(train(["a cat"], vocab=8), 6)
    >>> tokenize("").tolist()
    [3, 0, 0, 0, 0, 0]
  """

  def __init__(self, model: bytes, length: int, clean: str | None = None):
    if length < 1:
      raise ValueError(f"found length {length}; a row needs at least 1 id")
    self.length, self.clean = length, clean
    self._clean = cleaning.cleaner(clean)
    self._model = model
    self._pieces = _open(model)

  def __getstate__(self) -> dict:
    return {"length": self.length, "model": self._model, "clean": self.clean}

  def __setstate__(self, state: dict) -> None:
    self.__init__(state["model"], state["length"], state["clean"])

  @property
  def content(self) -> bytes:
    """The model, for `save`."""
    return self._model

  @property
  def vocab(self) -> int:
    """The number of pieces; every id is below it."""
    return self._pieces.get_piece_size()

  @property
  def end(self) -> int:
    """The id that ends every text."""
    return EOS

  @property
  def byte_ids(self) -> frozenset[int]:
    """The ids of single bytes, which spell what has no piece; perhaps none."""
    return frozenset(i for i in range(self.vocab) if self._pieces.is_byte(i))

  @property
  def pad_id(self) -> int:
    """The id of the padding token."""
    return PAD

  @property
  def side(self) -> str:
    """The side that is padded."""
    return "right"

  @property
  def fingerprint(self) -> str:
    """Identifies the vocabulary: a hash of everything that determines ids."""
    found = hashlib.sha256(_sentencepiece.essence(self._model))
    found.update(str(self.clean).encode())
    return found.hexdigest()[:16]

  def __call__(self, text: object) -> Int32[np.ndarray, "t"]:
    """One row of ids.

    Args:
      text: a caption, a `str` of any length.

    Returns:
      The ids of the caption, eos, and padding up to `length`.

    Raises:
      types.Unreadable: if `text` is not a `str`.
    """
    ids = self.ids(text)[: self.length - 1]
    row = np.zeros(self.length, np.int32)
    row[: len(ids) + 1] = [*ids, EOS]
    return row

  def ids(self, text: object) -> list[int]:
    """The ids of the first 64 `length` characters of a caption, without eos.

    Raises:
      types.Unreadable: if `text` is not a `str`.
    """
    if self._clean is not None and isinstance(text, str):
      text = cleaning.cleaned(self._clean, text, self.length)
    # Encoding what lies far beyond the last id that fits would waste time.
    return self._pieces.encode(
        " ".join(_text(text).split())[: 64 * self.length])

  def batch(self, texts: Sequence[object]) -> Int32[np.ndarray, "n t"]:
    """One row of ids per caption; no captions give an array of no rows."""
    rows = np.zeros((len(texts), self.length), np.int32)
    for row, text in zip(rows, texts, strict=True):
      row[:] = self(text)
    return rows

  def decode(self, ids: Int[np.ndarray, "t"] | Sequence[int]) -> str:
    """The text of one row, up to its first eos, case-folded.

    Raises:
      ValueError: if an id is not in the vocabulary.
    """
    row = [int(i) for i in ids]
    unknown = [i for i in row if not 0 <= i < self.vocab]
    if unknown:
      raise ValueError(
          f"id {unknown[0]} is not in a vocabulary of {self.vocab} pieces; "
          "these ids were made by another tokenizer"
      )
    row = row[: row.index(EOS)] if EOS in row else row
    return self._pieces.decode([i for i in row if i != PAD])


def _open(model: bytes) -> sentencepiece.SentencePieceProcessor:
  try:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
  except RuntimeError as error:
    raise ValueError(
        f"these {len(model)} bytes are not a SentencePiece model; train one, "
        "or copy the tokenizer.model of the run again"
    ) from error
  special = (pieces.pad_id(), pieces.unk_id(), pieces.bos_id(), pieces.eos_id())
  if special != (PAD, UNK, BOS, EOS):
    raise ValueError(
        f"this SentencePiece model has (pad, unk, bos, eos) = {special}, and one "
        f"of this library has {(PAD, UNK, BOS, EOS)}: it is damaged or of another "
        "project"
    )
  return pieces


def save(model: bytes, folder: str | os.PathLike) -> pathlib.Path:
  """Stores a vocabulary in the folder of a run, atomically.

  Args:
    model: from `train`.
    folder: created if it does not exist.

  Returns:
    The path of the file, `tokenizer.model`.

  Raises:
    ValueError: if `model` is not a model that `Tokenizer` takes.
  """
  _open(model)
  path = pathlib.Path(folder) / FILE
  files.replace(path, model)
  return path


def load(folder: str | os.PathLike) -> bytes:
  """Loads the vocabulary that `save` stored.

  Raises:
    FileNotFoundError: if the folder holds no `tokenizer.model`.
    ValueError: if the file is damaged or no such model.
  """
  path = pathlib.Path(folder) / FILE
  if not path.is_file():
    raise FileNotFoundError(
        f"{path} does not exist; `save` writes it at the start of a run"
    )
  model = path.read_bytes()
  try:
    _open(model)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  return model

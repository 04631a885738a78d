"""Vocabularies from elsewhere: a `tokenizer.json` as rows of ids.

The towers of other projects come with vocabularies whose padding, end-of-text
and start-of-text tokens are not ours. Here such a vocabulary is one
self-contained file of the `tokenizers` library, padding and length included,
and serves wherever our own (`tokenizer.Tokenizer`) does.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from basic import files, types
from basic.data import _sentencepiece

FILE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
_SIGLIP_2 = ("Siglip2Tokenizer",)
_OBEY_LOWER = ("GemmaTokenizer", "SiglipTokenizer", "")


class Vocabulary:
  """Turns captions into rows of ids, all of one length.

  It may be pickled, and shared between threads.

  Args:
    content: a `tokenizer.json`, with or without padding of its own.
    length: ids in a row, t; at least 1.
    pad: the padding token; None: the file's own padding.
    side: "right" or "left", where padding stands.
    lower: whether case is folded before the file's own normalizer sees a text.

  Raises:
    ValueError: if the content is no such file, has no padding or no token
      `pad`, or `length` has no room for what the file adds to every text.
    ImportError: if the `tokenizers` library is not installed.
  """

  def __init__(
      self,
      content: bytes,
      length: int,
      pad: str | None = None,
      side: str = "right",
      lower: bool = False,
  ):
    if length < 1:
      raise ValueError(f"found length {length}; a row needs at least 1 id")
    self.length = length
    self._pieces = _open(content)
    if lower:
      _fold_case(self._pieces)
    own = self._pieces.padding
    if pad is None and own is None:
      raise ValueError(
          "this tokenizer.json does not name a padding token: put a "
          f'{SETTINGS} beside it, such as {{"pad_token": "<pad>"}}'
      )
    if pad is None:
      pad, side = own["pad_token"], own["direction"]
    number = self._pieces.token_to_id(pad)
    if number is None:
      raise ValueError(
          f"the padding token {pad!r} is not in this vocabulary; name one that "
          f'is by "pad_token" in {SETTINGS}'
      )
    added = self._pieces.num_special_tokens_to_add(False)
    if length < added:
      raise ValueError(
          f"found length {length}; this vocabulary adds {added} tokens to every "
          "text, which must fit: raise text.length"
      )
    self._pieces.enable_truncation(length)
    self._pieces.enable_padding(
        direction=side, pad_id=number, pad_token=pad, length=length
    )

  def __getstate__(self) -> dict[str, Any]:
    return {"length": self.length, "content": self.content}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(state["content"], state["length"])

  @property
  def content(self) -> bytes:
    """A `tokenizer.json` with length and padding, all that there is to it."""
    return self._pieces.to_str(pretty=True).encode()

  @property
  def vocab(self) -> int:
    """One more than the largest id."""
    return 1 + max(self._pieces.get_vocab(with_added_tokens=True).values())

  @property
  def fingerprint(self) -> str:
    """Tells vocabularies apart: a hash of all that makes ids."""
    return hashlib.sha256(self.content).hexdigest()[:16]

  @property
  def pad(self) -> str:
    """The padding token."""
    return self._pieces.padding["pad_token"]

  @property
  def pad_id(self) -> int:
    """The id of the padding token."""
    return self._pieces.padding["pad_id"]

  @property
  def side(self) -> str:
    """Where padding stands, "right" or "left"."""
    return self._pieces.padding["direction"]

  @property
  def end(self) -> int | None:
    """The id that ends every text; None if texts end in their last word."""
    lasts = set()
    # What ends an empty text and others alike comes from the vocabulary.
    for encoded in self._pieces.encode_batch(["", "a", "the 7"]):
      real = [
          i for i, kept in zip(encoded.ids, encoded.attention_mask, strict=True)
          if kept
      ]
      lasts.add(real[-1] if real else None)
    return lasts.pop() if len(lasts) == 1 else None

  def __call__(self, text: object) -> Int32[np.ndarray, "t"]:
    """One row of ids.

    Raises:
      types.Unreadable: if `text` is not a `str`.
    """
    return self.batch([text])[0]

  def batch(self, texts: Sequence[object]) -> Int32[np.ndarray, "n t"]:
    """One row of ids a caption; none gives an array of no rows."""
    captions = []
    for text in texts:
      if not isinstance(text, str):
        raise types.Unreadable(
            "caption is not text", f"found {type(text).__name__}, expected str"
        )
      # UTF-8 cannot encode lone surrogates; they become "?".
      captions.append(text.encode("utf-8", "replace").decode("utf-8"))
    rows = np.zeros((len(texts), self.length), np.int32)
    encodings = self._pieces.encode_batch(captions)
    for row, encoding in zip(rows, encodings, strict=True):
      row[:] = encoding.ids
    return rows


def read(path: str | os.PathLike, length: int) -> Vocabulary:
  """The vocabulary in a file of another project.

  Padding is described by a tokenizer_config.json beside it, as transformers
  writes one, in "pad_token" (or "eos_token") and "padding_side"; else by a
  tokenizer.json itself. A SentencePiece model cannot say it.

  Args:
    path: a tokenizer.json or a SentencePiece model.
    length: ids in a row, the end included.

  Returns:
    A vocabulary. Where "tokenizer_class" is SigLIP's, ASCII punctuation is
    removed and, unless "do_lower_case" is false, case folded before a
    SentencePiece model sees a text. Case is folded for a tokenizer.json where
    `folds_case` says so.

  Raises:
    ValueError: if the file is neither, or no padding token is named.
    FileNotFoundError: if it is not there.
    ImportError: if the `tokenizers` library is not installed.
  """
  path = pathlib.Path(path)
  content, known = path.read_bytes(), settings(path.parent)
  pad, side = padding(known)
  if content.lstrip()[:1] == b"{":
    return Vocabulary(content, length, pad, side, folds_case(known))
  spec = _sentencepiece.parse(content)
  if pad is None:
    raise ValueError(
        f"{path} does not name a padding token (if it is a tokenizer.model of a "
        f"run of ours, it is damaged): put a {SETTINGS} beside "
        'it, such as {"pad_token": "</s>", "tokenizer_class": '
        '"SiglipTokenizer"} for SigLIP, or give a tokenizer.json'
    )
  return from_sentencepiece(
      content, length, pad=pad, end=_sentencepiece.end(spec), side=side,
      canonical=str(known.get("tokenizer_class")).startswith("Siglip"),
      lower=known.get("do_lower_case") is not False,
  )


def save(content: bytes, folder: str | os.PathLike) -> pathlib.Path:
  """Stores a `Vocabulary.content` with a run, whole or not at all."""
  path = pathlib.Path(folder) / FILE
  files.replace(path, content)
  return path


def settings(folder: str | os.PathLike) -> dict[str, Any]:
  """What a folder's tokenizer_config.json says; nothing, if there is none."""
  path = pathlib.Path(folder) / SETTINGS
  if not path.exists():
    return {}
  try:
    found = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is not JSON: {error}") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path} is no JSON object")
  return found


def padding(known: Mapping[str, Any]) -> tuple[str | None, str]:
  """(the padding token, the side), of a tokenizer_config.json.

  Raises:
    ValueError: if the token is no text, or the side neither left nor right.
  """
  pad = known.get("pad_token") or known.get("eos_token")
  pad = pad.get("content") if isinstance(pad, Mapping) else pad
  # As in transformers, where a class has a default of its own.
  usual = "left" if _class(known) in (*_SIGLIP_2, "GemmaTokenizer") else "right"
  side = known.get("padding_side", usual)
  if not isinstance(pad, str | None) or side not in ("left", "right"):
    raise ValueError(
        f"{SETTINGS} has the padding token {pad!r} on the side {side!r}, "
        "expected a token and 'left' or 'right'"
    )
  return pad, side


def folds_case(known: Mapping[str, Any]) -> bool:
  """Whether a tokenizer_config.json folds case before the tokenizer.json does.

  SigLIP 2 was trained on lower case. The class of its tokenizer folds it, but
  the first folders name Gemma's, which does not, and say "do_lower_case".
  """
  name = _class(known)
  if name in _SIGLIP_2:
    return True
  return name in _OBEY_LOWER and known.get("do_lower_case") is True


def _class(known: Mapping[str, Any]) -> str:
  return str(known.get("tokenizer_class", "")).removesuffix("Fast")


def from_sentencepiece(
    model: bytes,
    length: int,
    *,
    pad: str,
    end: str,
    side: str = "right",
    canonical: bool = False,
    lower: bool = True,
) -> Vocabulary:
  """The same ids that a SentencePiece model gives, without SentencePiece.

  Args:
    model: a serialised model, of the kind BPE or unigram.
    length: ids in a row, the end included.
    pad: the padding token.
    end: the token that ends every text.
    side: "right" or "left", where padding stands.
    canonical: whether ASCII punctuation is removed first, as from the texts of
      SigLIP.
    lower: whether `canonical` also folds case.

  Returns:
    A vocabulary.

  Raises:
    ValueError: if the model is of another kind, or damaged.
    ImportError: if the `tokenizers` library is not installed.
  """
  spec = _sentencepiece.parse(model)
  made = _sentencepiece.convert(_library(), spec, end, canonical, lower)
  return Vocabulary(made.to_str().encode(), length, pad, side)


def _fold_case(pieces: Any) -> None:
  """Puts folding of case before what a tokenizer normalizes by itself."""
  made = _library().normalizers
  own = pieces.normalizer
  first = [made.Lowercase()]
  pieces.normalizer = made.Sequence(first if own is None else [*first, own])


def _library() -> Any:
  try:
    import tokenizers
  except ImportError as error:
    raise ImportError(
        "vocabularies of other projects need the tokenizers library: "
        "pip install tokenizers"
    ) from error
  return tokenizers


def _open(content: bytes) -> Any:
  library = _library()
  try:
    json.loads(content)
    return library.Tokenizer.from_str(content.decode())
  except Exception as error:  # the library raises nothing narrower
    raise ValueError(
        f"these {len(content)} bytes are not a tokenizer.json: {error}"
    ) from error

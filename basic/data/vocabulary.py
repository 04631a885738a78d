"""Vocabularies from elsewhere: a `tokenizer.json` as rows of ids.

The towers of other projects come with vocabularies whose padding, end and
beginning are not ours. Here such a vocabulary is one self-contained file of the
`tokenizers` library, padding and length included, and serves wherever our own
(`tokenizer.Tokenizer`) does.
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


class Vocabulary:
  """Turns captions into rows of ids, all of one length.

  It may be pickled, and shared between threads.

  Args:
    content: a `tokenizer.json`, with or without padding of its own.
    length: ids in a row, t; at least 1.
    pad: the piece that fills a row up; None: the file's own padding.
    side: "right" or "left", where a row is filled up.

  Raises:
    ValueError: if the content is no such file, has no padding or no piece
      `pad`, or `length` is not positive.
    ImportError: if the `tokenizers` library is not installed.
  """

  def __init__(
      self,
      content: bytes,
      length: int,
      pad: str | None = None,
      side: str = "right",
  ):
    if length < 1:
      raise ValueError(f"found length {length}; a row needs at least 1 id")
    self.length = length
    self._pieces = _open(content)
    own = self._pieces.padding
    if pad is None and own is None:
      raise ValueError(
          "this tokenizer.json does not say how to pad; name the piece that "
          "fills a row up, such as pad='<pad>'"
      )
    if pad is None:
      pad, side = own["pad_token"], own["direction"]
    number = self._pieces.token_to_id(pad)
    if number is None:
      raise ValueError(f"{pad!r} is not a piece of this vocabulary")
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
    """The piece that fills a row up."""
    return self._pieces.padding["pad_token"]

  @property
  def side(self) -> str:
    """Where a row is filled up, "right" or "left"."""
    return self._pieces.padding["direction"]

  def __call__(self, text: object) -> Int32[np.ndarray, "t"]:
    """One row of ids.

    Raises:
      types.Unreadable: if `text` is not a `str`.
    """
    return self.batch([text])[0]

  def batch(self, texts: Sequence[object]) -> Int32[np.ndarray, "n t"]:
    """One row of ids a caption; none gives an array of no rows."""
    for text in texts:
      if not isinstance(text, str):
        raise types.Unreadable(
            "caption is not text", f"found {type(text).__name__}, expected str"
        )
    rows = np.zeros((len(texts), self.length), np.int32)
    clean = [t.encode("utf-8", "replace").decode("utf-8") for t in texts]
    for row, found in zip(rows, self._pieces.encode_batch(clean), strict=True):
      row[:] = found.ids
    return rows


def read(path: str | os.PathLike, length: int) -> Vocabulary:
  """The vocabulary in a file of another project.

  How rows are filled up is said by a tokenizer_config.json beside it, as
  transformers writes one, in "pad_token" (or "eos_token") and "padding_side";
  else by a tokenizer.json itself. A SentencePiece model cannot say it.

  Args:
    path: a tokenizer.json or a SentencePiece model.
    length: ids in a row, the end included.

  Returns:
    A vocabulary. Where "tokenizer_class" is one of SigLIP's, ASCII punctuation
    goes and case is folded before a SentencePiece model sees a text.

  Raises:
    ValueError: if the file is neither, or does not say how rows are filled up.
    FileNotFoundError: if it is not there.
    ImportError: if the `tokenizers` library is not installed.
  """
  path = pathlib.Path(path)
  content, known = path.read_bytes(), settings(path.parent)
  pad, side = padding(known)
  if content.lstrip()[:1] == b"{":
    return Vocabulary(content, length, pad, side)
  spec = _sentencepiece.parse(content)
  if pad is None:
    raise ValueError(
        f"{path} does not say how rows are filled up: put a {SETTINGS} beside "
        'it, such as {"pad_token": "</s>", "tokenizer_class": '
        '"SiglipTokenizer"} for SigLIP, or give a tokenizer.json'
    )
  return from_sentencepiece(
      content, length, pad=pad, end=_sentencepiece.end(spec), side=side,
      canonical=str(known.get("tokenizer_class")).startswith("Siglip"),
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
  """(the piece that fills rows up, the side), of a tokenizer_config.json."""
  pad = known.get("pad_token") or known.get("eos_token")
  pad = pad["content"] if isinstance(pad, Mapping) else pad
  return pad, known.get("padding_side", "right")


def from_sentencepiece(
    model: bytes,
    length: int,
    *,
    pad: str,
    end: str,
    side: str = "right",
    canonical: bool = False,
) -> Vocabulary:
  """The same ids that a SentencePiece model gives, without SentencePiece.

  Args:
    model: a serialised model, of the kind BPE or unigram.
    length: ids in a row, the end included.
    pad: the piece that fills a row up.
    end: the piece that ends every text.
    side: "right" or "left", where a row is filled up.
    canonical: whether ASCII punctuation goes and case is folded first, as the
      texts of SigLIP were.

  Returns:
    A vocabulary.

  Raises:
    ValueError: if the model is of another kind, or damaged.
    ImportError: if the `tokenizers` library is not installed.
  """
  spec = _sentencepiece.parse(model)
  made = _sentencepiece.convert(_library(), spec, end, canonical)
  return Vocabulary(made.to_str().encode(), length, pad, side)


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

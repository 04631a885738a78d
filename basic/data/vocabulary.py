"""Vocabularies of other projects: a `tokenizer.json` as rows of ids.

Pretrained towers come with vocabularies that have other padding, end-of-text
and start-of-text tokens than ours. Here such a vocabulary is one self-contained
file of the `tokenizers` library, which includes padding and length, and can be
used wherever our own (`tokenizer.Tokenizer`) can.
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
from basic.data import _rust, _sentencepiece, cleaning

FILE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
_SIGLIP_2 = ("Siglip2Tokenizer",)
_OBEY_LOWER = ("GemmaTokenizer", "SiglipTokenizer", "")
# Characters of a caption that are read for each id of a row. A piece of a
# vocabulary is rarely longer than 16; more are read where normalizers drop many.
_NEAR, _FAR = 64, 1024


class Vocabulary:
  """Turns captions into rows of ids, all of one length.

  What captions say is text: a caption that contains "</s>" does not end there.
  The ids of the special tokens (those that the file marks as special, of padding
  and those that it adds to every text) never come from a caption, except that
  of unknown text.

  It can be pickled, and shared by threads.

  Args:
    content: a `tokenizer.json`, with or without padding of its own.
    length: ids per row, t; at least 1.
    pad: the padding token; None: the file's own padding.
    side: "right" or "left": the side that is padded.
    lower: whether text is lowercased before the file's own normalizer.
    clean: how captions are cleaned first, one of `cleaning.NAMES`; None: not.

  Raises:
    ValueError: if the content is not a tokenizer.json, has no padding or no
      token `pad`, cannot encode a simple text, or could fill the memory with a
      short one; if `length` is too short for the special tokens that the file
      adds to every text; or there is no such cleaning.
    ImportError: if the `tokenizers` library is not installed.
  """

  def __init__(
      self,
      content: bytes,
      length: int,
      pad: str | None = None,
      side: str = "right",
      lower: bool = False,
      clean: str | None = None,
  ):
    if length < 1:
      raise ValueError(f"found length {length}; a row needs at least 1 id")
    self.length, self.clean = length, clean
    self._clean = cleaning.cleaner(clean)
    self._pieces, unknown = _rust.read(content)
    with _rust.no_panics("the tokenizers library cannot use this tokenizer.json"):
      self._prepare(pad, side, lower)
      self._special = _rust.special(self._pieces, self.pad_id, unknown)
    self._literal = _rust.literal(self._pieces, self._special)

  def _prepare(self, pad: str | None, side: str, lower: bool) -> None:
    """Sets padding, length and case."""
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
    pad_id = self._pieces.token_to_id(pad)
    if pad_id is None:
      raise ValueError(
          f"the padding token {pad!r} is not in this vocabulary; name one that "
          f'is as "pad_token" in {SETTINGS}'
      )
    added = self._pieces.num_special_tokens_to_add(False)
    if self.length < added:
      raise ValueError(
          f"found length {self.length}; this vocabulary adds {added} tokens to "
          "every text, which must fit: raise text.length"
      )
    self._pieces.enable_truncation(self.length)
    self._pieces.enable_padding(
        direction=side, pad_id=pad_id, pad_token=pad, length=self.length
    )
    # Otherwise a caption's "</s>" would be the token of this name.
    self._pieces.encode_special_tokens = True

  def __getstate__(self) -> dict[str, Any]:
    return {
        "length": self.length, "content": self.content, "clean": self.clean,
    }

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(state["content"], state["length"], clean=state["clean"])

  @property
  def content(self) -> bytes:
    """A self-contained `tokenizer.json`, length and padding included."""
    return self._pieces.to_str(pretty=True).encode()

  @property
  def vocab(self) -> int:
    """One more than the largest id."""
    return 1 + max(self._pieces.get_vocab(with_added_tokens=True).values())

  @property
  def fingerprint(self) -> str:
    """Identifies the vocabulary: a hash of everything that determines ids."""
    found = hashlib.sha256(self.content)
    found.update(str(self.clean).encode())
    return found.hexdigest()[:16]

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
    """The side that is padded, "right" or "left"."""
    return self._pieces.padding["direction"]

  @property
  def end(self) -> int | None:
    """The id that ends every text; None if texts have no end token."""
    last_ids = set()
    # If these texts end in the same id, it is a token that the vocabulary adds.
    for encoded in self._encoded(["", "a", "the 7"]):
      ids = [i for i, _ in _rust.attended(encoded)]
      last_ids.add(ids[-1] if ids else None)
    return last_ids.pop() if len(last_ids) == 1 else None

  def __call__(self, text: object) -> Int32[np.ndarray, "t"]:
    """One row of ids.

    Raises:
      types.Unreadable: if `text` is not a `str`, or the library cannot encode it.
    """
    return self.batch([text])[0]

  def batch(self, texts: Sequence[object]) -> Int32[np.ndarray, "n t"]:
    """One row of ids per caption; no captions give an array of no rows.

    Of a caption, the first 64 characters for each id of the row are read; where
    these leave the row unfilled, the first 1,024.

    Raises:
      types.Unreadable: as for one caption.
    """
    captions = [self._text(text) for text in texts]
    rows = np.full((len(texts), self.length), self.pad_id, np.int32)
    encodings = self._encoded([text[: _NEAR * self.length] for text in captions])
    for row, text, encoding in zip(rows, captions, encodings, strict=True):
      ids = self._ids(text, encoding)
      row[self.length - len(ids) if self.side == "left" else 0 :][: len(ids)] = ids
    return rows

  def _text(self, text: object) -> str:
    """The caption, cleaned, with "?" for lone surrogates, unknown to UTF-8."""
    if not isinstance(text, str):
      raise types.Unreadable(
          "caption is not text", f"found {type(text).__name__}, expected str"
      )
    text = cleaning.cleaned(self._clean, text, self.length)
    return text[: _FAR * self.length].encode("utf-8", "replace").decode("utf-8")

  def _encoded(self, texts: list[str]) -> list[Any]:
    try:
      with _rust.no_panics("the vocabulary cannot encode it"):
        return self._pieces.encode_batch(texts)
    except ValueError as error:
      raise types.Unreadable("caption without ids", str(error)) from error

  def _ids(self, text: str, encoding: Any) -> list[int]:
    """The ids of a caption, given the encoding of its beginning."""
    if len(text) > _NEAR * self.length and not all(encoding.attention_mask):
      (encoding,) = self._encoded([text])
    if self._named(encoding):
      (encoding,) = self._encoded([self._literal.sub(_rust.split, text)])
    # What is left could not be written in another way.
    return [i for i, own in _rust.attended(encoding) if own or i not in self._special]

  def _named(self, encoding: Any) -> bool:
    """Whether the id of a special token comes from the caption."""
    return any(not own and i in self._special for i, own in _rust.attended(encoding))


def read(path: str | os.PathLike, length: int) -> Vocabulary:
  """Loads a vocabulary of another project.

  Padding is described by a tokenizer_config.json in the same folder, as
  transformers writes it, in "pad_token" (or "eos_token") and "padding_side", or
  else by the tokenizer.json. A SentencePiece model does not describe padding.
  Its "clean", which only this library writes, says how captions are cleaned.

  Args:
    path: a tokenizer.json or a SentencePiece model.
    length: ids per row, the end token included.

  Returns:
    A vocabulary. For a SentencePiece model whose "tokenizer_class" is SigLIP's,
    ASCII punctuation is removed first and, unless "do_lower_case" is false,
    text is lowercased. For a tokenizer.json, text is lowercased if `folds_case`
    is true.

  Raises:
    ValueError: if the file is neither, or no padding token is named.
    FileNotFoundError: if the file does not exist.
    ImportError: if the `tokenizers` library is not installed.
  """
  path = pathlib.Path(path)
  content, config = path.read_bytes(), settings(path.parent)
  pad, side = padding(config)
  if content.lstrip()[:1] == b"{":
    return Vocabulary(
        content, length, pad, side, folds_case(config), config.get("clean"))
  spec = _sentencepiece.parse(content)
  if pad is None:
    raise ValueError(
        f"{path} does not name a padding token: put a {SETTINGS} beside it, such "
        'as {"pad_token": "</s>", "tokenizer_class": "SiglipTokenizer"} for '
        "SigLIP, or give a tokenizer.json"
    )
  return from_sentencepiece(
      content, length, pad=pad, end=_sentencepiece.end(spec), side=side,
      canonical=str(config.get("tokenizer_class")).startswith("Siglip"),
      lower=config.get("do_lower_case") is not False,
      clean=config.get("clean"),
  )


def save(content: bytes, folder: str | os.PathLike) -> pathlib.Path:
  """Stores a `Vocabulary.content` in the folder of a run, atomically."""
  path = pathlib.Path(folder) / FILE
  files.replace(path, content)
  return path


def save_settings(
    content: Mapping[str, Any], folder: str | os.PathLike
) -> pathlib.Path:
  """Stores a tokenizer_config.json in a folder, atomically."""
  path = pathlib.Path(folder) / SETTINGS
  files.replace(path, json.dumps(content, indent=2).encode() + b"\n")
  return path


def settings(folder: str | os.PathLike) -> dict[str, Any]:
  """The content of a folder's tokenizer_config.json; {} if there is none."""
  path = pathlib.Path(folder) / SETTINGS
  if not path.exists():
    return {}
  try:
    config = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is not JSON: {error}") from error
  if not isinstance(config, dict):
    raise ValueError(f"{path} is not a JSON object")
  return config


def padding(config: Mapping[str, Any]) -> tuple[str | None, str]:
  """(the padding token, the side), of a tokenizer_config.json.

  Raises:
    ValueError: if the token is not a string, or the side is not left or right.
  """
  pad = config.get("pad_token") or config.get("eos_token")
  pad = pad.get("content") if isinstance(pad, Mapping) else pad
  # As in transformers, where each class has its own default.
  default = "left" if _class(config) in (*_SIGLIP_2, "GemmaTokenizer") else "right"
  side = config.get("padding_side", default)
  if not isinstance(pad, str | None) or side not in ("left", "right"):
    raise ValueError(
        f"{SETTINGS} has the padding token {pad!r} on the side {side!r}, "
        "expected a string, on 'left' or 'right'"
    )
  return pad, side


def folds_case(config: Mapping[str, Any]) -> bool:
  """Whether a tokenizer_config.json asks to lowercase text before tokenization.

  SigLIP 2 was trained on lowercase text. The class of its tokenizer lowercases,
  but the first published folders name Gemma's class, which does not, and set
  "do_lower_case".
  """
  name = _class(config)
  if name in _SIGLIP_2:
    return True
  return name in _OBEY_LOWER and config.get("do_lower_case") is True


def _class(config: Mapping[str, Any]) -> str:
  return str(config.get("tokenizer_class", "")).removesuffix("Fast")


def from_sentencepiece(
    model: bytes,
    length: int,
    *,
    pad: str,
    end: str,
    side: str = "right",
    canonical: bool = False,
    lower: bool = True,
    clean: str | None = None,
) -> Vocabulary:
  """The same ids that a SentencePiece model gives, without SentencePiece.

  Args:
    model: a serialized BPE or unigram model.
    length: ids per row, the end token included.
    pad: the padding token.
    end: the token that ends every text.
    side: "right" or "left": the side that is padded.
    canonical: whether ASCII punctuation is removed first, as SigLIP does.
    lower: whether `canonical` also lowercases.
    clean: how captions are cleaned before all this (`Vocabulary`).

  Returns:
    A vocabulary.

  Raises:
    ValueError: if the model is of another type, or damaged.
    ImportError: if the `tokenizers` library is not installed.
  """
  spec = _sentencepiece.parse(model)
  tokenizer = _sentencepiece.convert(_rust.library(), spec, end, canonical, lower)
  return Vocabulary(tokenizer.to_str().encode(), length, pad, side, clean=clean)


def _fold_case(pieces: Any) -> None:
  """Lowercases text before the tokenizer's own normalizer."""
  normalizers = _rust.library().normalizers
  own = pieces.normalizer
  first = [normalizers.Lowercase()]
  pieces.normalizer = normalizers.Sequence(
      first if own is None else [*first, own]
  )

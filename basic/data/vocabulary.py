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
from basic.data import _sentencepiece

FILE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
_SIGLIP_2 = ("Siglip2Tokenizer",)
_OBEY_LOWER = ("GemmaTokenizer", "SiglipTokenizer", "")


class Vocabulary:
  """Turns captions into rows of ids, all of one length.

  It can be pickled, and shared by threads.

  Args:
    content: a `tokenizer.json`, with or without padding of its own.
    length: ids per row, t; at least 1.
    pad: the padding token; None: the file's own padding.
    side: "right" or "left": the side that is padded.
    lower: whether text is lowercased before the file's own normalizer.

  Raises:
    ValueError: if the content is not a tokenizer.json, has no padding or no
      token `pad`, or `length` is too short for the special tokens that the file
      adds to every text.
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
    pad_id = self._pieces.token_to_id(pad)
    if pad_id is None:
      raise ValueError(
          f"the padding token {pad!r} is not in this vocabulary; name one that "
          f'is as "pad_token" in {SETTINGS}'
      )
    added = self._pieces.num_special_tokens_to_add(False)
    if length < added:
      raise ValueError(
          f"found length {length}; this vocabulary adds {added} tokens to every "
          "text, which must fit: raise text.length"
      )
    self._pieces.enable_truncation(length)
    self._pieces.enable_padding(
        direction=side, pad_id=pad_id, pad_token=pad, length=length
    )

  def __getstate__(self) -> dict[str, Any]:
    return {"length": self.length, "content": self.content}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(state["content"], state["length"])

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
    """The side that is padded, "right" or "left"."""
    return self._pieces.padding["direction"]

  @property
  def end(self) -> int | None:
    """The id that ends every text; None if texts have no end token."""
    last_ids = set()
    # If these texts end in the same id, it is a token that the vocabulary adds.
    for encoded in self._pieces.encode_batch(["", "a", "the 7"]):
      ids = [
          i for i, attended in zip(
              encoded.ids, encoded.attention_mask, strict=True)
          if attended
      ]
      last_ids.add(ids[-1] if ids else None)
    return last_ids.pop() if len(last_ids) == 1 else None

  def __call__(self, text: object) -> Int32[np.ndarray, "t"]:
    """One row of ids.

    Raises:
      types.Unreadable: if `text` is not a `str`.
    """
    return self.batch([text])[0]

  def batch(self, texts: Sequence[object]) -> Int32[np.ndarray, "n t"]:
    """One row of ids per caption; no captions give an array of no rows."""
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
  """Loads a vocabulary of another project.

  Padding is described by a tokenizer_config.json in the same folder, as
  transformers writes it, in "pad_token" (or "eos_token") and "padding_side", or
  else by the tokenizer.json. A SentencePiece model does not describe padding.

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
    return Vocabulary(content, length, pad, side, folds_case(config))
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
      canonical=str(config.get("tokenizer_class")).startswith("Siglip"),
      lower=config.get("do_lower_case") is not False,
  )


def save(content: bytes, folder: str | os.PathLike) -> pathlib.Path:
  """Stores a `Vocabulary.content` in the folder of a run, atomically."""
  path = pathlib.Path(folder) / FILE
  files.replace(path, content)
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

  Returns:
    A vocabulary.

  Raises:
    ValueError: if the model is of another type, or damaged.
    ImportError: if the `tokenizers` library is not installed.
  """
  spec = _sentencepiece.parse(model)
  tokenizer = _sentencepiece.convert(_library(), spec, end, canonical, lower)
  return Vocabulary(tokenizer.to_str().encode(), length, pad, side)


def _fold_case(pieces: Any) -> None:
  """Lowercases text before the tokenizer's own normalizer."""
  normalizers = _library().normalizers
  own = pieces.normalizer
  first = [normalizers.Lowercase()]
  pieces.normalizer = normalizers.Sequence(
      first if own is None else [*first, own]
  )


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
  except Exception as error:  # the library raises no narrower type
    raise ValueError(
        f"these {len(content)} bytes are not a tokenizer.json: {error}"
    ) from error

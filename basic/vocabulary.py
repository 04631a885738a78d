"""Vocabularies from elsewhere: a `tokenizer.json` as rows of ids.

The towers of other projects come with vocabularies whose padding, end and
beginning are not ours. Here such a vocabulary is one self-contained file of the
`tokenizers` library, padding and length included, and serves wherever our own
(`tokenizer.Tokenizer`) does.
"""

import hashlib
import json
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32
from sentencepiece import sentencepiece_model_pb2

from basic import types

FILE = "tokenizer.json"
_UNIGRAM, _BPE = 1, 2  # SentencePiece's TrainerSpec.ModelType
_NORMAL, _BYTE = 1, 6  # SentencePiece's SentencePiece.Type


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


def from_sentencepiece(
    model: bytes, length: int, *, pad: str, end: str, canonical: bool = False
) -> Vocabulary:
  """The same ids that a SentencePiece model gives, without SentencePiece.

  Args:
    model: a serialised model, of the kind BPE or unigram.
    length: ids in a row, the end included.
    pad: the piece that fills a row up.
    end: the piece that ends every text.
    canonical: whether ASCII punctuation goes and case is folded first, as the
      texts of SigLIP were.

  Returns:
    A vocabulary.

  Raises:
    ValueError: if the model is of another kind, or damaged.
    ImportError: if the `tokenizers` library is not installed.
  """
  library = _library()
  spec = _parse(model)
  pieces = [piece.piece for piece in spec.pieces]
  made = library.Tokenizer(_model(library, spec, pieces))
  first = []
  if canonical:
    marks = f"[{re.escape(string.punctuation)}]"
    first = [
        library.normalizers.Lowercase(),
        library.normalizers.Replace(library.Regex(marks), ""),
    ]
  made.normalizer = library.normalizers.Sequence(
      [*first, *_normalizers(library, spec)]
  )
  made.decoder = library.decoders.Sequence([
      library.decoders.Replace("▁", " "), library.decoders.ByteFallback(),
      library.decoders.Fuse(), library.decoders.Strip(" ", 1, 0),
  ])
  made.post_processor = library.processors.TemplateProcessing(
      single=f"$A {end}", special_tokens=[(end, pieces.index(end))]
  )
  return Vocabulary(made.to_str().encode(), length, pad)


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


def _parse(model: bytes) -> Any:
  spec = sentencepiece_model_pb2.ModelProto()
  try:
    spec.ParseFromString(model)
  except Exception as error:  # protobuf's own, of another class each version
    raise ValueError(
        f"these {len(model)} bytes are not a SentencePiece model"
    ) from error
  if spec.trainer_spec.model_type not in (_UNIGRAM, _BPE):
    raise ValueError(
        "this SentencePiece model is neither BPE nor unigram, but of kind "
        f"{spec.trainer_spec.model_type}"
    )
  return spec


def _model(library, spec, pieces) -> Any:
  fallback = any(piece.type == _BYTE for piece in spec.pieces)
  unknown = spec.trainer_spec.unk_id
  if spec.trainer_spec.model_type == _UNIGRAM:
    return library.models.Unigram(
        [(piece.piece, piece.score) for piece in spec.pieces],
        unk_id=unknown, byte_fallback=fallback,
    )
  return library.models.BPE(
      vocab={piece: n for n, piece in enumerate(pieces)},
      merges=_merges(spec.pieces), unk_token=pieces[unknown],
      byte_fallback=fallback, fuse_unk=True,
  )


def _merges(pieces) -> list[tuple[str, str]]:
  """Every pair of pieces that makes a piece, the likeliest piece first."""
  rank = {
      piece.piece: n for n, piece in enumerate(pieces) if piece.type == _NORMAL
  }
  found = []
  for whole in sorted(
      (p for p in pieces if p.type == _NORMAL), key=lambda p: -p.score
  ):
    text = whole.piece
    pairs = [(text[:n], text[n:]) for n in range(1, len(text))]
    found += sorted(
        (pair for pair in pairs if pair[0] in rank and pair[1] in rank),
        key=lambda pair: (rank[pair[0]], rank[pair[1]]),
    )
  return found


def _normalizers(library, spec) -> list[Any]:
  """What SentencePiece does to a text before it looks for pieces."""
  made = library.normalizers
  squeeze = [made.Replace(library.Regex(r"\s+"), " "), made.Strip()]
  table = spec.normalizer_spec.precompiled_charsmap
  return [
      *squeeze,
      # Characters may become spaces, so what follows them is done again.
      *([made.Precompiled(table), *squeeze] if table else []),
      made.Prepend("▁"),
      made.Replace(" ", "▁"),
  ]

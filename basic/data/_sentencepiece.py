"""SentencePiece models, converted to tokenizers of the `tokenizers` library."""

import re
import string
from typing import Any

from sentencepiece import sentencepiece_model_pb2

# protobuf creates its classes at import time, so type checkers see none.
_PROTOBUF: Any = sentencepiece_model_pb2

_UNIGRAM, _BPE = 1, 2  # SentencePiece's TrainerSpec.ModelType
_NORMAL, _BYTE = 1, 6  # SentencePiece's SentencePiece.Type
# SentencePiece's own normalizations, of which each composes characters.
_FORMS = re.compile(r"(nmt_)?nfkc(_cf)?")
_MARKS, _APART = r"(?=[\p{M}\x{200c}\x{200d}])", "\x01"
# Fields of its TrainerSpec on which the ids of a text depend.
_OF_IDS = (
    "model_type", "byte_fallback", "treat_whitespace_as_suffix",
    "pad_id", "unk_id", "bos_id", "eos_id",
    "pad_piece", "unk_piece", "bos_piece", "eos_piece",
)


def parse(model: bytes) -> Any:
  """Parses a serialized model.

  Raises:
    ValueError: if it is neither BPE nor unigram, or damaged.
  """
  spec = _PROTOBUF.ModelProto()
  try:
    spec.ParseFromString(model)
  except Exception as error:  # protobuf's, whose class differs by version
    raise ValueError(
        f"these {len(model)} bytes are not a SentencePiece model"
    ) from error
  if spec.trainer_spec.model_type not in (_UNIGRAM, _BPE):
    raise ValueError(
        "this SentencePiece model is neither BPE nor unigram, but of type "
        f"{spec.trainer_spec.model_type}"
    )
  return spec


def essence(model: bytes) -> bytes:
  """The parts of a serialized model that determine ids.

  Left out are the settings of its training that do not, such as the names of
  its files and its number of threads.

  Raises:
    ValueError: if it is no such model.
  """
  spec = parse(model)
  kept = _PROTOBUF.ModelProto()
  kept.pieces.extend(spec.pieces)
  kept.normalizer_spec.CopyFrom(spec.normalizer_spec)
  for name in _OF_IDS:
    if spec.trainer_spec.HasField(name):
      setattr(kept.trainer_spec, name, getattr(spec.trainer_spec, name))
  return kept.SerializeToString(deterministic=True)


def end(spec: Any) -> str:
  """The piece that ends a text.

  Raises:
    ValueError: if the model has none.
  """
  eos_id = spec.trainer_spec.eos_id
  if not 0 <= eos_id < len(spec.pieces):
    raise ValueError(
        "this SentencePiece model has no piece that ends a text (its eos_id is "
        f"{eos_id}); texts need one"
    )
  return spec.pieces[eos_id].piece


def convert(
    library: Any, spec: Any, end: str, canonical: bool, lower: bool = True
) -> Any:
  """Converts the model to a tokenizer of the library that gives the same ids.

  Args:
    library: the `tokenizers` module.
    spec: from `parse`.
    end: the piece that ends every text.
    canonical: whether ASCII punctuation is removed first.
    lower: whether `canonical` also lowercases.
  """
  pieces = [piece.piece for piece in spec.pieces]
  tokenizer = library.Tokenizer(_model(library, spec, pieces))
  first = []
  if canonical:
    punctuation = f"[{re.escape(string.punctuation)}]"
    first = [
        *([library.normalizers.Lowercase()] if lower else []),
        library.normalizers.Replace(library.Regex(punctuation), ""),
    ]
  tokenizer.normalizer = library.normalizers.Sequence(
      [*first, *_normalizers(library, spec)]
  )
  tokenizer.decoder = library.decoders.Sequence([
      library.decoders.Replace("▁", " "), library.decoders.ByteFallback(),
      library.decoders.Fuse(), library.decoders.Strip(" ", 1, 0),
  ])
  tokenizer.post_processor = library.processors.TemplateProcessing(
      single=f"$A {end}", special_tokens=[(end, pieces.index(end))]
  )
  return tokenizer


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
  """All pairs of pieces that join to a piece, in order of its score."""
  rank = {
      piece.piece: n for n, piece in enumerate(pieces) if piece.type == _NORMAL
  }
  merges = []
  for whole in sorted(
      (p for p in pieces if p.type == _NORMAL), key=lambda p: -p.score
  ):
    text = whole.piece
    pairs = [(text[:n], text[n:]) for n in range(1, len(text))]
    merges += sorted(
        (pair for pair in pairs if pair[0] in rank and pair[1] in rank),
        key=lambda pair: (rank[pair[0]], rank[pair[1]]),
    )
  return merges


def _normalizers(library, spec) -> list[Any]:
  """The normalization that SentencePiece applies before tokenization."""
  normalizers = library.normalizers
  spaces = [
      # Python's str.split and SentencePiece know four more than \s does.
      normalizers.Replace(library.Regex(r"[\s\x1c-\x1f]+"), " "),
      normalizers.Strip(),
  ]
  return [
      *spaces,
      *_table(library, spec.normalizer_spec, spaces),
      normalizers.Prepend("▁"),
      normalizers.Replace(" ", "▁"),
  ]


def _table(library, normalizer, spaces) -> list[Any]:
  """The model's own mapping of characters, if it has one."""
  normalizers = library.normalizers
  if not normalizer.precompiled_charsmap:
    return []
  table = normalizers.Precompiled(normalizer.precompiled_charsmap)
  # The table may map characters to spaces, so spaces are normalized again.
  if not _FORMS.fullmatch(normalizer.name):
    return [table, *spaces]
  # The library looks up a letter with its accents as one, and where it finds the
  # letter alone, drops the accents. So what can be composed is, and the rest is
  # held apart by a control character, which these tables drop.
  return [
      normalizers.NFC(),
      normalizers.Replace(library.Regex(_MARKS), _APART),
      table, normalizers.Replace(_APART, ""), *spaces,
  ]

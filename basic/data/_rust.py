"""The `tokenizers` library, whose files come from anywhere.

It is written in Rust. There an error that nobody expected is a panic, which
arrives in Python as no `Exception`, and escapes every handler; other errors are
of the class `Exception` itself; and memory that cannot be had ends the process.
"""

import base64
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

# A normalizer may make text longer, but not by this factor or more.
_MOST_GROWTH = 64
_LONGEST_FORM = 256  # bytes that one character may become in a table; NFKC has 33
# A file that cannot encode these is of no use.
_PROBES = (
    "", "a", "A photo of 7 cats, running!", "x" * 64, "\u00e9 \u65e5\U0001f600\t",
)


def library() -> Any:
  """The module `tokenizers`.

  Raises:
    ImportError: if it is not installed.
  """
  try:
    import tokenizers
  except ImportError as error:
    raise ImportError(
        "vocabularies of other projects need the tokenizers library: "
        "pip install tokenizers"
    ) from error
  return tokenizers


def read(content: bytes) -> tuple[Any, str | None]:
  """(tokenizer, the token of text without a piece or None) of a tokenizer.json.

  Raises:
    ValueError: if the content is no such file, or its normalizer could make a
      short text fill the memory.
    ImportError: if the library is not installed.
  """
  module = library()
  what = f"these {len(content)} bytes are not a tokenizer.json"
  try:
    config = json.loads(content)
    growth, unknown = _growth(config.get("normalizer")), _unknown(config["model"])
  except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
    raise ValueError(f"{what}: {_said(error)}") from error
  if growth >= _MOST_GROWTH:
    raise ValueError(
        "the normalizer of this tokenizer.json can make text "
        f"{min(growth, 1e12):,.0f} times longer; expected less than "
        f"{_MOST_GROWTH} times"
    )
  with no_panics(what):
    return module.Tokenizer.from_str(content.decode()), unknown


@contextlib.contextmanager
def no_panics(what: str) -> Iterator[None]:
  """Turns what the library raises into a ValueError that begins with `what`."""
  try:
    yield
  except BaseException as error:
    # Not Ctrl-C, and not what this package raises.
    if type(error) is not Exception and type(error).__name__ != "PanicException":
      raise
    raise ValueError(f"{what}: {str(error)[:200]}") from error


def attended(encoding: Any) -> list[tuple[int, int]]:
  """(id, whether the vocabulary added it) for all ids but padding."""
  return [
      (i, own) for i, own, attended in zip(
          encoding.ids, encoding.special_tokens_mask, encoding.attention_mask,
          strict=True,
      ) if attended
  ]


def special(pieces: Any, pad_id: int, unknown: str | None) -> frozenset[int]:
  """Ids that may not come from a caption; fails if simple texts have no ids."""
  marked = {
      i for i, token in pieces.get_added_tokens_decoder().items() if token.special
  }
  added = {
      i for encoding in pieces.encode_batch(list(_PROBES))
      for i, own in attended(encoding) if own
  }
  missing = None if unknown is None else pieces.token_to_id(unknown)
  return frozenset(((marked | {pad_id}) - {missing}) | added)


def literal(pieces: Any, special: frozenset[int]) -> re.Pattern[str]:
  """Finds the names of special tokens, also where they are lowercased first."""
  names = {pieces.id_to_token(i) or "" for i in special} - {""}
  return re.compile(
      "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)",
      re.IGNORECASE,
  )


def split(name: re.Match[str]) -> str:
  """The name of a special token as two words."""
  return f"{name[0][:1]} {name[0][1:]}"


def _said(error: Exception) -> str:
  if isinstance(error, KeyError):
    return f"it has no {error}"
  return str(error)


def _unknown(model: Mapping[str, Any]) -> str | None:
  """The token of text without a piece, of the "model" of a tokenizer.json."""
  if model.get("unk_id") is not None:
    return model["vocab"][model["unk_id"]][0]
  return model.get("unk_token")


def _growth(normalizer: Any) -> float:
  """The largest factor by which a normalizer makes text longer."""
  if not isinstance(normalizer, Mapping):
    return 1.0
  if normalizer.get("type") == "Sequence":
    factor = 1.0
    for each in normalizer.get("normalizers") or ():
      factor *= _growth(each)
    return factor
  if normalizer.get("type") == "Prepend":
    return max(1.0, len(normalizer.get("prepend") or ""))
  if normalizer.get("type") == "Precompiled":
    # SentencePiece's table: the size of a trie, the trie, and what text becomes.
    table = base64.b64decode(normalizer.get("precompiled_charsmap") or "")
    strings = table[4 + int.from_bytes(table[:4], "little"):]
    longest = max(map(len, strings.split(b"\0")))
    return 1.0 if longest <= _LONGEST_FORM else float(longest)
  if normalizer.get("type") != "Replace":
    return 1.0  # The forms of Unicode are bounded: 18 for NFKD.
  content = len(normalizer.get("content") or "")
  pattern = normalizer.get("pattern") or {}
  found = pattern.get("String") if isinstance(pattern, Mapping) else None
  # A regular expression may match between all characters.
  return max(1.0, content / len(found)) if found else 1.0 + content

"""Keeps keys, tokens and passwords out of what is written down.

A run's folder is copied, shared and published, so nothing secret may reach it:
not by the name of a setting, not inside a URL, not by the shape of a value.
"""

import re
from collections.abc import Sequence
from typing import Any

HIDDEN = "[redacted]"

# A setting of one of these names is a secret, whatever it holds.
_SECRET_NAME = re.compile(
    r"(.*[_-])?(pass(word|wd|phrase)|secrets?|credentials?|authorization"
    r"|(api|access|secret|private|auth|signing|wandb|ssh)[_-]?key"
    r"|(api|access|secret|auth|bearer|session|refresh|hub|hf)[_-]?token"
    r"|sig(nature)?)",
    re.IGNORECASE,
)
# A setting of one of these names may be a field ("image_key") or a symbol
# ("pad_token"): it is a secret if its value looks drawn at random.
_DOUBTFUL_NAME = re.compile(r"(.*[_-])?(key|token)", re.IGNORECASE)
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+/=.~-]{16,}")
# Values whose shape says by itself what they are.
_SECRET_SHAPE = re.compile(
    r"\b(hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abp]-|AKIA|AIza)"
    r"[\w-]{12,}"
)
_USER_INFO = re.compile(r"(\w+://)[^/@\s]+@")
_QUERY = re.compile(r"([?&;])([\w.-]+)=([^&;#\s]+)")


def value(name: str, found: Any) -> Any:
  """Returns one setting as it may be written down.

  Args:
    name: what the setting is called, without the path to it.
    found: what it holds; a dict or a list is searched to its leaves.

  Returns:
    The same, with `HIDDEN` in the place of every secret. Numbers, booleans
    and None are kept, unless the name alone says that they are secret.

  Example:
    >>> value("wandb", {"project": "clip", "api_key": "abc"})
    {'project': 'clip', 'api_key': '[redacted]'}
    >>> value("path", "https://me:word@host/data")
    'https://[redacted]@host/data'
  """
  if isinstance(found, dict):
    return {key: value(str(key), each) for key, each in found.items()}
  if isinstance(found, (list, tuple)):
    return [value(name, each) for each in found]
  if found in (None, "") or isinstance(found, bool):
    return found
  if _is_secret(name, found):
    return HIDDEN
  return _inside(found) if isinstance(found, str) else found


def command(arguments: Sequence[str]) -> list[str]:
  """Returns a command line as it may be written down.

  Both spellings are known, `--api_key=abc` and `--api_key abc`.

  Example:
    >>> command(["train", "--config.wandb.api_key=abc", "--password", "x"])
    ['train', '--config.wandb.api_key=[redacted]', '--password', '[redacted]']
  """
  kept, name = [], ""
  for argument in arguments:
    head, equals, tail = argument.partition("=")
    if equals and re.fullmatch(r"[\w./-]+", head):
      kept.append(f"{head}={value(_last(head), tail)}")
      name = ""
      continue
    is_flag = argument.startswith("-")
    kept.append(_inside(argument) if is_flag else value(name, argument))
    name = _last(argument) if is_flag else ""
  return kept


def _is_secret(name: str, found: Any) -> bool:
  if _SECRET_NAME.fullmatch(name):
    return True
  is_doubtful = _DOUBTFUL_NAME.fullmatch(name) is not None
  return is_doubtful and _RANDOM.fullmatch(str(found)) is not None


def _inside(text: str) -> str:
  """Hides what is secret inside a longer string."""
  text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
  text = _SECRET_SHAPE.sub(HIDDEN, text)
  return _QUERY.sub(
      lambda m: f"{m[1]}{m[2]}={HIDDEN if _is_secret(m[2], m[3]) else m[3]}",
      text,
  )


def _last(path: str) -> str:
  """The name of a flag or of a setting given by its path."""
  return re.split(r"[./]", path.lstrip("-"))[-1]

"""Redacts keys, tokens and passwords before anything is written to disk.

A run's folder is copied, shared and published, so it must not contain secrets.
They are recognised by the name of a setting, as parts of a URL, and by the
format of a value.
"""

import re
from collections.abc import Sequence
from typing import Any

HIDDEN = "[redacted]"

# A setting with one of these names is a secret, whatever its value.
_SECRET_NAME = re.compile(
    r"(.*[_-])?(pass(word|wd|phrase)|secrets?|credentials?|authorization"
    r"|(api|access|secret|private|auth|signing|wandb|ssh)[_-]?key"
    r"|(api|access|secret|auth|bearer|session|refresh|hub|hf)[_-]?token"
    r"|sig(nature)?)",
    re.IGNORECASE,
)
# A setting with one of these names may be a field ("image_key") or a symbol
# ("pad_token"): it is a secret only if its value looks random.
_DOUBTFUL_NAME = re.compile(r"(.*[_-])?(key|token)", re.IGNORECASE)
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+/=.~-]{16,}")
# Values whose format is that of a known kind of secret.
_SECRET_SHAPE = re.compile(
    r"\b(hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abp]-|AKIA|AIza)"
    r"[\w-]{12,}"
)
_USER_INFO = re.compile(r"(\w+://)[^/@\s]+@")
_QUERY = re.compile(r"([?&;])([\w.-]+)=([^&;#\s]+)")


def value(name: str, setting: Any) -> Any:
  """Returns one setting with secrets redacted.

  Args:
    name: name of the setting, without its path.
    setting: its value; dicts and lists are searched recursively.

  Returns:
    The same, with `HIDDEN` in place of every secret. Numbers are kept unless
    the name is that of a secret; booleans and None are always kept.

  Example:
    >>> value("wandb", {"project": "clip", "api_key": "abc"})
    {'project': 'clip', 'api_key': '[redacted]'}
    >>> value("path", "https://me:word@host/data")
    'https://[redacted]@host/data'
  """
  if isinstance(setting, dict):
    return {key: value(str(key), each) for key, each in setting.items()}
  if isinstance(setting, (list, tuple)):
    return [value(name, each) for each in setting]
  if setting in (None, "") or isinstance(setting, bool):
    return setting
  if _is_secret(name, setting):
    return HIDDEN
  return _inside(setting) if isinstance(setting, str) else setting


def command(arguments: Sequence[str]) -> list[str]:
  """Returns a command line with secrets redacted.

  Handles both `--api_key=abc` and `--api_key abc`.

  Example:
    >>> command(["train", "--config.wandb.api_key=abc", "--password", "x"])
    ['train', '--config.wandb.api_key=[redacted]', '--password', '[redacted]']
  """
  redacted, name = [], ""
  for argument in arguments:
    head, equals, tail = argument.partition("=")
    if equals and re.fullmatch(r"[\w./-]+", head):
      redacted.append(f"{head}={value(_last(head), tail)}")
      name = ""
      continue
    is_flag = argument.startswith("-")
    redacted.append(_inside(argument) if is_flag else value(name, argument))
    name = _last(argument) if is_flag else ""
  return redacted


def _is_secret(name: str, setting: Any) -> bool:
  """Whether a setting is a secret, by its name and by how random it looks."""
  if _SECRET_NAME.fullmatch(name):
    return True
  is_doubtful = _DOUBTFUL_NAME.fullmatch(name) is not None
  return is_doubtful and _RANDOM.fullmatch(str(setting)) is not None


def _inside(text: str) -> str:
  """Redacts secrets inside a longer string."""
  text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
  text = _SECRET_SHAPE.sub(HIDDEN, text)
  return _QUERY.sub(
      lambda m: f"{m[1]}{m[2]}={HIDDEN if _is_secret(m[2], m[3]) else m[3]}",
      text,
  )


def _last(path: str) -> str:
  """The last component of a flag's or setting's path."""
  return re.split(r"[./]", path.lstrip("-"))[-1]

"""Cleaning of captions before they become ids, as open_clip cleans them."""

import html
import string
from collections.abc import Callable

import ftfy

NAMES = ("none", "whitespace", "lower", "canonicalize")

# What a cleaner may read, in characters for each id of a row. Nearly all of it
# may vanish: "&amp;amp;" becomes "&".
_READ = 1024

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def cleaner(name: str | None) -> Callable[[str], str] | None:
  """The function that cleans a caption.

  - "whitespace": mojibake is repaired (ftfy.fix_text), HTML entities are
    resolved, twice, for many pages escape twice; runs of whitespace become one
    space.
  - "lower": the same in lower case. OpenAI's CLIP was trained on it.
  - "canonicalize": the same without ASCII punctuation, where "_" becomes a
    space.

  Args:
    name: one of `NAMES`, which are open_clip's; None and "none": no cleaning.

  Returns:
    caption -> caption; None if captions are left as they are.

  Raises:
    ValueError: if there is no such cleaning.

  References:
    Cherti et al., Reproducible scaling laws for contrastive language-image
    learning, 2022 (open_clip, `tokenizer.py`). https://arxiv.org/abs/2212.07143
    Speer, ftfy, 2019. https://doi.org/10.5281/zenodo.2591652

  Example:
    >>> cleaner("lower")("Salt &amp;amp; PEPPER,  it doesnâ€™t matter")
    "salt & pepper, it doesn't matter"
  """
  if name is None:
    return None
  if name not in NAMES:
    raise ValueError(
        f"there is no cleaning of captions {name!r}; there are {NAMES}"
    )
  return {
      "none": None, "whitespace": _whitespace, "lower": _lower,
      "canonicalize": _canonicalize,
  }[name]


def cleaned(
    clean: Callable[[str], str] | None, text: str, length: int
) -> str:
  """The beginning of a caption, cleaned, of which `length` ids are taken.

  Args:
    clean: from `cleaner`.
    text: a caption of any length.
    length: ids in a row. Cleaning what lies far beyond them would waste time.
  """
  if clean is None:
    return text
  most = _READ * length
  return clean(text if len(text) <= most else text.lstrip()[:most])


def _repaired(text: str) -> str:
  return html.unescape(html.unescape(ftfy.fix_text(text)))


def _whitespace(text: str) -> str:
  return " ".join(_repaired(text).split())


def _lower(text: str) -> str:
  return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
  text = _repaired(text).replace("_", " ").translate(_NO_PUNCTUATION)
  return " ".join(text.lower().split())

"""Text, tables and bars as HTML that is safe whatever their strings hold.

The pages forbid inline styles, so a width or colour that depends on a number is
one of a few classes, whose rules `style` has.
"""

import functools
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

LEVELS = 33  # colours of a heat map
# What UTF-8 cannot encode, and what HTML does not allow.
_IMPOSSIBLE = re.compile("[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LONGEST = 240  # characters of a caption or a name


def clean(data: Any) -> Any:
  """Replaces what no page can hold in every string of nested data.

  Args:
    data: strings, numbers, None, and mappings and sequences of them.

  Returns:
    The same with U+FFFD in place of lone surrogates, of which file names that
    are not UTF-8 are full, and of control characters; tuples become lists.

  Example:
    >>> clean({"caption\\0": ["caf\\udce9", 1]}) == {
    ...     "caption\\ufffd": ["caf\\ufffd", 1]}
    True
  """
  if isinstance(data, str):
    return _cleaned(data)
  if isinstance(data, Mapping):
    return {clean(name): clean(value) for name, value in data.items()}
  if isinstance(data, (list, tuple)):
    return [clean(each) for each in data]
  return data


@functools.lru_cache(4096)  # a run repeats the names of its metrics in every line
def _cleaned(string: str) -> str:
  return _IMPOSSIBLE.sub("\N{REPLACEMENT CHARACTER}", string)


def text(value: Any, most: int = _LONGEST) -> str:
  """Escapes a string, and shortens one that is too long to be read on a page.

  Example:
    >>> text("<b>"), text("caption", 3)
    ('&lt;b&gt;', 'cap\N{HORIZONTAL ELLIPSIS}')
  """
  shown = clean(str(value))
  if len(shown) > most:
    shown = shown[:most] + "\N{HORIZONTAL ELLIPSIS}"
  return html.escape(shown)


def name(value: str) -> str:
  """Escapes the name of a metric or a setting, which may be broken at "/" and "_".

  Example:
    >>> name("a/b")
    'a/<wbr>b'
  """
  return re.sub("([/_])", r"\1<wbr>", text(value))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = ""
) -> str:
  """A table that scrolls sideways where it does not fit.

  Args:
    columns: headings, as HTML.
    rows: cells as HTML, as many in each row as there are columns; the first cell
      is the heading of its row.
    kind: more classes: "texts" for columns of text, not numbers.

  Returns:
    HTML.
  """
  head = "".join(f'<th scope="col">{column}</th>' for column in columns)
  body = "".join(
      f'<tr><th scope="row">{first}</th>'
      + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"
      for first, *others in rows
  )
  return (
      f'<div class="scroll" tabindex="0"><table class="results {kind}"><thead>'
      f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
  )


def bar(fraction: float | np.floating) -> str:
  """The class of a bar whose length is a fraction in [0, 1], to a percent.

  Example:
    >>> bar(0.254)
    'w25'
  """
  return f"w{_part(fraction, 100)}"


def level(fraction: float | np.floating) -> str:
  """The class of a cell whose colour stands for a fraction in [0, 1].

  Example:
    >>> level(1.0)
    'q32'
  """
  return f"q{_part(fraction, LEVELS - 1)}"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
  """A list of figures with their names, both HTML."""
  items = "".join(
      f"<div><dt>{term}</dt><dd>{value}</dd></div>" for term, value in pairs
  )
  return f"<dl>{items}</dl>"


def _part(fraction: float | np.floating, parts: int) -> int:
  return round(parts * min(max(float(np.nan_to_num(fraction)), 0.0), 1.0))

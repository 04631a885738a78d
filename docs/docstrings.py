"""From Google-style docstrings to Markdown, as MyST reads it."""

import re

import docstring_parser
from docstring_parser import google

_SECTIONS = [
    *google.DEFAULT_SECTIONS,
    google.Section("References", "references", google.SectionType.SINGULAR),
]
_MARKS = re.compile(r"[\\*_<>\[\]#|{}$~]")
# What stays as it is: code between backticks, and addresses.
_KEPT = re.compile(r"(`[^`]*`|https?://[^\s,;)]*[^\s,;).])")


def parse(text: str) -> docstring_parser.Docstring:
  """The parts of a docstring: summary, description, arguments, errors, ..."""
  return google.GoogleParser(_SECTIONS).parse(text)


def prose(text: str | None) -> str:
  """Text of a docstring as Markdown: paragraphs, and what is indented as it is.

  Example:
    >>> print(prose("A sum, s_i:\\n\\n    s_i = a * b\\n\\nSee `x_i`."))
    A sum, s\\_i:
    <BLANKLINE>
    ```text
    s_i = a * b
    ```
    <BLANKLINE>
    See `x_i`.
  """
  blocks = re.split(r"\n\s*\n", (text or "").strip("\n"))
  made: list[str] = []
  for block in filter(str.strip, blocks):
    literal = block.startswith("    ")
    shown = _dedented(block) if literal else _lines(block)
    if literal and made and made[-1].endswith("\n```"):
      made[-1] = f"{made[-1][:-4]}\n\n{shown}\n```"
    else:
      made.append(f"```text\n{shown}\n```" if literal else shown)
  return "\n\n".join(made)


def _lines(block: str) -> str:
  """A paragraph; lines that are indented in its middle are one literal block."""
  parts: list[str] = []
  for line in block.split("\n"):
    indented = line.startswith("    ") and not parts[-1:] == ["-"]
    listed = bool(re.match(r"\s*(-|\d+\.) ", line))
    if indented and not listed:
      parts.append(f"\x00{line}")
    else:
      parts.append(_escaped(line.strip() if not listed else line))
  text = "\n".join(parts)
  return re.sub(
      r"(?:(?:^|\n)\x00[^\n]*)+",
      lambda found: "\n\n```text\n"
      + _dedented(found[0].replace("\x00", "").strip("\n")) + "\n```\n",
      text,
  ).strip("\n")


def _dedented(block: str) -> str:
  lines = block.split("\n")
  margin = min(len(x) - len(x.lstrip()) for x in lines if x.strip())
  return "\n".join(line[margin:].rstrip() for line in lines)


def _escaped(text: str) -> str:
  """A line with Markdown's marks escaped, and addresses as links."""
  return "".join(
      part if part.startswith("`") else f"<{part}>" if part.startswith("http")
      else _MARKS.sub(r"\\\g<0>", part)
      for part in _KEPT.split(text)
  )


def references(text: str) -> str:
  """One item of a list for each reference, which an address ends."""
  items = re.split(r"(?<=\S)\n(?=\S)", text.strip())
  joined: list[str] = []
  for item in items:
    line = " ".join(item.split())
    if joined and "http" not in joined[-1]:
      joined[-1] += f" {line}"
    else:
      joined.append(line)
  return "\n".join(f"- {_escaped(line)}" for line in joined)


def definition(term: str, text: str) -> str:
  """An entry of a definition list, whose text may have several paragraphs."""
  body = prose(text)
  if not body:
    return term
  return f"{term}\n: " + body.replace("\n", "\n  ").replace("\n  \n", "\n\n")

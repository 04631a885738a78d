"""A whole HTML document of named sections, safe to open from a disk."""

import re
from collections.abc import Iterable

from basic.pages import markup, style


def document(title: str, header: str, sections: Iterable[tuple[str, str]]) -> str:
  """Builds a document that needs no other file and no network.

  Args:
    title: its heading, text.
    header: HTML below the heading.
    sections: (name, content), as text and as HTML.

  Returns:
    HTML that UTF-8 can encode. It has no scripts, and its policy allows none.
  """
  listed = list(sections)
  links = "".join(
      f'<a href="#{_anchor(name)}">{markup.text(name)}</a>' for name, _ in listed
  )
  body = "".join(
      f'<section id="{_anchor(name)}"><h2>{markup.text(name)}</h2>{content}</section>'
      for name, content in listed
  )
  heading = markup.text(title)
  page = (
      '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
      f'<meta http-equiv="Content-Security-Policy" content="{style.policy()}">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      f"<title>{heading}</title><style>{style.SHEET}</style></head>"
      f'<body><header><h1>{heading}</h1>{header}<nav aria-label="Sections">{links}'
      f"</nav></header><main>{body}</main></body></html>\n"
  )
  # One last time, whatever a section has forgotten: a page must be writable.
  return markup.clean(page)


def _anchor(name: str) -> str:
  return re.sub("[^a-z0-9]+", "-", name.lower())

"""Reads examples of a source and says what keeps a run from using it."""

import collections
import logging
import textwrap
from typing import Any, NamedTuple

import numpy as np

from basic import cli, sources, types
from basic.data import damage

_NAMED = 5  # classes
_LONGEST = 80  # characters of a caption
_MOST = 0.1  # the default of `unreadable.most`
_log = logging.getLogger(__name__)


def check(*, source: types.Source, examples: int = 64) -> types.Counts:
  """Says what a source lacks (basic.sources.check), and what is unreadable.

  Args:
    source: settings of the source: {"name": "folder", "path": "pictures"}.
    examples: number of examples to read, at equal distances.

  Returns:
    The number of examples, of those read, and of unreadable ones by reason; and
    what was found, in words: "layout" (what the source says of its files),
    "classes", "caption" (the first one), "captions" (how many an example has),
    "images" (the smallest and the largest size, and their formats).

  Raises:
    ValueError: if something is missing, one line for each fault; if none of the
      examples can be read; or if `examples` is not positive.
    cli.DamagedData: if more than a tenth is unreadable, so that a run stops.
  """
  if examples < 1:
    raise ValueError(f"examples is {examples}; it takes a number of at least 1.")
  faults = sources.check(source, examples)
  if faults:
    raise ValueError("\n".join(["the source cannot be used as it is:", *faults]))
  asked = min(examples, len(source))
  reasons: collections.Counter[str] = collections.Counter()
  said: dict[str, str] = {}  # reason -> its first example
  read: list[_Found] = []
  for position in range(asked):
    index = position * len(source) // asked
    try:
      read.append(_read(source, index))
    except types.Unreadable as error:
      reasons[error.reason] += 1
      said.setdefault(error.reason, damage.failure(source, index, error).said)
  bad, firsts = reasons.total(), "\n".join(f"  {each}" for each in said.values())
  if bad == asked:
    raise ValueError(
        f"none of {asked} examples that were read can be used ({_listed(reasons)}):"
        f"\n{firsts}\nMend the data or the settings of the source."
    )
  if bad:
    _log.warning(
        "%d of %d cannot be read; the first of each reason:\n%s", bad, asked, firsts
    )
  if bad > _MOST * asked:
    raise cli.DamagedData(
        f"{bad / asked:.0%} of the {asked} examples that were read is unreadable "
        f"({_listed(reasons)}), and a run stops above {_MOST:.0%} "
        "(unreadable.most): mend the data, or leave these examples out."
    )
  return {
      "examples": len(source), "read": asked - bad,
      **{f"unreadable/{reason}": count for reason, count in reasons.items()},
      **_described(source, read),
  }


class _Found(NamedTuple):
  """What an example has: captions, and the size and format of its image."""

  captions: tuple[str, ...]
  size: tuple[int, int] | None
  format: str


def _read(source: types.Source, index: int) -> _Found:
  """Reads and decodes an example, or raises `types.Unreadable`."""
  example = source[index]
  text = example.get("text", ())
  captions = (text,) if isinstance(text, str) else tuple(text)
  image: Any = example.get("image")
  if image is None:
    return _Found(captions, None, "")
  size = np.asarray(image).shape[:2]
  header = getattr(image, "header", None)
  return _Found(captions, size, "pixels" if header is None else header.name)


def _described(source: types.Source, read: list[_Found]) -> dict[str, Any]:
  """What was found, in words, by what it is."""
  found: dict[str, Any] = {}
  layout = getattr(source, "found", None)
  if isinstance(layout, str):
    found["layout"] = layout
  if classes := tuple(getattr(source, "classes", ()) or ()):
    shown = ", ".join(map(repr, classes[:_NAMED]))
    found["classes"] = f"{len(classes)}: {shown}{', ...' * (len(classes) > _NAMED)}"
  counts = sorted({len(each.captions) for each in read})
  if counts[-1]:
    first = next(caption for each in read for caption in each.captions)
    found["caption"] = repr(textwrap.shorten(first, _LONGEST, placeholder="..."))
    found["captions"] = f"{_span(counts)} an example"
  if sizes := [each.size for each in read if each.size is not None]:
    by_pixels = sorted(sizes, key=lambda size: size[0] * size[1])
    ends = dict.fromkeys((by_pixels[0], by_pixels[-1]))
    formats = collections.Counter(each.format for each in read if each.format)
    found["images"] = (
        f"{' to '.join(f'{height} by {width}' for height, width in ends)} pixels "
        f"(height by width), {_listed(formats)}"
    )
  return found


def _span(counts: list[int]) -> str:
  same = counts[0] == counts[-1]
  return str(counts[0]) if same else f"{counts[0]} to {counts[-1]}"


def _listed(reasons: collections.Counter[str]) -> str:
  return ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())

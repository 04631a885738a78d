"""Lists of class names and templates in files, our own and other projects'."""

import json
import pathlib
from collections.abc import Sequence

Names = tuple[str, ...] | dict[str, str]


def read(path: pathlib.Path, keys: Sequence[str]) -> Names | None:
  """Reads names or templates; "{c}" in them becomes "{}".

  Args:
    path: the file. JSON: a list; or a mapping of data sets to lists, as those of
      CLIP_benchmark; or a mapping of a source's classes to what prompts call them.
      TSV: such a mapping, one class a line. Other text: a list, one a line. In text,
      empty lines and those that begin with "#" are skipped.
    keys: what the data set may be called in a mapping of data sets.

  Returns:
    A list or a mapping; None if a mapping of data sets has none of `keys`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it holds something else.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   file = pathlib.Path(folder) / "templates.json"
    ...   _ = file.write_text('{"pets": ["a photo of my {c}."], "cars": ["{c}"]}')
    ...   read(file, ("oxford_pets", "pets"))
    ('a photo of my {}.',)
  """
  try:
    text = path.read_text(encoding="utf-8")
    found = json.loads(text) if path.suffix == ".json" else _lines(path, text)
  except ValueError as error:  # of JSON, or of UTF-8
    raise ValueError(f"{path} cannot be read: {error}") from error
  if isinstance(found, dict) and any(isinstance(x, list) for x in found.values()):
    found = next((found[key] for key in keys if key in found), None)
    if found is None:
      return None
  if isinstance(found, dict) and all(isinstance(x, str) for x in found.values()):
    return found
  if isinstance(found, list) and all(isinstance(x, str) for x in found):
    return tuple(each.replace("{c}", "{}") for each in found)
  raise ValueError(
      f"{path}: for {keys[0]!r} it has a {type(found).__name__} of other things than "
      "strings; it takes a list of strings, lists by data set, or names by class. "
      "Prompts of their own for each class cannot be given."
  )


def _lines(path, text):
  """The lines of a text; of a TSV, a mapping."""
  lines = [
      line for line in text.splitlines() if line.strip() and not line.startswith("#")
  ]
  if path.suffix != ".tsv":
    return [line.strip() for line in lines]
  rows = [line.split("\t") for line in lines]
  if any(len(row) != 2 for row in rows):
    raise ValueError(
        "each line takes two columns: a class, a tab, and what prompts call it."
    )
  return dict(rows)

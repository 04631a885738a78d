"""Which columns of a table hold images, captions and labels, and what they say."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from basic import types
from basic.sources import _records

# Names that tables of pictures use, the first of them that is there: those of
# open_clip, Hugging Face's imagefolder, img2dataset, LAION, Kaggle and TFRecords.
FILES = (
    "filepath", "file_name", "filename", "image_path", "img_path", "path", "file",
    "image", "img",
)
CONTENTS = (
    "image/encoded", "image", "img", "jpg", "jpeg", "png", "webp", "image_bytes",
    "image_raw", "bytes", *FILES,
)
TEXTS = (
    "title", "caption", "captions", "captions/text", "text", "texts", "sentences",
    "txt", "image/caption", "caption/text",
)
LABELS = ("label", "labels", "class", "cls", "category", "image/class/label")


@dataclasses.dataclass(frozen=True)
class Columns:
  """The columns of an example.

  Attributes:
    image: holds the image, or the path of its file.
    text: hold one or several captions each; () if the names of the labels are
      the captions.
    weights: one for each column of `text`: how probable its captions are
      together; None: all captions of an example are equally probable.
    label: holds the class; None if there is none.
    language: holds the language of the captions of a row, or several, one for
      each caption; or the languages of the columns of `text`; None: unknown.
  """

  image: str
  text: tuple[str, ...]
  weights: tuple[float, ...] | None
  label: str | None
  # Not in the repr, which fingerprints of older runs hash.
  language: str | tuple[str, ...] | None = dataclasses.field(
      default=None, repr=False
  )

  @property
  def names(self) -> tuple[str, ...]:
    """All columns, each once."""
    label = () if self.label is None else (self.label,)
    language = (self.language,) if isinstance(self.language, str) else ()
    return tuple(dict.fromkeys((self.image, *self.text, *label, *language)))

  @property
  def hashed(self) -> tuple[Any, ...]:
    """What a fingerprint of the examples hashes."""
    return (self,) if self.language is None else (self, self.language)

  def fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
    """The captions of a row, with what belongs to each; see `texts`."""
    values = [row.get(name) for name in self.text]
    languages = self.language
    if isinstance(languages, str):
      languages = [row.get(languages)] * len(values)
    return texts(values, self.weights, languages)


def choose(
    where: str,
    present: Sequence[str],
    *,
    usual: Sequence[str],
    image: str | None,
    text: str | Sequence[str] | None,
    weights: Sequence[float] | None,
    label: str | None,
    language: str | Sequence[str] | None = None,
) -> Columns:
  """The columns that settings name, and those of usual names for the others.

  Args:
    where: the table, for messages.
    present: names of the columns that it has.
    usual: usual names of the column with images.
    image: set by the user; None: the first usual one.
    text: one column, or several; None: the first usual one; "": none.
    weights: as in `Columns`.
    label: None: the first usual one, if there is one; "": none.
    language: as in `Columns`.

  Raises:
    ValueError: if a column does not exist or is not found, or the weights or
      languages do not fit; the message lists the columns that exist.
  """
  named = (text,) if isinstance(text, str) else tuple(text or ())
  if text is None:
    found = _usual(present, TEXTS)
    named = () if found is None else (found,)
  named = tuple(name for name in named if name)
  if image is None:
    image = _usual(present, usual)
  if label is None:
    label = _usual(present, LABELS)
  spoken = _language(where, language, named)
  for name in (image, *named, label, spoken if isinstance(spoken, str) else None):
    if name and name not in present:
      raise ValueError(
          f"{where} has no column {name!r}; it has {list(present)}."
      )
  if image is None or not (named or label):
    lacking = "images: set `image`" if image is None else "captions: set `text`"
    raise ValueError(
        f"{where} has the columns {list(present)}, none of which has a usual "
        f"name of the column with {lacking} to the right one."
    )
  return Columns(
      image, named, _weights(where, weights, named), label or None, spoken
  )


def _usual(present: Sequence[str], names: Sequence[str]) -> str | None:
  """The column with the first of these names, in any case."""
  by_name = {name.strip().lower(): name for name in reversed(present)}
  return next((by_name[name] for name in names if name in by_name), None)


def _weights(where, weights, text) -> tuple[float, ...] | None:
  if weights is None:
    return None
  if len(weights) != len(text) or min(weights) < 0 or not sum(weights) > 0:
    raise ValueError(
        f"{where}: weights is {tuple(weights)} where the columns of captions are "
        f"{list(text)}; expected one non-negative number for each, not all 0."
    )
  return tuple(map(float, weights))


def _language(where, language, text) -> str | tuple[str, ...] | None:
  if language is None or isinstance(language, str):
    return language or None
  if len(language) != len(text) or not all(map(str.strip, language)):
    raise ValueError(
        f"{where}: language is {tuple(language)} where the columns of captions "
        f"are {list(text)}; expected the language of each, or the name of a "
        "column that holds it."
    )
  return tuple(language)


def texts(
    values: Sequence[Any],
    weights: Sequence[float] | None,
    languages: Sequence[Any] | None = None,
) -> dict[str, Any]:
  """The captions of an example, and what belongs to each.

  Args:
    values: what its columns of captions hold: one caption each, or several.
    weights: as in `Columns`; those of a column are shared by its captions.
    languages: of each column the language of its captions, or of each of them;
      None: unknown.

  Returns:
    "text", with weights "text_weights", with languages "text_languages".

  Raises:
    types.Unreadable: if no caption is left that may be drawn, or one is bad, or
      there are more or fewer languages than captions.
  """
  kept: list[tuple[str, float, str]] = []
  columns = zip(
      values, weights or (1.0,) * len(values), languages or (None,) * len(values),
      strict=True,
  )
  for value, weight, language in columns:
    several = _records.spoken(value, language)
    kept += [(caption, weight / len(several), said) for caption, said in several]
  if not sum(weight for _, weight, _ in kept) > 0:
    raise types.Unreadable("no caption")
  captions, shares, spoken = zip(*kept, strict=True)
  example: dict[str, Any] = {"text": captions}
  if weights is not None:
    example["text_weights"] = shares
  if languages is not None:
    example["text_languages"] = spoken
  return example


def is_number(text: str) -> bool:
  """Whether a label is the number of a class, such as "3", or "3.0" of pandas."""
  return re.fullmatch(r"\s*-?\d+(\.0*)?\s*", text) is not None


class Labels:
  """Class names, and the numbers of labels that are names or numbers."""

  def __init__(self, where: str, names: Sequence[str]):
    spaced = tuple(name.replace("_", " ").strip() for name in names)
    self.names = spaced if len(set(spaced)) == len(names) else tuple(names)
    if len(set(names)) < len(names) or not all(spaced):
      raise ValueError(
          f"{where}: the names of the classes are {list(names)!r:.200}; expected "
          "names that differ, none of them blank."
      )
    self._numbers = {name: number for number, name in enumerate(names)}
    self._where = where

  def check_captions(
      self, text: Sequence[str], kind: str, names: Sequence[str]
  ) -> None:
    """Raises ValueError if there are neither captions nor names of labels.

    Args:
      text: names of what holds captions.
      kind: what these are: "columns".
      names: all there are, for the message.
    """
    if not text and not self.names:
      raise ValueError(
          f"{self._where} has no captions, and its labels have no names; set "
          f"`text` or `classes`. It has the {kind} {list(names)}."
      )

  def number(self, value: Any) -> np.int32:
    """The class that a value names, or whose number it is.

    Raises:
      types.Unreadable: if it is neither.
    """
    if isinstance(value, str):
      value = value.strip()
      if value in self._numbers:
        return np.int32(self._numbers[value])
      value = value.partition(".")[0] if is_number(value) else value
    if isinstance(value, float) and value.is_integer():
      value = int(value)  # pandas makes floats of integers beside missing ones.
    label = _records.label(value)
    if self.names and label >= len(self.names):
      raise types.Unreadable(
          "label out of range", f"found {label} of {len(self.names)} classes"
      )
    return label

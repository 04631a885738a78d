"""Emoji concepts: their names and keywords in many languages, and their splits.

The words are those of Unicode's CLDR as the package emojibase-data has them.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from basic.preparation import _emoji_packages

WORDS = _emoji_packages.Package(
    "emojibase-data", "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
FLAGS = 9  # the group of flags
_PARTS = 2  # the group of skin tones and hair, which are no pictures of their own
_HELD_OUT = 1 / 6  # of the families
_WITHHELD = 1 / 6  # of the families
_KEYWORDS = 6  # in a caption

_SKIN_TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
# Joiner, presentation, female and male, facing right: the same thing without.
_VARIANTS = ("200D", "FE0F", "2640", "2642", "27A1", *_SKIN_TONES)
# Code points of one thing drawn with another gender or age.
_SAME = {
    "1F468": "1F9D1", "1F469": "1F9D1",  # man, woman: person
    "1F466": "1F9D2", "1F467": "1F9D2",  # boy, girl: child
    "1F474": "1F9D3", "1F475": "1F9D3",  # old man, old woman: older person
    "1F934": "1FAC5", "1F478": "1FAC5",  # prince, princess: person with crown
    "1F930": "1FAC4", "1FAC3": "1FAC4",  # pregnant woman, man: person
    "1F57A": "1F483",  # man dancing: woman dancing
    "1F935": "1F470",  # in tuxedo, with veil
    "1F385": "1F9D1-1F384", "1F936": "1F9D1-1F384",  # Santa, Mrs.: Mx Claus
    "1F46B": "1F9D1-1F91D-1F9D1", "1F46C": "1F9D1-1F91D-1F9D1",
    "1F46D": "1F9D1-1F91D-1F9D1",  # people holding hands
    "1F48F": "1F9D1-2764-1F48B-1F9D1", "1F491": "1F9D1-2764-1F9D1",
    "1F46A": "1F9D1-1F9D1-1F9D2",  # family
}


class Concept(NamedTuple):
  """What a picture shows.

  Attributes:
    code: its code points: "1F44B-1F3FB", without U+FE0F.
    base: those of the same concept without skin tones.
    family: equal for all variants of skin tone, gender and direction.
    group: number of Unicode's group of emoji.
    names: by language.
    keywords: by language; those of `base`.
  """

  code: str
  base: str
  family: str
  group: int
  names: Mapping[str, str]
  keywords: Mapping[str, tuple[str, ...]]


def code(text: str) -> str:
  """Code points as a `Concept` has them: "0023-fe0f-20e3" is "23-20E3"."""
  points = re.split("[-_]", text)
  return "-".join(
      f"{int(point, 16):X}" for point in points if point.upper() != "FE0F"
  )


def family(text: str) -> str:
  """The family of code points: without skin tone, gender and direction."""
  points = [point for point in text.split("-") if point not in _VARIANTS]
  return "-".join(_SAME.get(point, point) for point in points)


def concepts(
    package: _emoji_packages.Content, languages: Iterable[str]
) -> list[Concept]:
  """All concepts of emojibase-data in its order, parts of emoji left out.

  Raises:
    ValueError: if a language is not in the package.
  """
  languages = tuple(languages)
  known = sorted(p.split("/")[0] for p in package.files if p.endswith("/data.json"))
  for language in languages:
    if f"{language}/data.json" not in package.files:
      raise ValueError(
          f"no words in the language {language!r} are there; there are {known}."
      )
  entries = {each: _entries(package.json(f"{each}/data.json")) for each in languages}
  return [
      _concept(text, entries) for text, (entry, _) in entries[languages[0]].items()
      if entry.get("group", _PARTS) != _PARTS
  ]


def _entries(data: Sequence[Any]) -> dict[str, tuple[Any, Any]]:
  """(entry, entry without skin tone) by code."""
  return {
      code(entry["hexcode"]): (entry, base)
      for base in data for entry in (base, *base.get("skins", ()))
  }


def _concept(text: str, entries: Mapping[str, Mapping[str, Any]]) -> Concept:
  names, keywords = {}, {}
  for language, by_code in entries.items():
    if text in by_code:  # Few languages lack a few.
      entry, base = by_code[text]
      names[language] = entry["label"]
      keywords[language] = tuple(base.get("tags", ()))
  entry, base = next(iter(entries.values()))[text]
  base_code = code(base["hexcode"])
  return Concept(
      text, base_code, family(base_code), entry["group"], names, keywords
  )


def unicode_names(package: _emoji_packages.Content) -> dict[str, str]:
  """Unicode's own, older names, by code; "" for those without."""
  names = package.json("meta/unicode-names.json")
  return {code(text): name for text, name in names.items()}


def wanted(path: str) -> bool:
  """Whether a file of the package is one that is read here."""
  return path.endswith("/data.json") or path in ("meta/unicode-names.json", "LICENSE")


def squeezed(name: str) -> str:
  """Letters and digits of a name: "Côte d'Ivoire" is "cotedivoire"."""
  plain = unicodedata.normalize("NFKD", name).lower()
  return re.sub(r"[^a-z0-9]+", "", plain)


def is_held_out(concept: Concept) -> bool:
  """Whether no picture of the concept is trained on; never so for flags.

  No model could know the flag of a country that it never saw.
  """
  return concept.group != FLAGS and _share("concept", concept) < _HELD_OUT


def is_withheld(concept: Concept) -> bool:
  """Whether the concept's words in one language are not trained on."""
  return concept.group != FLAGS and _share("words", concept) < _WITHHELD


def _share(salt: str, concept: Concept) -> float:
  """A number in [0, 1), uniform over families."""
  return _hash(f"{salt}/{concept.family}") / 2**32


def _hash(text: str) -> int:
  """32 bits that depend on the text alone."""
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())


def some_keywords(concept: Concept, language: str, salt: str) -> str:
  """A few keywords other than the name, as a caption; "" if there are none.

  They are drawn by a hash of each with `salt`, since lists are alphabetical.
  """
  name = concept.names[language].lower()
  others = [w for w in concept.keywords[language] if w.lower() != name]
  drawn = sorted(others, key=lambda word: _hash(f"{salt}/{language}/{word}"))
  return ", ".join(drawn[:_KEYWORDS])

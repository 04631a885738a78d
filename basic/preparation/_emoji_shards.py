"""Splits of the emoji pictures, and tar shards of them as webdataset has them.

An example is KEY.png, KEY.txt (its English name), KEY.cls (its class) and
KEY.json: "names" and "keywords" by language, "concept", "vendor". The same
pictures give the same bytes.
"""

import io
import json
import pathlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from basic import files
from basic.preparation import _emoji_pictures, _emoji_words

PER_SHARD = 2_000

TRAINED = ("train", "tones")
SPLITS = {
    "train": "training: five vendors, without skin tones",
    "tones": "training: the same concepts in five skin tones",
    "concepts": "concepts that no training picture shows, in trained styles",
    "style": "trained concepts in a style that no training picture has",
    "words": "of these, concepts without trained words in one language",
    "both": "concepts that no training picture shows, in that new style",
}


class Words(NamedTuple):
  """Which words are trained on.

  Attributes:
    trained: languages.
    withheld: of these, the one in which some concepts have no words; or None.
    unseen: a language without a word in training; or None.
  """

  trained: tuple[str, ...]
  withheld: str | None
  unseen: str | None

  @property
  def languages(self) -> tuple[str, ...]:
    """All of them, each once."""
    return self.trained + ((self.unseen,) if self.unseen else ())


class Example(NamedTuple):
  """One picture of a split on its way into a shard."""

  key: str
  picture: _emoji_pictures.Picture
  label: int
  about: Mapping[str, Any]


def splits_of(
    picture: _emoji_pictures.Picture, unseen: str, words: Words
) -> Iterator[str]:
  """The splits that have a picture; `unseen` is the vendor not trained on."""
  concept = picture.concept
  plain = concept.code == concept.base
  held_out = _emoji_words.is_held_out(concept)
  if picture.vendor != unseen and not held_out:
    yield "train" if plain else "tones"
  if not plain or concept.group == _emoji_words.FLAGS:
    return
  if picture.vendor != unseen and held_out:
    yield "concepts"
  if picture.vendor == unseen:
    yield "both" if held_out else "style"
    if words.withheld and not held_out and _emoji_words.is_withheld(concept):
      yield "words"


def classes(
    split: str, concepts: Iterable[_emoji_words.Concept]
) -> list[_emoji_words.Concept]:
  """The classes among which the pictures of a split are classified.

  All concepts; for those held out, these alone. Their order is that of the
  labels.
  """
  held_out = split in ("concepts", "both")
  return [
      concept for concept in concepts if concept.code == concept.base
      and (_emoji_words.is_held_out(concept) or not held_out)
  ]


def examples(
    pictures: Iterable[_emoji_pictures.Picture],
    concepts: Sequence[_emoji_words.Concept],
    unseen: str,
    words: Words,
) -> dict[str, list[Example]]:
  """The examples of every split, by split, ordered by their keys."""
  labels = {
      split: {c.code: n for n, c in enumerate(classes(split, concepts))}
      for split in SPLITS
  }
  found: dict[str, list[Example]] = {split: [] for split in SPLITS}
  for picture in pictures:
    concept = picture.concept
    key = f"{picture.vendor}-{concept.code.lower()}"
    for split in splits_of(picture, unseen, words):
      found[split].append(Example(
          key, picture, labels[split][concept.base], _about(split, picture, words)
      ))
  return {
      split: sorted(each, key=lambda example: example.key)
      for split, each in found.items()
  }


def _about(split, picture, words) -> dict[str, Any]:
  """The JSON of an example: its words, trained ones alone in training."""
  concept, languages = picture.concept, words.languages
  if split in TRAINED:
    withheld = words.withheld if _emoji_words.is_withheld(concept) else None
    languages = tuple(each for each in words.trained if each != withheld)
  spoken = [each for each in languages if each in concept.names]
  keywords = {
      each: _emoji_words.some_keywords(concept, each, picture.vendor)
      for each in spoken
  }
  return {
      "names": {each: concept.names[each] for each in spoken},
      "keywords": {each: found for each, found in keywords.items() if found},
      "concept": concept.code, "vendor": picture.vendor,
  }


def write(
    folder: pathlib.Path, split: str, given: Sequence[Example], size: int
) -> None:
  """Writes the shards of a split.

  Args:
    folder: where "SPLIT-0000.tar" and so on go.
    split: its name.
    given: its examples.
    size: height and width of the pictures in pixels.
  """
  for number, start in enumerate(range(0, len(given), PER_SHARD)):
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w", format=tarfile.USTAR_FORMAT) as tar:
      for example in given[start : start + PER_SHARD]:
        for name, content in _members(example, size):
          member = tarfile.TarInfo(name)
          member.size = len(content)
          tar.addfile(member, io.BytesIO(content))
    files.replace(folder / f"{split}-{number:04d}.tar", shard.getvalue())


def _members(example: Example, size: int) -> Iterator[tuple[str, bytes]]:
  name = next(iter(example.about["names"].values()))
  yield f"{example.key}.png", example.picture.draw(size)
  yield f"{example.key}.txt", name.encode()
  yield f"{example.key}.cls", str(example.label).encode()
  yield f"{example.key}.json", as_json(example.about)


def class_files(
    concepts: Sequence[_emoji_words.Concept], words: Words
) -> dict[str, bytes]:
  """Files with the names of classes, one a line, by name of the file.

  "classes.de.txt" has all concepts in German, "concepts.de.txt" those held out;
  a concept without a name in a language has its name in the first one.
  """
  return {
      f"{name}.{language}.txt": "".join(
          f"{concept.names.get(language, concept.names[words.trained[0]])}\n"
          for concept in classes(split, concepts)
      ).encode()
      for name, split in (("classes", "train"), ("concepts", "concepts"))
      for language in words.languages
  }


def as_json(value: Mapping[str, Any]) -> bytes:
  """A value as JSON, readable in any language."""
  return json.dumps(value, ensure_ascii=False, indent=1).encode()

"""What the search page asks for, as plain values; knows nothing of HTTP."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from basic import files, types
from basic.data import pictures
from basic.interface import collection, model

MOST = 60  # pictures found at a time
NAMES = 100  # classes that are compared at a time
LENGTH = 500  # characters of a text or a name
_SIDE = 256  # pixels of a thumbnail
_CAPTION = 300  # characters that are shown


class Refused(ValueError):
  """A request that cannot be answered; the message says why."""


class Service:
  """Answers about one collection, by one model.

  Its methods may be called by several threads at a time.
  """

  def __init__(self, loaded: model.Model, index: collection.Index):
    """Compiles what answers need, so that the first one does not wait.

    Args:
      loaded: the model.
      index: the collection, with its source.
    """
    self._model, self._index = loaded, index
    views = loaded.towers.model.encode.views.values()
    self._reads = {view.tower for view in views}
    self._compares = (
        loaded.towers.objective.logits is not None and "text" in self._reads
    )
    self.thumbnail = functools.lru_cache(2048)(self._thumbnail)
    if "text" in self._reads:
      self.words("warm")

  def about(self) -> Mapping[str, Any]:
    """What there is to be searched, and how."""
    unreadable = sum(self._index.unreadable.values())
    return {
        "model": files.printable(self._model.towers.origin),
        "count": len(self._index) - unreadable, "unreadable": unreadable,
        "words": "text" in self._reads, "probabilities": self._compares,
    }

  def words(self, text: str, k: int = 24) -> list[dict[str, Any]]:
    """The items nearest to a text.

    Raises:
      Refused: if the text is blank or too long, or the model reads no texts.
    """
    if "text" not in self._reads:
      raise Refused("This model reads no words; search by a picture.")
    return self._nearest(self._model.embed_texts(_text(text)), k)

  def picture(self, data: bytes, k: int = 24) -> list[dict[str, Any]]:
    """The items nearest to a picture file.

    Raises:
      Refused: if it is no picture that can be read.
    """
    return self._nearest(self._embedded(data), k)

  def probabilities(
      self, data: bytes, names: Sequence[str]
  ) -> list[dict[str, Any]]:
    """How probable each name is for a picture file, the most probable first.

    Raises:
      Refused: if it is no picture that can be read, there are not from 2 to 100
        different names, or the model gives no probabilities.
    """
    if not self._compares:
      raise Refused("This model gives no probabilities of names.")
    names = list(dict.fromkeys(map(_text, names)))
    if not 2 <= len(names) <= NAMES:
      raise Refused(f"Give 2 to {NAMES} different names; found {len(names)}.")
    self._embedded(data)  # Says what is wrong with a picture.
    row = self._model.classify(data, names).probabilities[0]
    order = np.argsort(-row, kind="stable")
    return [{"name": names[n], "probability": float(row[n])} for n in order]

  def _thumbnail(self, number: int) -> bytes:
    """A small JPEG file of an item.

    Raises:
      LookupError: if there is no such item, or it has no picture to be shown.
    """
    source = self._index.source
    if source is None or not 0 <= number < len(self._index):
      raise LookupError(f"There is no picture {number}.")
    try:
      return pictures.thumbnail(source[number]["image"], _SIDE)
    except types.Unreadable as error:
      raise LookupError(f"Picture {number} cannot be read: {error}.") from error

  def _embedded(self, data: bytes) -> np.ndarray:
    if "image" not in self._reads:
      raise Refused("This model reads no pictures.")
    try:
      return self._model.embed_images(data)
    except types.Unreadable as error:
      raise Refused(f"This picture cannot be read: {error.reason}.") from error

  def _nearest(self, queries: np.ndarray, k: int) -> list[dict[str, Any]]:
    if not 1 <= k <= MOST:
      raise Refused(f"Ask for 1 to {MOST} pictures; found {k}.")
    # Always as many are looked for, so that one program serves every k.
    found = collection.search(queries, self._index, k, least=MOST)
    return [
        {
            "number": number, "name": files.printable(name), "score": score,
            "caption": files.printable(self._said(number)),
        }
        for number, name, score in zip(
            found.indices[0], found.names[0], found.scores[0], strict=True
        )
    ]

  def _said(self, number: int) -> str:
    """The first caption of an item; "" if it has none."""
    if self._index.source is None:
      return ""
    try:
      text = self._index.source[number].get("text", "")
    except types.Unreadable:
      return ""
    first = text if isinstance(text, str) else next(iter(text), "")
    return str(first)[:_CAPTION]


def _text(text: str) -> str:
  """A text without spaces around it."""
  text = text.strip()
  if not text:
    raise Refused("Type some words first.")
  if len(text) > LENGTH:
    raise Refused(f"Found {len(text)} characters; at most {LENGTH} are read.")
  return text

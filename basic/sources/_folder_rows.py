"""What the layouts of the source folder have in common."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of the source folder; after opening, with what was decided."""

  path: str
  table: str | None = None
  layout: str | None = None
  image: str | None = None
  text: str | tuple[str, ...] | None = None
  weights: tuple[float, ...] | None = None
  label: str | None = None
  classes: tuple[str, ...] | None = None
  columns: tuple[str, ...] | None = None
  separator: str | None = None
  language: str | tuple[str, ...] | None = None
  split: str | None = None
  base: str | None = None


@runtime_checkable
class Rows(Protocol):
  """Paths of pictures and the other fields of examples, by number.

  Attributes:
    where: the folder or the table, for messages.
    found: what was found there, for messages.
    left_out: number of files that should belong to an example and do not.
    base: where relative paths of pictures start.
    classes: names of the labels.
    settings: that open the same again.
    meaning: what of the settings changes examples, without paths.
  """

  where: str
  found: str
  left_out: int
  base: str
  classes: tuple[str, ...]
  settings: Settings
  meaning: tuple[Any, ...]

  def __len__(self) -> int: ...

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    """(path of the picture, captions and label); may raise `Unreadable`."""
    ...

  def place(self, index: int) -> str:
    """The picture, and the row of the table, of an example that may be broken."""
    ...

  def seen(self) -> str:
    """What tells that the files have changed, in words."""
    ...

  def digest(self) -> str:
    """Hashes what the table, or the names of the files, say."""
    ...

  def files(self) -> Iterator[str]:
    """Paths of the table, the pictures and the captions, whatever is there."""
    ...

"""The splits of COCO and Flickr30K by Karpathy: dataset_coco.json and the like.

One JSON file lists all images, each with its split and its captions:

    {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg",
                 "split": "test", "sentences": [{"raw": "A man ...", ...}, ...]},
                ...], "dataset": "coco"}

"restval" of COCO is the rest of val2014, which is usually added to "train".
Flickr30K has no "filepath".

References:
  Karpathy and Fei-Fei, Deep Visual-Semantic Alignments for Generating Image
  Descriptions, 2015. https://cs.stanford.edu/people/karpathy/deepimagesent/
"""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from basic.sources import _columns, _storage

_TRIED = 32  # images, to find where they lie
_EXPECTED = (
    "expected an object with 'images', each with 'filename', 'split' and "
    "'sentences', as in Karpathy's dataset_coco.json"
)


class KarpathyRows:
  """The images and captions of one split; `_folder_rows.Rows` is the contract."""

  def __init__(self, settings: Any, table: str):
    """Reads the splits.

    Args:
      settings: `_folder_rows.Settings`, with `path`, `split` and `base`.
      table: the JSON file.

    Raises:
      ValueError: if the file is another one, or the split is not set or not
        there.
    """
    content = _storage.read(table)
    self.where = table
    self.left_out = 0
    self.classes: tuple[str, ...] = ()
    self._size = len(content)
    self._images = _of_split(table, _parsed(table, content), settings.split)
    self.base = self._find_base(settings.base or settings.path)
    self.settings = dataclasses.replace(
        settings, table=table, layout="karpathy", base=self.base
    )
    self.meaning = ("karpathy", settings.split)
    captions = sum(len(texts) for _, _, texts in self._images)
    self.found = f"the split {settings.split!r} of Karpathy, {captions} captions"

  def __len__(self) -> int:
    return len(self._images)

  def example(self, index: int) -> tuple[str, dict[str, Any]]:
    """(path of the picture, its captions); may raise `types.Unreadable`."""
    folder, name, texts = self._images[index]
    return _joined(self.base, folder, name), _columns.texts([texts], None)

  def place(self, index: int) -> str:
    """The path of the picture."""
    folder, name, _ = self._images[index]
    return _joined(self.base, folder, name)

  def seen(self) -> str:
    """What tells that the file has changed, in words."""
    return f"{self._size} bytes with {len(self)} images"

  def digest(self) -> str:
    """Hashes the images and captions of the split."""
    return hashlib.sha256(repr(self._images).encode()).hexdigest()

  def files(self) -> Iterator[str]:
    """The paths of the JSON file and of the pictures of the split."""
    yield self.where
    yield from map(self.place, range(len(self)))

  def _find_base(self, path: str) -> str:
    """The folder of the images; they may lie in it without theirs, train2014."""
    path = path.rstrip("/")
    tried = self._images[:_TRIED]

    def found(flat: bool) -> int:
      return sum(
          _storage.exists(_joined(path, "" if flat else folder, name))
          for folder, name, _ in tried
      )

    if found(flat=True) > found(flat=False):
      self._images = [("", name, texts) for _, name, texts in self._images]
    return path


def _joined(*parts: str) -> str:
  return "/".join(part for part in parts if part)


def _parsed(table: str, content: bytes) -> list[Any]:
  """The images that the file lists; of a sentence only its text is kept."""

  def kept(found: dict[str, Any]) -> Any:
    # The words of all sentences would take a gigabyte.
    return found["raw"] if isinstance(found.get("raw"), str) else found

  try:
    parsed = json.loads(content, object_hook=kept)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{table} is no JSON: {error}; {_EXPECTED}.") from error
  images = parsed.get("images") if isinstance(parsed, Mapping) else None
  if not isinstance(images, list) or not images or not all(map(_is_image, images)):
    raise ValueError(f"{table} does not list images with splits; {_EXPECTED}.")
  return images


def _is_image(image: Any) -> bool:
  if not isinstance(image, Mapping):
    return False
  names = (image.get("filename"), image.get("split"), image.get("filepath", ""))
  return all(isinstance(name, str) for name in names) and isinstance(
      image.get("sentences"), list
  )


def _of_split(
    table: str, images: list[Any], split: str | None
) -> list[tuple[str, str, tuple[Any, ...]]]:
  """(folder, name, captions) of the images of a split, or of several: "a+b"."""
  counts = collections.Counter(image["split"] for image in images)
  wanted = (split or "").split("+")
  if missing := [name for name in wanted if name not in counts]:
    raise ValueError(
        f"split is {split!r}, and {table} has no split {missing[0]!r}; it has "
        f"{dict(counts)} images. Set `split` to one of them, or to several with "
        "a + between them: 'train+restval'."
    )
  return [
      (image.get("filepath", ""), image["filename"], tuple(image["sentences"]))
      for image in images if image["split"] in wanted
  ]

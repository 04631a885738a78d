"""Shards of webdataset and img2dataset: tar archives of images and captions.

Our own reader: nothing is unpacked or unpickled, no command is run, and what is
damaged is skipped and counted. An index of offsets gives random access; `python
-m basic.prepare index` builds it once.
"""

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, SupportsIndex

import numpy as np

from basic import types
from basic.sources import (
    _records,
    _stable,
    _storage,
    _tar_index,
    _tar_samples,
    _tar_shards,
)

IMAGES = (
    "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif",
)

_SHOWN = 12  # extensions
_log = logging.getLogger(__name__)


def tar(
    *,
    shards: str | tuple[str, ...],
    image: str | tuple[str, ...] = IMAGES,
    text: str | tuple[str, ...] | Mapping[str, int | float] | None = "txt",
    label: str | None = None,
    classes: str | tuple[str, ...] = (),
    language: str | tuple[str, ...] | None = None,
    channels: int = 3,
    max_pixels: int = 40_000_000,
    index: str | None = None,
    missing_index: Literal["build", "refuse"] = "build",
) -> types.Source:
  """Reads images with captions, labels, or both.

  A sample is consecutive members KEY.EXTENSION with the same key, which ends at
  the first dot of the base name. It is an example if it has an image and, where
  they are read, a caption and a label. Other samples are left out and counted
  in `damage`. Members that are not read may be there.

  Args:
    shards: paths or URLs of fsspec, with braces or wildcards:
      "data/{00000..00127}.tar", "gs://bucket/*.tar". Not compressed.
    image: extensions of images, in any case; a sample's first one is read. The
      format of an image is found by its content.
    text: where captions are: an extension, "txt", or a field of JSON,
      "json/alt_text". Several places have captions of equal probability or, as
      {"txt": 0.75, "json/alt_text": 0.25}, in proportion to weights; those that
      a sample lacks drop out. None: the names of the labels.
    label: where the label is, an integer from 0: "cls", "json/label"; None: no
      labels.
    classes: the names of the labels, in their order, or the path of a text file
      with one a line; () if they have none.
    language: where the language of the captions is, by which retrieval is then
      also measured: "json/LANGUAGE". Several: the languages of the places of
      `text`, in their order.
    channels: 3 for RGB, 1 for luminance.
    max_pixels: an image with more is unreadable.
    index: folder of the indexes of the shards; None: beside each shard, where
      there is none, in the cache, $XDG_CACHE_HOME/basic/tar.
    missing_index: "build" it, or "refuse" the shard.

  Returns:
    A source of "image" (a `decoding.Encoded`), "text" (a tuple of captions),
    "text_weights" if `text` has several places, "text_languages" if `language`
    is set, "id" int64 (the index) and, if `label` is set, "label" int32.
    `damage` is reason -> count, for what the index knows to be unusable: samples
    ("image without caption", "caption without image", "no image", "no label",
    "empty image", "empty caption",
    "duplicate key" in one shard, "truncated sample", "link", "device", "sparse
    member", "unsafe name", "unknown kind of member", "bad header" before a
    member, "sample too large"), members ("not part of a sample"), and places as
    in `_tar_format.members`. What shows only on reading raises
    `types.Unreadable`: "no caption", "broken JSON", "JSON
    too long", "failed read", "shard differs from its index", and the reasons of
    captions, labels and images.

  Raises:
    FileNotFoundError: if a shard, or the file of `classes`, does not exist, or a
      shard has no index and `missing_index` is "refuse".
    ValueError: if a shard is compressed or a folder, an index is damaged or of another
      file, `index` is no local folder, no sample is usable, or a setting is out of its
      range.
    OSError: if a shard cannot be read, or an index cannot be written.
  """
  _records.check_image(channels, max_pixels)
  images = tuple(e.lower() for e in ((image,) if isinstance(image, str) else image))
  weights = _weights(text)
  if not images or not (weights or label):
    raise ValueError(
        f"image is {image!r}, text {text!r} and label {label!r}: name an "
        'extension of images, and where captions or labels are ("txt", "cls").'
    )
  _check_places("image", images)
  _check_places("text", weights)
  _check_places("label", () if label is None else (label,))
  names = _records.class_names(classes)
  settings = _Settings(
      images, weights, label, names, channels, max_pixels,
      _language(language, text, weights),
  )
  return _Tar(settings, _tar_shards.opened(_paths(shards), index, missing_index))


def _language(language: Any, text: Any, weights: Mapping[str, float]) -> Any:
  """The place of the language of all captions, or languages by place of captions."""
  if language is None or isinstance(language, str):
    _check_places("language", () if language is None else (language,))
    return language
  if isinstance(text, Mapping) or len(language) != len(weights):
    raise ValueError(
        f"language is {tuple(language)} where text is {text!r}; expected the "
        "language of each of its places, which then are a tuple, or the place "
        "of the language: 'json/LANGUAGE'."
    )
  return dict(zip(weights, language, strict=True))


def _paths(shards: str | tuple[str, ...]) -> tuple[str, ...]:
  """The shards that patterns name, without indexes that lie beside them."""
  found = _storage.expand(shards, "shards", ".tar")
  return tuple(p for p in found if not p.endswith(f".tar{_tar_index.SUFFIX}"))


def _check_places(setting: str, places: Iterable[str]) -> None:
  """Refuses what is no extension, or the path of a field of JSON."""
  for place in places:
    if not place.strip() or place.startswith("."):
      raise ValueError(
          f"{setting} names {place!r}; expected an extension without its dot, such "
          f"as {place.strip('. ') or 'txt'!r}, or a field of JSON, such as "
          "'json/caption'."
      )


def _weights(text: Any) -> dict[str, float]:
  """Weights by place of captions, the largest first."""
  if text is None:
    return {}
  if not isinstance(text, Mapping):
    return dict.fromkeys((text,) if isinstance(text, str) else text, 1.0)
  wrong = [
      weight for weight in text.values()
      if isinstance(weight, bool) or not isinstance(weight, int | float)
      or not 0 < weight < math.inf
  ]
  if wrong:
    raise ValueError(
        f"text gives the weight {wrong[0]!r}; expected positive numbers, such as "
        '{"txt": 0.75, "json/alt_text": 0.25}.'
    )
  # Configurations do not keep the order of a mapping.
  ordered = sorted(text.items(), key=lambda item: (-item[1], item[0]))
  return {place: float(weight) for place, weight in ordered}


@dataclasses.dataclass(frozen=True)
class _Settings:
  """What an example is made of; see `tar`."""

  images: tuple[str, ...]
  weights: dict[str, float]
  label: str | None
  classes: tuple[str, ...]
  channels: int
  max_pixels: int
  language: str | dict[str, str] | None = None

  @property
  def wanted(self) -> _tar_samples.Wanted:
    """The extensions that are read."""
    captions = tuple(path.split("/")[0] for path in self.weights)
    label = () if self.label is None else (self.label.split("/")[0],)
    return _tar_samples.Wanted(self.images, captions, label)


class _Tar:
  """Open shards: small tables in memory, no open files. Can be pickled."""

  def __init__(
      self, settings: _Settings, shards: tuple[_tar_index.Shard, ...]
  ):
    self._settings, self._shards = settings, shards
    self._wrong, counts, damage = [], [], Counter(_tar_shards.totals(shards))
    for shard in shards:
      faults = [
          _tar_samples.fault(pattern, settings.wanted)
          for pattern, _ in shard.patterns
      ]
      self._wrong.append(np.array([bool(fault) for fault in faults], bool))
      usable = 0
      for fault, (_, count) in zip(faults, shard.patterns, strict=True):
        damage[fault] += count if fault else 0
        usable += 0 if fault else count
      counts.append(usable)
    self._ends = np.cumsum(counts)
    self.damage = {reason: n for reason, n in sorted(damage.items()) if n}
    self.shards = (self._ends - counts)[np.array(counts) > 0]
    self.classes = settings.classes
    self.fingerprint = self._fingerprint()
    # By shard: for each row that is left out, the usable rows before it.
    self._before: dict[int, np.ndarray] = {}
    self._report()

  def _fingerprint(self) -> str:
    content = [(s.name, s.size, s.content, s.crc) for s in self._shards]
    settings = dataclasses.astuple(self._settings)
    if self._settings.language is None:
      settings = settings[:-1]  # Older runs hashed no language.
    return _stable.fingerprint("tar", settings, content)

  def _report(self) -> None:
    self.found = f"members with the extensions {self._extensions()}"
    said = ", ".join(f"{n:,} {reason}" for reason, n in self.damage.items())
    total = sum(shard.samples for shard in self._shards)
    found = (
        f"{len(self):,} of {total:,} samples in {len(self._shards):,} shards are "
        f"usable; left out: {said or 'nothing'}"
    )
    if not len(self):
      raise ValueError(
          f"{found}. The samples have {self.found}; the settings image, text and "
          f"label name some of these. The first shard is {self._shards[0].path}."
      )
    if self.damage:
      _log.warning("tar: %s", found)

  def _extensions(self) -> str:
    """The extensions of members, and how many samples have each."""
    counts: Counter[str] = Counter()
    for shard in self._shards:
      for pattern, count in shard.patterns:
        counts.update(dict.fromkeys({e for e, _ in pattern if e}, count))
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:_SHOWN]
    return ", ".join(f"{end} ({count:,})" for end, count in ordered) or "none"

  def __getstate__(self) -> Mapping[str, Any]:
    return {**vars(self), "_before": {}}

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    index = _stable.position(index, len(self))
    _, members = self._members(index)
    return {"id": np.int64(index), **self._example(members)}

  def where(self, index: int) -> str:
    """The shard and the key; the number in the shard where that is unreadable."""
    shard, inside = self._place(index)
    path = self._shards[shard].path
    key = self._key(index)
    if not key:
      return f"{path} sample {inside}"
    shown = key if key.isprintable() and len(key) < 200 else f"{key!r:.200}"
    return f"{path} key {shown}"

  def _place(self, index: int) -> tuple[int, int]:
    """(the number of the shard of a sample, its number among the usable ones)."""
    number = int(np.searchsorted(self._ends, index, side="right"))
    return number, index - int(self._ends[number - 1]) if number else index

  def name(self, index: int) -> str:
    """The key of a sample; its number where that cannot be read."""
    return self._key(index) or str(index)

  def _key(self, index: int) -> str:
    """The key of a sample, from its first headers; "" if it cannot be read."""
    number, inside = self._place(index)
    path = self._shards[number].path
    try:
      row = self._row(number, inside)
      start = int(row["start"])
      key = _tar_samples.key(
          lambda a, b: _storage.read(path, start + a, start + b), int(row["length"])
      )
    except OSError:
      return ""
    return key if _tar_samples.hashed(key) == row["key"] else ""

  def _members(self, index: int) -> tuple[str, dict[str, bytes]]:
    """(key of a sample, its contents by extension)."""
    number, inside = self._place(index)
    shard = self._shards[number]
    try:
      row = self._row(number, inside)
      start, length = int(row["start"]), int(row["length"])
      data = _storage.read(shard.path, start, start + length)
    except OSError as error:
      raise types.Unreadable(
          "failed read", f"{shard.path} sample {inside}: {error}"
      ) from error
    key, members = _tar_samples.contents(data)
    if len(data) < length or _tar_samples.hashed(key) != row["key"]:
      raise types.Unreadable(
          "shard differs from its index", f"at byte {start} of {shard.path}"
      )
    return key, members

  def _row(self, number: int, inside: int) -> np.void:
    """The row of the index for a usable sample of a shard, by its number."""
    shard = self._shards[number]
    before = self._before.get(number)
    if before is None:
      skipped = _tar_index.unusable(shard, self._wrong[number])
      before = skipped - np.arange(len(skipped), dtype=np.uint32)
      self._before[number] = before
    row = inside + int(np.searchsorted(before, inside, side="right"))
    return _tar_index.read_rows(shard, row, row + 1)[0]

  def _example(self, members: Mapping[str, bytes]) -> dict[str, Any]:
    settings = self._settings
    example: dict[str, Any] = {}
    if settings.label is not None:
      example["label"] = self._label(members)
    if settings.weights:
      texts, weights, spoken = _tar_samples.captions(
          members, settings.weights, settings.language
      )
      example["text"] = texts
      if settings.language is not None:
        example["text_languages"] = spoken
      if len(settings.weights) > 1:
        example["text_weights"] = weights
    elif settings.classes:
      example["text"] = (settings.classes[example["label"]],)
    found = (members[e] for e in members if e in settings.images and members[e])
    example["image"] = _records.image(
        next(found, None), settings.channels, settings.max_pixels
    )
    return example

  def _label(self, members: Mapping[str, bytes]) -> np.int32:
    label = _records.label(_tar_samples.at(members, self._settings.label or ""))
    classes = len(self._settings.classes)
    if classes and label >= classes:
      raise types.Unreadable("label out of range", f"{label} of {classes} classes")
    return label


def build_indexes(
    *, shards: str | tuple[str, ...], index: str | None, workers: int
) -> types.Counts:
  """Builds the indexes of shards that have none that fits.

  Args:
    shards: as of `tar`.
    index: folder of the indexes; None: beside each local shard, and in the
      cache for others.
    workers: processes, one shard each.

  Returns:
    "shards", "indexed now", "samples" of all shards, usable or not, and "keys in
    several shards", whose samples are all kept.

  Raises:
    FileNotFoundError: if a shard does not exist.
    ValueError: if a path is a folder, `index` is no local folder, or some shards
      cannot be indexed, when the others are.
  """
  paths = _paths(shards)
  opened, now = _tar_shards.prepared(paths, index, workers)
  return {
      "shards": len(opened), "indexed now": now,
      "samples": sum(shard.samples for shard in opened),
      "keys in several shards": _tar_shards.repeated_keys(opened),
  }

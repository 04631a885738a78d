"""Samples of a tar shard: consecutive members with the same key.

The rule is that of webdataset: the key of "a/001.left.jpg" is "a/001", its
extension "left.jpg", split at the first dot of the base name.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from basic import types
from basic.sources import _records, _tar_format

LARGEST_SAMPLE = 1 << 28  # bytes; a larger one would fill a host's memory
_META = re.compile(r"__[^/]*__(/|$)")  # webdataset's own members
_LONGEST_JSON = 1 << 24  # bytes

# What a sample consists of: (extension, why that member cannot be used or "").
# An empty extension stands for the whole sample.
Pattern: TypeAlias = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
  """A sample in a shard.

  Attributes:
    start: offset of its first header.
    stop: one after the last byte of its last member that is whole.
    key: `hashed` key.
    pattern: of its members.
  """

  start: int
  stop: int
  key: int
  pattern: Pattern


def split(name: str) -> tuple[str, str]:
  """The key and the extension, in lower case, of a member; ("", "") if none.

  Example:
    >>> split("a.b/001.Left.JPG"), split("README"), split("a/.hidden.jpg")
    (('a.b/001', 'left.jpg'), ('', ''), ('', ''))
  """
  folder, slash, base = name.rpartition("/")
  stem, _, extension = base.partition(".")
  if not stem or not extension or _META.match(name):
    return "", ""
  return folder + slash + stem, extension.lower()


def hashed(key: str) -> int:
  """A key as 64 bits."""
  encoded = key.encode("utf-8", "surrogateescape")
  return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def samples(
    found: Iterable[_tar_format.Member | _tar_format.Loss],
    lost: Callable[[str, int], None],
) -> Iterator[Sample]:
  """Groups members to samples, usable or not.

  Args:
    found: from `_tar_format.members`.
    lost: called with (reason, count) for what is of no sample.

  Yields:
    Samples in their order. One whose key has occurred before, or that names an
    extension twice, is marked as "duplicate key", its second part.
  """
  seen: set[int] = set()
  group: list[_tar_format.Member] = []
  key, extensions = "", set()
  for each in found:
    if isinstance(each, _tar_format.Loss):
      lost(each.reason, each.times)
      continue
    next_key, extension = split(each.name)
    if not next_key:
      lost(each.fault or "not part of a sample", 1)
      continue
    if group and (next_key != key or extension in extensions):
      yield _sample(key, group, seen)
      group, extensions = [], set()
    key = next_key
    group.append(each)
    extensions.add(extension)
  if group:
    yield _sample(key, group, seen)


def _sample(
    key: str, group: list[_tar_format.Member], seen: set[int]
) -> Sample:
  start = group[0].start
  stop = max(
      (m.content + m.size for m in group if not m.fault), default=start
  )
  number = hashed(key)
  faults = [("", "duplicate key")] if number in seen else []
  if stop - start > LARGEST_SAMPLE:
    faults.append(("", "sample too large"))
  seen.add(number)
  pattern = [
      (split(m.name)[1], m.fault or ("" if m.size else "empty")) for m in group
  ]
  return Sample(start, stop, number, tuple(faults + pattern))


class Wanted(NamedTuple):
  """Extensions of the members that an example is made of.

  Attributes:
    image: of images; the first in the sample is used.
    caption: of members with captions; () if captions are not read.
    label: of members with a label; () without labels.
  """

  image: tuple[str, ...]
  caption: tuple[str, ...]
  label: tuple[str, ...]


@functools.lru_cache(maxsize=4096)  # Thousands of shards have the same patterns.
def fault(pattern: Pattern, wanted: Wanted) -> str:
  """Why a sample of this pattern can never be an example; "" if it may be.

  Example:
    >>> wanted = Wanted(("jpg",), ("txt",), ())
    >>> fault((("jpg", ""), ("txt", "")), wanted)
    ''
    >>> fault((("jpg", ""),), wanted), fault((("txt", ""),), wanted)
    ('image without caption', 'caption without image')
    >>> fault((("jpg", "link"), ("txt", "")), wanted)
    'link'
  """
  for extension, why in pattern:
    if not extension:
      return why
  for kind, choices in wanted._asdict().items():
    found = [why for extension, why in pattern if extension in choices]
    if not choices or "" in found:
      continue
    if found:
      return f"empty {kind}" if found[0] == "empty" else found[0]
    if _tar_format.CUT in dict(pattern).values():
      return _tar_format.CUT  # The cut hides whether it was there.
    if kind == "caption":
      return "image without caption"
    captioned = any(extension in wanted.caption for extension, _ in pattern)
    return "caption without image" if kind == "image" and captioned else f"no {kind}"
  return ""


def key(read: _tar_format.Read, size: int) -> str:
  """The key of one sample, of which only the headers of a member are read.

  Args:
    read: (start, stop) -> bytes of the sample.
    size: of the sample in bytes.

  Returns:
    The key; "" if the sample does not begin with a member.
  """
  first = next(_tar_format.members(read, size), None)
  return split(first.name)[0] if isinstance(first, _tar_format.Member) else ""


def contents(data: bytes) -> tuple[str, dict[str, bytes]]:
  """The members of one sample.

  Args:
    data: from the sample's first header to the end of its last member.

  Returns:
    The key ("" if there is no member), and contents by extension, in the order
    of the shard; members with a fault are absent.
  """
  found, key = {}, ""
  for each in _tar_format.members(lambda a, b: data[a:b], len(data)):
    if isinstance(each, _tar_format.Member):
      stem, extension = split(each.name)
      key = stem or key
      if stem and not each.fault:
        found[extension] = data[each.content : each.content + each.size]
  return key, found


def at(members: Mapping[str, bytes], path: str) -> Any:
  """What a path such as "txt" or "json/meta/caption" leads to; None if nothing.

  Raises:
    types.Unreadable: if the JSON on the way is broken or too long.
  """
  extension, *fields = path.split("/")
  value: Any = members.get(extension)
  if not fields or value is None:
    return value
  if len(value) > _LONGEST_JSON:
    raise types.Unreadable("JSON too long", f"{len(value)} bytes")
  try:
    value = json.loads(value)
  except (ValueError, RecursionError) as error:
    raise types.Unreadable("broken JSON", str(error)) from error
  for field in fields:
    value = value.get(field) if isinstance(value, Mapping) else None
  return value


def captions(
    members: Mapping[str, bytes],
    weights: Mapping[str, float],
    language: str | Mapping[str, str] | None = None,
) -> tuple[tuple[str, ...], tuple[float, ...], tuple[str, ...]]:
  """The captions of a sample, and the weight and the language of each.

  Args:
    members: contents by extension.
    weights: by path; several captions at one path share its weight.
    language: the path of the language of all captions, or of a list with that
      of each; or languages by the path of captions; None: unknown, "".

  Raises:
    types.Unreadable: if there is none, or one is not text or is too long, or
      there are more or fewer languages than captions.
  """
  kept: list[tuple[str, float, str]] = []
  shared = at(members, language) if isinstance(language, str) else None
  for path, weight in weights.items():
    spoken = language[path] if isinstance(language, Mapping) else shared
    found = _records.spoken(at(members, path), spoken)
    kept += [(text, weight / len(found), name) for text, name in found]
  if not kept:
    raise types.Unreadable("no caption")
  texts, shares, languages = zip(*kept, strict=True)
  return texts, shares, languages

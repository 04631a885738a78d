"""A checked reader of the tar format: members, and what is lost between them.

Reads ustar, GNU and pax headers, and those of Unix version 7. A header counts
only if its checksum is right; after damage, reading goes on at the next header
whose checksum is. Nothing is extracted, no link is followed, and no content of
a member is interpreted. The content itself has no checksum in this format.

Layout: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

BLOCK = 512
CUT = "truncated sample"  # the fault of a member of which a part is missing
_ZEROS = bytes(BLOCK)
_SCANNED = 1 << 20  # bytes searched at once for the next header
_LONGEST_EXTENSION = 1 << 20  # bytes of a long name, or of pax records
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_CONTENT = b"123456"  # links, devices, directories: no bytes follow
_OTHERS = {
    b"1": "link", b"2": "link", b"3": "device", b"4": "device", b"6": "device",
    b"S": "sparse member",
}
_CHECKSUM = slice(148, 156)
_NUMBER = re.compile(rb" *([0-7]*)[ \0]*")
_DIGITS = np.isin(np.arange(256), np.frombuffer(b"01234567 \0", np.uint8))
_RECORD = re.compile(rb"(\d+) ([^=]+)=")

Read: TypeAlias = Callable[[int, int], bytes]  # (start, stop) -> those bytes


class Member(NamedTuple):
  """A file in an archive.

  Attributes:
    name: its path as stored; bytes that are not UTF-8 as lone surrogates.
    start: offset of the first of its headers.
    content: offset of its content.
    size: of its content, in bytes.
    fault: why it cannot be used; "" if it can.
  """

  name: str
  start: int
  content: int
  size: int
  fault: str = ""


class Loss(NamedTuple):
  """Damage that is not of one member.

  Attributes:
    reason: two or three words.
    times: how often, or the number of bytes if `reason` says so.
  """

  reason: str
  times: int = 1


class _Header(NamedTuple):
  """A block with a right checksum: the fields that matter."""

  name: bytes
  size: int
  kind: bytes
  extended: bool  # More blocks of a sparse map follow.


def members(read: Read, size: int) -> Iterator[Member | Loss]:
  """Walks through an archive; never fails for what it holds.

  Args:
    read: (start, stop) -> bytes of the archive.
    size: of the archive in bytes.

  Yields:
    Members in their order, without directories, and losses where they are:
    "bad header" and "end mark inside" once for each place, "size beyond the
    end" for a member that claims more bytes than follow, "header without
    member", "truncated shard", "no end mark", "not a tar archive", and "bytes
    skipped" for the bytes from each such place to the next header.
  """
  at, seen = 0, False
  while at < size:
    header, said, here = _entry(read, at, size)
    if header is None:
      if said:
        yield Loss("header without member")
      if here >= size:
        break
      found = _next_header(read, here, size)
      yield from _losses(read, here, found, size, seen or here > at)
      if found == size:
        return
      at = found
      continue
    seen = True
    content = _content(read, here, size, header)
    member = _member(header, said, at, content)
    end = content + (0 if header.kind in _WITHOUT_CONTENT else member.size)
    if end > size:
      yield member._replace(fault=member.fault or CUT)
      at = _next_header(read, content - BLOCK, size)
      yield Loss("truncated shard" if at == size else "size beyond the end")
      yield Loss("bytes skipped", at - content)
      if at == size:
        return
      continue
    if not _is_directory(header):
      yield member
    at = content + _padded(end - content)
  yield Loss("no end mark" if seen else "empty shard")


def _entry(read: Read, at: int, size: int) -> tuple[_Header | None, dict, int]:
  """The next header of a member, what others before it say, and its offset."""
  said: dict = {}
  while True:
    header = parse(read(at, min(size, at + BLOCK)))
    if header is None or header.kind not in b"xgLK":
      return header, said, at
    content = at + BLOCK
    end = content + header.size
    if header.size > _LONGEST_EXTENSION or end > size:
      return None, said, at
    said |= _extension(header, read(content, end))
    at = content + _padded(header.size)


def parse(block: bytes) -> _Header | None:
  """The header in a block; None if it is none, or its checksum is wrong."""
  if len(block) < BLOCK or block == _ZEROS:
    return None
  stored, size = number(block[_CHECKSUM]), number(block[124:136])
  if stored is None or size is None:
    return None
  field = sum(block[_CHECKSUM])
  total = sum(block) - field + 8 * 32  # Its own field counts as spaces.
  if stored != total and stored != _signed(block):
    return None
  name = block[:100].split(b"\0", 1)[0]
  prefix = block[345:500].split(b"\0", 1)[0]
  if prefix and block[257:263] == b"ustar\0":
    name = prefix + b"/" + name
  return _Header(name, size, block[156:157], bool(block[482]))


def _signed(block: bytes) -> int:
  """The checksum of old programs, which added signed bytes."""
  whole = np.frombuffer(block, np.int8).sum(dtype=int)
  return int(whole - np.frombuffer(block[_CHECKSUM], np.int8).sum(dtype=int) + 256)


def number(field: bytes) -> int | None:
  """A number of a header: octal digits, or base 256; None if it is neither.

  Example:
    >>> number(b"0000644 "), number(bytes([0x80, 0, 1, 0])), number(b"9")
    (420, 256, None)
  """
  if field[0] == 0x80:
    return int.from_bytes(field[1:], "big")
  match = _NUMBER.fullmatch(field)
  return int(match[1] or b"0", 8) if match else None


def _padded(size: int) -> int:
  return -(-size // BLOCK) * BLOCK


def _content(read: Read, at: int, size: int, header: _Header) -> int:
  """Offset of the content after a header, which a sparse map may extend."""
  at += BLOCK
  more = header.kind == b"S" and header.extended
  while more and at + BLOCK <= size:
    more = bool(read(at, at + BLOCK)[504])
    at += BLOCK
  return at


def _is_directory(header: _Header) -> bool:
  return header.kind == b"5" or (
      header.kind in _REGULAR and header.name.endswith(b"/")
  )


def _member(header: _Header, said: Mapping, start: int, content: int) -> Member:
  name = said.get("name", header.name)
  fault = said.get("fault", "")
  if header.kind not in _REGULAR:
    fault = fault or _OTHERS.get(header.kind, "unknown kind of member")
  if _is_unsafe(name):
    fault = fault or "unsafe name"
  size = said.get("size", header.size)
  text = name.decode("utf-8", "surrogateescape")
  return Member(text, start, content, size, fault)


def _is_unsafe(name: bytes) -> bool:
  """Whether a path leads out of the archive, or is none."""
  return (
      not name or name.startswith(b"/") or b"\0" in name
      or b".." in name.split(b"/")
  )


def _extension(header: _Header, content: bytes) -> dict:
  """What a long name, or records of pax, say of the member that follows."""
  if header.kind == b"L":
    return {"name": content.split(b"\0", 1)[0]}
  if header.kind == b"K":  # the target of a link
    return {}
  records = _records(content)
  if header.kind == b"g":
    # Of every member that follows: nobody names all of them alike.
    return {"fault": "bad header"} if not records else {}
  size = records.get(b"size", b"0")
  if not records or not size.isdigit() or len(size) > 18:
    return {"fault": "bad header"}
  found: dict = {"name": records[b"path"]} if b"path" in records else {}
  if b"size" in records:
    found["size"] = int(size)
  if any(key.startswith(b"GNU.sparse.") for key in records):
    found["fault"] = "sparse member"
  return found


def _records(content: bytes) -> dict[bytes, bytes]:
  """The records "LENGTH KEY=VALUE" of a pax header; {} if they are broken."""
  found, at = {}, 0
  while at < len(content):
    match = _RECORD.match(content, at)
    end = at + int(match[1]) if match and len(match[1]) < 8 else 0
    if not match or not match.end() < end <= len(content):
      return {}
    if content[end - 1 : end] != b"\n":
      return {}
    found[match[2]] = content[match.end() : end - 1]
    at = end
  return found


def _losses(
    read: Read, at: int, found: int, size: int, seen: bool
) -> Iterator[Loss]:
  """What is lost from a block that is no header to the next one, or the end."""
  block = read(at, min(size, at + BLOCK))
  if block.strip(b"\0"):
    if found == size and not seen:
      yield Loss("not a tar archive")
    elif found == size and (len(block) < BLOCK or parse(block)):
      yield Loss("truncated shard")  # in a header, or in a long name
    else:
      yield Loss("bad header")
  elif found == size and _all_zeros(read, at, size):  # the end mark
    if not seen:
      yield Loss("empty shard")
    return
  else:
    yield Loss("end mark inside")
  yield Loss("bytes skipped", found - at)


def _all_zeros(read: Read, start: int, size: int) -> bool:
  return not any(
      read(at, min(size, at + _SCANNED)).strip(b"\0")
      for at in range(start, size, _SCANNED)
  )


def _candidates(data: bytes) -> list[int]:
  """Offsets below `_SCANNED` where a header may be, ascending.

  A block of the grid whose checksum is written in digits, or, where bytes were
  lost or added so that the grid is another, any place with the magic word.
  """
  blocks = np.frombuffer(data, np.uint8, len(data) // BLOCK * BLOCK)
  blocks = blocks.reshape(-1, BLOCK)
  digits = _DIGITS[blocks[:, _CHECKSUM]].all(1) & (blocks[:, 0] > 0)
  found = {int(row) * BLOCK for row in np.flatnonzero(digits)}
  found |= {match.start() - 257 for match in re.finditer(b"ustar", data)}
  return sorted(offset for offset in found if 0 <= offset < _SCANNED)


def _next_header(read: Read, start: int, size: int) -> int:
  """Offset of the next header with a right checksum after `start`, or `size`."""
  for first in range(start, size, _SCANNED):
    data = read(first, min(size, first + _SCANNED + BLOCK))
    for offset in _candidates(data):
      at = first + offset
      if at > start and parse(data[offset : offset + BLOCK]) is not None:
        return at
  return size

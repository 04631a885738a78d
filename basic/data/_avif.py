"""The sizes in an AVIF file: those of its boxes, and those of its AV1 data.

A decoder allocates what the AV1 data say, whatever the boxes around them say.

Boxes: ISO/IEC 14496-12 and 23008-12. AV1: https://aomediacodec.github.io/av1-spec/
(sections 5.3 and 5.5).
"""

import struct
from collections.abc import Iterator

from basic.data import decoding_limits

# EXIF's orientation by quarter turns to the left, and then by the mirror: none,
# across the horizontal axis, across the vertical one.
_ORIENTATIONS = {
    (turn, mirror): orientation
    for turn, row in enumerate(((1, 4, 2), (8, 5, 7), (3, 2, 4), (6, 7, 5)))
    for mirror, orientation in zip((None, 0, 1), row, strict=True)
}
_CONTAINERS = frozenset((
    b"meta", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iprp", b"ipco",
))
_SEQUENCE, _HAS_EXTENSION, _HAS_SIZE = 1, 4, 2


class _Boxes:
  """What the boxes of a file say."""

  def __init__(self):
    self.sizes: list[tuple[int, int]] = []  # (width, height)
    self.items: set[int] = set()  # those that are AV1
    self.places: dict[int, list[tuple[int, int]]] = {}  # start and length
    self.chunks: list[int] = []  # where samples of a track begin
    self.bits = 8
    self.idat = 0
    self.turn, self.mirror = 0, None  # irot, imir


def header(data: bytes) -> decoding_limits.Header:
  """Reads the largest size that any box, or any AV1 sequence, names.

  Raises:
    types.Unreadable: if the file is damaged, or has too many boxes.
    struct.error: if it ends within a box.
    IndexError: likewise.
  """
  boxes = _Boxes()
  for count, (kind, start, stop) in enumerate(_walk(data, 0, len(data), 0)):
    decoding_limits.check_parts(count, 0, "boxes")
    if reader := _READERS.get(kind):
      reader(boxes, data, start, stop)
  if not boxes.sizes:
    decoding_limits.broken("AVIF", "no size")
  for item in sorted(boxes.items):
    extents = boxes.places.get(item, ())
    boxes.sizes += _sequences(b"".join(
        data[start:start + length if length else None]
        for start, length in extents))
  for start in boxes.chunks:
    boxes.sizes += _sequences(data[start:])
  width, height = max(boxes.sizes, key=lambda size: size[0] * size[1])
  return decoding_limits.Header(
      "AVIF", height, width, 24 if boxes.bits <= 8 else 48, data,
      _ORIENTATIONS[boxes.turn, boxes.mirror],
  )


def _walk(data, at, stop, depth) -> Iterator[tuple[bytes, int, int]]:
  """(kind, start, stop) of the content of every box."""
  while at + 8 <= stop:
    size, kind = int.from_bytes(data[at:at + 4]), data[at + 4:at + 8]
    start = at + 8
    if size == 1:
      size, start = int.from_bytes(data[at + 8:at + 16]), at + 16
    end = stop if size == 0 else min(stop, at + size)
    if end < start:
      decoding_limits.broken("AVIF", f"a box of {size} bytes")
    yield kind, start, end
    if kind in _CONTAINERS and depth < 8:
      yield from _walk(data, start + 4 * (kind == b"meta"), end, depth + 1)
    at = end


def _read_size(boxes, data, start, stop):
  width, height = struct.unpack_from(">II", data, start + 4)
  boxes.sizes.append((width, height))


def _read_bits(boxes, data, start, stop):
  boxes.bits = max([boxes.bits, *data[start + 5:min(stop, start + 9)]])


def _read_turn(boxes, data, start, stop):
  boxes.turn = data[start] & 3


def _read_mirror(boxes, data, start, stop):
  boxes.mirror = data[start] & 1


def _read_idat(boxes, data, start, stop):
  boxes.idat = start


def _read_chunks(boxes, data, start, stop):
  if struct.unpack_from(">I", data, start + 4)[0]:
    boxes.chunks += struct.unpack_from(">I", data, start + 8)


def _read_chunks64(boxes, data, start, stop):
  if struct.unpack_from(">I", data, start + 4)[0]:
    boxes.chunks += struct.unpack_from(">Q", data, start + 8)


def _read_track(boxes, data, start, stop):
  width, height = struct.unpack_from(">II", data, stop - 8)
  boxes.sizes.append((width >> 16, height >> 16))


def _read_items(boxes, data, start, stop):
  """The kinds of items: iinf, with a box infe for each."""
  at = start + (6 if data[start] == 0 else 8)
  for count, (kind, begin, _) in enumerate(_walk(data, at, stop, 8)):
    decoding_limits.check_parts(count, 0, "items")
    wide = data[begin] == 3
    if kind == b"infe" and data[begin] >= 2:
      item, _, name = struct.unpack_from(
          ">IH4s" if wide else ">HH4s", data, begin + 4)
      if name == b"av01":
        boxes.items.add(item)


def _read_places(boxes, data, start, stop):
  """Where items lie: iloc."""
  version, sizes = data[start], struct.unpack_from(">H", data, start + 4)[0]
  offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
  at = start + 6

  def number(width):
    nonlocal at
    at += width
    if at > stop:
      decoding_limits.truncated("AVIF", "places of items")
    return int.from_bytes(data[at - width:at])

  total = 0
  for _ in range(number(4 if version == 2 else 2)):
    item = number(4 if version == 2 else 2)
    method = number(2) & 15 if version else 0
    number(2)
    begin = number(base) + (boxes.idat if method == 1 else 0)
    extents = number(2)
    total += extents + 1
    decoding_limits.check_parts(total, 0, "places of items")
    boxes.places[item] = []
    for _ in range(extents):
      number(index if version else 0)
      where = begin + number(offset)
      boxes.places[item].append((where, number(length)))


_READERS = {
    b"ispe": _read_size, b"pixi": _read_bits, b"idat": _read_idat,
    b"stco": _read_chunks, b"co64": _read_chunks64, b"tkhd": _read_track,
    b"iinf": _read_items, b"iloc": _read_places, b"irot": _read_turn,
    b"imir": _read_mirror,
}


def _sequences(data: bytes) -> list[tuple[int, int]]:
  """(width, height) of every AV1 sequence header at the start of these data."""
  found, at, count = [], 0, 0
  while at + 1 < len(data):
    kind, first = data[at] >> 3 & 15, data[at]
    count += 1
    decoding_limits.check_parts(count, 0, "units of AV1")
    at += 2 if first & _HAS_EXTENSION else 1
    length, shift = 0 if first & _HAS_SIZE else len(data) - at, 0
    while first & _HAS_SIZE:  # little endian, seven bits a byte
      length |= (data[at] & 127) << shift
      at, shift = at + 1, shift + 7
      if data[at - 1] < 128:
        break
      if shift > 56:
        decoding_limits.broken("AVIF", "a unit of AV1 without a length")
    if kind == _SEQUENCE:
      found.append(_sequence(data[at:at + min(length, 512)]))
    if kind in (0, 15) or first & 0x80:  # Not AV1 any more.
      break
    at += length
  return found


def _sequence(data: bytes) -> tuple[int, int]:
  """(width, height) of a sequence header."""
  stream = int.from_bytes(data + bytes(64))
  left = 8 * (len(data) + 64)

  def take(bits):
    nonlocal left
    left -= bits
    if left < 0:
      decoding_limits.broken("AVIF", "a damaged sequence header")
    return stream >> left & (1 << bits) - 1

  take(4)
  if take(1):  # reduced_still_picture_header
    take(5)
  else:
    delays = 0  # bits of a delay; 0 without a model of the decoder
    if take(1):  # timing_info
      take(64)
      if take(1):  # equal_picture_interval
        zeros = 0
        while not take(1):
          zeros += 1
        take(min(zeros, 32))
      if take(1):  # decoder_model_info
        delays = take(5) + 1
        take(42)
    displays = take(1)
    for _ in range(take(5) + 1):  # operating points
      take(12)
      if take(5) > 7:
        take(1)
      if delays and take(1):
        take(2 * delays + 1)
      if displays and take(1):
        take(4)
  across, down = take(4) + 1, take(4) + 1
  return take(across) + 1, take(down) + 1

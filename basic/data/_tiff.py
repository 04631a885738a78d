"""The first directory of a TIFF file, without what its tags point to.

TIFF 6.0: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
"""

import struct

from basic.data import _exif, decoding_limits

_TAGS = 512  # of a directory; baseline TIFF has 36
_SIZES = {  # bytes of a value, by its type
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8,
    13: 4, 16: 8, 17: 8, 18: 8,
}
_CODES = {1: "B", 3: "H", 4: "I"}
_WIDTH, _HEIGHT, _DEPTHS, _COMPRESSION, _ORIENTATION = 256, 257, 258, 259, 274
_STRIPS, _SAMPLES, _STRIP_BYTES = 273, 277, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
_XMP = 700
_SLACK = 1_024  # pixels by which a tile may be larger than the image


def header(data: bytes) -> decoding_limits.Header:
  """Reads the tags of the first image, and counts its strips or tiles.

  Tags may point to the same bytes many times, and Pillow copies each, so they
  may claim as many bytes as the file has.

  Raises:
    types.Unreadable: if the file is damaged or too short, or has too many tags,
      strips or tiles, or tiles far larger than the image.
    struct.error: if it ends within its directory.
  """
  order = "<" if data.startswith(b"II") else ">"
  at, = struct.unpack_from(order + "I", data, 4)
  count, = struct.unpack_from(order + "H", data, at)
  if count > _TAGS:
    decoding_limits.check_parts(count + decoding_limits.PARTS, 0, "tags")
  tags, claimed = {}, 0
  for entry in range(at + 2, at + 2 + 12 * count, 12):
    tag, kind, values = struct.unpack_from(order + "HHI", data, entry)
    size = _SIZES.get(kind, 1) * values
    claimed += size
    tags[tag] = (kind, values, entry + 8 if size <= 4 else struct.unpack_from(
        order + "I", data, entry + 8)[0])
  if claimed > len(data) + 4 * count:
    decoding_limits.truncated("TIFF", f"its tags claim {claimed} bytes")

  def value(tag, default):
    kind, values, where = tags.get(tag, (0, 0, 0))
    if kind not in _CODES or not values:
      return default
    return struct.unpack_from(order + _CODES[kind], data, where)[0]

  height, width = value(_HEIGHT, 0), value(_WIDTH, 0)
  _check_pieces(tags, value, height, width)
  bits = value(_DEPTHS, 1) * value(_SAMPLES, 1)
  if _oriented(value(_ORIENTATION, None), tags, data) > 4:
    height, width = width, height  # Pillow turns what it reads from TIFF.
  return decoding_limits.Header(
      "TIFF", height, width, bits, data,
      payload=height * width * bits // 8 if value(_COMPRESSION, 1) == 1 else 0,
  )


def _oriented(found, tags, data) -> int:
  if found is not None:
    return found if 1 <= found <= 8 else 1
  _, count, where = tags.get(_XMP, (0, 0, 0))
  return _exif.orientation(None, data[where:where + count])


def _check_pieces(tags, value, height: int, width: int) -> None:
  """Refuses implausible strips and tiles."""
  samples = max(1, value(_SAMPLES, 1))  # Channels may lie in planes.
  plausible = height * samples
  if _TILES in tags or _TILE_WIDTH in tags:
    across, down = value(_TILE_WIDTH, 0), value(_TILE_HEIGHT, 0)
    if not 0 < across <= width + _SLACK or not 0 < down <= height + _SLACK:
      decoding_limits.broken("TIFF", f"tiles of {down} by {across} pixels")
    plausible = -(-width // across) * -(-height // down) * samples
  pieces = max(
      tags.get(tag, (0, 0, 0))[1]
      for tag in (_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES)
  )
  # A tile of 16 pixels a side is the smallest there may be.
  allowed = height * width * samples // 256 + decoding_limits.PARTS
  if plausible > max(allowed, height * samples) or pieces > plausible:
    decoding_limits.check_parts(
        pieces + plausible + decoding_limits.PARTS, 0, "strips or tiles")

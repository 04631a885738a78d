"""The header of a PNG file, and the file without its metadata.

Chunks: https://www.w3.org/TR/png-3/#5Chunk-layout
"""

import struct

from basic.data import _exif, decoding_limits

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
_DEPTHS = (1, 2, 4, 8, 16)
_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_XMP = b"XML:com.adobe.xmp\0"
_PROFILE = b"Raw profile type exif\0"
_DEFLATE = 1_032  # the greatest expansion of deflate


def header(data: bytes) -> decoding_limits.Header:
  """Reads the first chunk and walks over the others.

  Raises:
    types.Unreadable: if the file is damaged, ends within a chunk that is
      needed, or has too many chunks.
    struct.error: if it ends within the first chunk.
  """
  if data[12:16] != b"IHDR":
    decoding_limits.broken("PNG", f"it begins with a chunk {data[12:16]!r}")
  width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
  if color not in _CHANNELS or depth not in _DEPTHS:
    decoding_limits.broken("PNG", f"color type {color} with {depth} bits")
  kept, chunks = _chunks(data)
  bits = _CHANNELS[color] * depth
  compressed = sum(stop - start for kind, start, stop in kept if kind == b"IDAT")
  least = height * (1 + (width * bits + 7) // 8) // _DEFLATE
  kinds = {kind for kind, _, _ in kept}
  if chunks:
    data = data[:8] + b"".join(data[start:stop] for _, start, stop in kept)
  return decoding_limits.Header(
      "PNG", height, width, bits, data, _orientation(chunks),
      plain=b"tRNS" not in kinds and (
          (color in (0, 2) and depth == 8) or (color == 2 and depth == 16)),
      payload=len(data) - compressed + least,
  )


def _chunks(data):
  """([(kind, start, stop)] of the chunks that matter, {kind: metadata})."""
  kept, others, at, count = [], {}, 8, 0
  while at + 8 <= len(data):
    length, kind = int.from_bytes(data[at:at + 4]), data[at + 4:at + 8]
    count += 1
    decoding_limits.check_parts(count, len(data), "chunks")
    stop = at + 12 + length
    if stop > len(data):
      if kind in _KEPT and kind != b"IEND":
        decoding_limits.truncated("PNG", f"a chunk of {length} bytes at {at}")
      break
    if kind in _KEPT:
      kept.append((kind, at, stop))
    else:
      others.setdefault(_name(data, kind, at + 8), data[at + 8:stop - 4])
    if kind == b"IEND":
      break
    at = stop
  return kept, others


def _name(data: bytes, kind: bytes, at: int) -> bytes:
  """What a chunk is: its kind, or for text its key."""
  for key in (_XMP, _PROFILE):
    if kind in (b"iTXt", b"tEXt", b"zTXt") and data.startswith(key, at):
      return kind + key
  return kind


def _orientation(chunks) -> int:
  exif = chunks.get(b"eXIf")
  for kind in (b"tEXt", b"zTXt"):
    if exif is None and (text := chunks.get(kind + _PROFILE)) is not None:
      zipped = kind == b"zTXt"
      exif = _exif.from_text(text[len(_PROFILE) + zipped:], zipped)
  return _exif.orientation(exif, chunks.get(b"iTXt" + _XMP))

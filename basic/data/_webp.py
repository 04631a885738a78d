"""The header of a WebP file, with its flags of transparency set right.

Chunks: https://developers.google.com/speed/webp/docs/riff_container
Sizes of frames: RFC 6386, section 9.1, and RFC 9649, section 3.4.
"""

import struct

from basic.data import _exif, decoding_limits

_ALPHA, _ANIMATED = 0x10, 0x02  # flags of the container


def header(data: bytes) -> decoding_limits.Header:
  """Reads the sizes of canvas and frame, and walks over the chunks.

  Some encoders set neither the alpha flag of the container nor the alpha hint
  of a lossless frame. Decoders then drop the alpha channel, and transparent
  pixels come out black. The first frame of an animation may also leave parts
  of its canvas uncovered. So both flags are set wherever there may be alpha.

  Raises:
    types.Unreadable: if the file is damaged, or has too many chunks.
    struct.error: if it ends within a chunk's header.
    IndexError: likewise.
  """
  container = data[12:16] == b"VP8X"
  animated = container and bool(data[20] & _ANIMATED)
  size, lossless, alpha, exif, xmp = None, [], animated, None, None
  at, count = 12, 0
  while at + 8 <= len(data):
    kind, length = data[at:at + 4], int.from_bytes(data[at + 4:at + 8], "little")
    count += 1
    decoding_limits.check_parts(count, len(data), "chunks")
    if kind == b"ANMF" and size is None:
      alpha, at = True, at + 8 + 16  # The chunks of a frame follow its header.
      continue
    if kind in (b"VP8 ", b"VP8L") and size is None:
      size = _frame(data, kind, at + 8)
      if kind == b"VP8L":
        alpha = True
        lossless.append(at + 12)
    alpha = alpha or kind == b"ALPH"
    if kind == b"EXIF":
      exif = data[at + 8:at + 8 + length]
    elif kind == b"XMP ":
      xmp = data[at + 8:at + 8 + length]
    at += 8 + length + length % 2
    if not container:
      break  # Nothing follows the only chunk.
  if size is None:
    decoding_limits.truncated("WEBP", "it ends before its frame")
  canvas = _canvas(data) if container else size
  if not animated and canvas != size:
    decoding_limits.broken("WEBP", f"a frame of {size} on a canvas of {canvas}")
  if animated and size[0] * size[1] > canvas[0] * canvas[1]:
    decoding_limits.broken("WEBP", f"a frame of {size} on a canvas of {canvas}")
  if alpha:
    data = _flagged(data, lossless, container)
  return decoding_limits.Header(
      "WEBP", *canvas, 32 if alpha else 24, data, _exif.orientation(exif, xmp),
      plain=not alpha,
  )


def _flagged(data: bytes, lossless: list[int], container: bool) -> bytes:
  flagged = bytearray(data)
  for at in lossless:
    flagged[at] |= 0x10
  if container:
    flagged[20] |= _ALPHA
  return bytes(flagged)


def _canvas(data: bytes) -> tuple[int, int]:
  width = int.from_bytes(data[24:27], "little") + 1
  return int.from_bytes(data[27:30], "little") + 1, width


def _frame(data: bytes, kind: bytes, at: int) -> tuple[int, int]:
  if kind == b"VP8L":
    sides, = struct.unpack_from("<I", data, at + 1)
    return (sides >> 14 & 0x3FFF) + 1, (sides & 0x3FFF) + 1
  width, height = struct.unpack_from("<HH", data, at + 6)
  return height & 0x3FFF, width & 0x3FFF

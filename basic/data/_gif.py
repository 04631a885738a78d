"""The header of a GIF file: its canvas and its first frame.

Blocks: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

import struct

from basic.data import decoding_limits

_TABLE = 0x80  # flag: a table of colors follows
_LZW = 2_560  # pixels from a byte: 3,840 from a code of 12 bits, at the most


def header(data: bytes) -> decoding_limits.Header:
  """Reads the canvas, and walks over extensions up to the first frame.

  Raises:
    types.Unreadable: if the file is damaged, or has too many blocks before the
      first frame.
    struct.error: if it ends within a block's header.
    IndexError: likewise.
  """
  width, height, flags = struct.unpack_from("<HHB", data, 6)
  at, count = 13, 0
  if flags & _TABLE:
    at += 3 << (flags & 7) + 1
  while data[at] != 0x2C:  # an image
    count += 1
    decoding_limits.check_parts(count, 0, "blocks before the first frame")
    if data[at] == 0x21:
      at += 2
      while length := data[at]:
        at += 1 + length
        count += 1
        decoding_limits.check_parts(count, 0, "blocks before the first frame")
    elif data[at] == 0x3B:
      decoding_limits.broken("GIF", "no frame")
    at += 1
  left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
  return decoding_limits.Header(
      "GIF", max(height, top + high), max(width, left + wide), 8, data,
      payload=wide * high // _LZW,
  )

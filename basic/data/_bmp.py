"""The header of a BMP file.

https://learn.microsoft.com/windows/win32/gdi/bitmap-header-types
"""

import struct

from basic import types
from basic.data import decoding_limits

_RUNS = (1, 2)  # run lengths of 8 and 4 bits
_RUN_BYTES = 2**22  # Pillow decodes them in Python, 2 million bytes a second.


def header(data: bytes) -> decoding_limits.Header:
  """Reads sizes, and compares them with the length of the file.

  Raises:
    types.Unreadable: if the file is damaged or too short.
    struct.error: if it ends within its header.
  """
  start, size = struct.unpack_from("<II", data, 10)
  compression = 0
  if size == 12:
    width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
  else:
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
  width, height = abs(width), abs(height)
  if bits not in (1, 2, 4, 8, 16, 24, 32):
    decoding_limits.broken("BMP", f"{bits} bits for a pixel")
  if compression in _RUNS:
    if len(data) > _RUN_BYTES:
      raise types.Unreadable(
          "image too large", f"{len(data)} bytes of run lengths")
    payload = 0
  else:
    row = (width * bits + 31) // 32 * 4
    payload = start + row * (height - 1) + (width * bits + 7) // 8
  return decoding_limits.Header(
      "BMP", height, width, bits, data, plain=bits == 24 and not compression,
      payload=payload,
  )

"""The orientation of an image: which way is up, from its EXIF or XMP metadata."""

import re
import struct
import zlib

_ORIENTATION = 0x0112
_ENTRIES = 512  # of a directory; cameras write about twenty
_LONGEST = 1_000_000  # bytes of a profile in text
_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")


def orientation(exif: bytes | None, xmp: bytes | None = None) -> int:
  """The orientation, 1 to 8, by EXIF, else XMP; 1 if neither says any.

  Damaged metadata says nothing: the image is shown as it is stored.

  Args:
    exif: a TIFF structure, with or without "Exif" before it.
    xmp: XML.
  """
  found = _of_tiff(exif) if exif else None
  if found is None and xmp:
    match = _XMP.search(xmp)
    found = int(match[1]) if match else None
  return 1 if found is None or not 1 <= found <= 8 else found


def _of_tiff(exif: bytes) -> int | None:
  start = 6 if exif.startswith(b"Exif\0\0") else 0
  order = {b"II": "<", b"MM": ">"}.get(exif[start:start + 2])
  if order is None or len(exif) < start + 10:
    return None
  at = start + struct.unpack_from(order + "I", exif, start + 4)[0]
  if at + 2 > len(exif):
    return None
  entries = struct.unpack_from(order + "H", exif, at)[0]
  for entry in range(at + 2, at + 2 + 12 * min(entries, _ENTRIES), 12):
    if entry + 12 > len(exif):
      return None
    tag, kind = struct.unpack_from(order + "HH", exif, entry)
    if tag == _ORIENTATION:
      size = {1: "B", 3: "H", 4: "I"}.get(kind)
      return struct.unpack_from(order + size, exif, entry + 8)[0] if size else None
  return None


def from_text(text: bytes, compressed: bool) -> bytes | None:
  """The EXIF in a text chunk "Raw profile type exif" of a PNG file.

  ImageMagick writes it: the name, a length and hexadecimal digits, on lines.
  """
  if compressed:
    try:
      text = zlib.decompressobj().decompress(text, _LONGEST)
    except zlib.error:
      return None
  digits = b"".join(text.split(b"\n")[3:])
  try:
    return bytes.fromhex(digits.decode("ascii"))
  except ValueError:  # also for what is not ASCII
    return None

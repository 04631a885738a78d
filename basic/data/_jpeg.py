"""The header of a JPEG file.

Markers and segments: ITU-T T.81, annex B. https://www.w3.org/Graphics/JPEG/itu-t81.pdf
"""

import re

from basic.data import _exif, decoding_limits

# Fill bytes may precede a marker; FF 00 is data.
_MARKER = re.compile(rb"\xff([^\xff\x00])")
# In the data of a scan, restart markers do not end it.
_AFTER_SCAN = re.compile(rb"\xff([^\xff\x00\xd0-\xd7])")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a segment
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_KEPT = frozenset(range(0xC0, 0xE0)) | {0xE0, 0xEE}  # no metadata but color's


def header(data: bytes) -> decoding_limits.Header:
  """Reads the segments up to the first scan, and counts scans if several count.

  Raises:
    types.Unreadable: if the file is damaged, or has too many segments.
    IndexError: if it ends within a segment's header.
  """
  at, count, frame, exif, xmp = 2, 0, None, None, None
  while True:
    kind, at = _next(data, at)
    if kind in _ALONE:
      continue
    count += 1
    length = data[at] << 8 | data[at + 1]
    if kind == _SCAN:
      break
    if kind == _END or length < 2:
      decoding_limits.broken("JPEG", f"marker {kind:#x} before the pixels")
    if kind in _FRAMES:
      if frame is not None:
        decoding_limits.broken("JPEG", "two frames")
      frame = (kind, data[at + 2:at + length])
    elif kind == _APP1:
      if exif is None and data.startswith(b"Exif\0\0", at + 2):
        exif = data[at + 2:at + length]
      elif xmp is None and data.startswith(b"http://ns.adobe.com/xap/", at + 2):
        xmp = data[at + 2:at + length]
    at += length
    if count > decoding_limits.PARTS:
      decoding_limits.check_parts(count, 0, "segments before the pixels")
  if frame is None:
    decoding_limits.broken("JPEG", "no frame before its scan")
  return _header(data, *frame, at, _exif.orientation(exif, xmp))


def _next(data: bytes, at: int) -> tuple[int, int]:
  """The next marker, and where its segment begins."""
  if data[at] == 0xFF and 0 < (kind := data[at + 1]) < 0xFF:
    return kind, at + 2
  match = _MARKER.search(data, at)
  if match is None:
    decoding_limits.truncated("JPEG", "it ends before its pixels")
  return match[1][0], match.end()


def _header(data, kind, frame, scan, orientation):
  height, width, components = (
      frame[1] << 8 | frame[2], frame[3] << 8 | frame[4], frame[5]
  )
  scans = 1
  # Otherwise decoders stop at the end of the first scan.
  if kind & 3 == 2 or data[scan + 2] < components:
    scans = _scans(data, scan)
  return decoding_limits.Header(
      "JPEG", height, width, components * frame[0], data, orientation,
      plain=components in (1, 3) and frame[0] == 8 and kind <= 0xC2,
      scans=scans, payload=scan + _payload(kind, frame, height, width),
  )


def _payload(kind: int, frame: bytes, height: int, width: int) -> int:
  """Bytes of the shortest scans: a Huffman code has at least one bit.

  A block of a sequential file has two codes or more, its mean and its end; that
  of a progressive file one. Arithmetic codes and lossless files have no bound.
  """
  bits = {0xC0: 2, 0xC1: 2, 0xC2: 1}.get(kind)
  if bits is None:
    return 0
  sampling = frame[7:6 + 3 * frame[5]:3]  # across in the upper four bits
  most = (1, 1)
  for both in sampling:
    factors = (both >> 4, both & 15)
    if not (1 <= factors[0] <= 4 and 1 <= factors[1] <= 4):
      decoding_limits.broken("JPEG", "a component with a wrong sampling factor")
    most = (max(most[0], factors[0]), max(most[1], factors[1]))
  across, down, blocks = 8 * most[0], 8 * most[1], 0
  for both in sampling:
    blocks += -(-width * (both >> 4) // across) * -(-height * (both & 15) // down)
  return bits * blocks // 8


def _scans(data: bytes, at: int) -> int:
  """Scans up to the end of the image, or one more than are allowed."""
  count = 1
  segments = 0
  while count <= decoding_limits.SCANS:
    match = _AFTER_SCAN.search(data, at)
    if match is None or match[1][0] == _END:
      break
    count += match[1][0] == _SCAN
    segments += 1
    decoding_limits.check_parts(segments, 0, "segments between scans")
    at = match.end()
    at += data[at] << 8 | data[at + 1] if at + 1 < len(data) else 2
  return count


def essential(data: bytes) -> bytes:
  """A file that `header` accepts, without metadata before its pixels."""
  kept, at = [data[:2]], 2
  while match := _MARKER.search(data, at):
    kind, start = match[1][0], match.end()
    if kind == _SCAN:
      kept.append(data[match.start():])
      break
    at = start
    if kind not in _ALONE:
      at += data[start] << 8 | data[start + 1]
    if kind in _KEPT:
      kept.append(data[match.start():at])
  return b"".join(kept)

"""Image files that cost more than they should, made in memory."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def saved(image, name, **options):
  data = io.BytesIO()
  image.save(data, name, **options)
  return data.getvalue()


def chunk(kind, data):
  body = kind + data
  return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height, depth=8, color=2, body=b"", before=()):
  """A PNG whose header says what is given, whatever its pixels are."""
  size = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
  parts = [chunk(b"IHDR", size), *before, chunk(b"IDAT", body), chunk(b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def claimed_chunk():
  return (
      b"\x89PNG\r\n\x1a\n"
      + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
      + b"\xff\xff\xff\xffIDAT"
  )


def zeros(count):
  """`count` zero bytes, compressed."""
  packer = zlib.compressobj(9)
  return b"".join(
      [packer.compress(bytes(min(2**22, count - at)))
       for at in range(0, count, 2**22)] + [packer.flush()]
  )


def many_texts():
  row = chunk(b"tEXt", b"k\0" + b"v" * 6)
  good = saved(Image.new("RGB", (8, 8)), "PNG")
  return good[:33] + row * 500_000 + good[33:]


def repeated_scan():
  """A progressive JPEG whose last scan comes 1,000 times."""
  noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
  data = saved(Image.fromarray(noise), "JPEG", progressive=True)
  start = data.rindex(b"\xff\xda")
  frame = data.index(b"\xff\xc2")
  data = data[:frame + 5] + struct.pack(">HH", 4_000, 4_000) + data[frame + 9:]
  # Long enough that the sizes could be true.
  comment = b"".join([b"\xff\xfe\xff\xff" + bytes(65_533)] * 6)
  return data[:start] + comment + data[start:-2] * 1 + data[start:-2] * 999 + (
      b"\xff\xd9")


def empty_jpeg(side=6_300):
  """A small JPEG whose header says that it is a large one."""
  data = bytearray(saved(Image.new("RGB", (16, 16)), "JPEG"))
  frame = data.index(b"\xff\xc0")
  data[frame + 5:frame + 9] = struct.pack(">HH", side, side)
  return bytes(data)


def many_segments():
  good = saved(Image.new("RGB", (8, 8)), "JPEG")
  return good[:2] + b"\xff\xe5\x00\x03x" * 500_000 + good[2:]


def filled():
  """A marker after many fill bytes, and one that they lead to nothing."""
  good = saved(Image.new("RGB", (8, 8)), "JPEG")
  return good[:2] + b"\xff" * 2_000_000 + b"\x00" + b"\xff" * 2_000_000


def gif(side=6_000):
  """A GIF of one pixel on a large canvas."""
  return (
      b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
      + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
      + b"\x02\x02\x44\x01\x00\x3b"
  )


def wordy_gif():
  """Comments before the first frame."""
  good = saved(Image.new("P", (4, 4)), "GIF")
  start = good.index(b"\x2c")
  return good[:start] + b"\x21\xfe" + b"\x01x" * 3_000_000 + b"\0" + good[start:]


def webp(side=16_000):
  """A canvas that its frame does not fill."""
  data = saved(Image.new("RGB", (8, 8)), "WEBP")[12:]
  size = struct.pack("<I", side - 1)[:3]
  body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + size + data
  return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def large_webp(side=6_000):
  """A canvas of an animation that its frame does not fill."""
  frame = saved(Image.new("RGB", (8, 8)), "WEBP")[12:]
  size = struct.pack("<I", side - 1)[:3]
  body = b"VP8X" + struct.pack("<I", 10) + b"\x02" + bytes(3) + size + size
  body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
  frame = bytes(6) + b"\x07\0\0\x07\0\0" + bytes(4) + frame
  body += b"ANMF" + struct.pack("<I", len(frame)) + frame
  return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp(side=6_000, compression=0):
  header = struct.pack(
      "<IiiHHIIiiII", 40, side, side, 1, 8, compression, 0, 0, 0, 0, 0)
  return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + b"\0\1" * 50


def tiff(entries, extra=b""):
  """A TIFF of (tag, type, count, value) rows; long values lie in `extra`."""
  rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
  return (
      b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4) + extra
  )


GRAY = (
    (256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1),
    (262, 3, 1, 1), (277, 3, 1, 1),
)


def many_tags():
  rows = [(1_000 + n, 7, 4_000_000, 8) for n in range(500)]
  return tiff([*GRAY, *rows], bytes(4_000_000))


def many_strips():
  count = 1_000_000
  return tiff(
      [*GRAY[:6], (273, 4, count, 200), (278, 3, 1, 1), (279, 4, count, 200)],
      bytes(8 * count))


def huge_tile():
  rows = [(322, 4, 1, 2**20), (323, 4, 1, 2**20), (324, 4, 1, 8), (325, 4, 1, 8)]
  changed = [(259, 3, 1, 8) if row[0] == 259 else row for row in GRAY]
  return tiff([*changed, *rows], bytes(100))


def flat_tiff(side=6_000):
  rows = {row[0]: row for row in GRAY}
  rows.update({256: (256, 4, 1, side), 257: (257, 4, 1, side),
               259: (259, 3, 1, 8), 273: (273, 4, 1, 150),
               278: (278, 4, 1, side), 279: (279, 4, 1, 50_000)})
  body = zeros(side * side)
  return tiff([rows[tag] for tag in sorted(rows)], bytes(20) + body)


def small_boxes_large_data():
  """An AVIF whose boxes say 64 by 64, and whose AV1 data say 3,500 by 6,000."""
  data = bytearray(saved(Image.new("L", (6_000, 3_500)), "AVIF", speed=10))
  at = data.index(b"ispe") + 8
  data[at:at + 8] = struct.pack(">II", 64, 64)
  return bytes(data)


def flat_avif():
  return saved(Image.new("L", (4_200, 4_200)), "AVIF", speed=10)


FILES = {  # name: (how it is made, the reason for which it is refused)
    "png, claimed chunk": (claimed_chunk, "truncated image"),
    "png, many texts": (many_texts, "too many parts"),
    "png, sizes alone": (lambda: png(6_000, 6_000), "truncated image"),
    "png, rgba of one color": (
        lambda: png(6_000, 6_000, 8, 6, zeros(6_000 * 24_001)), "image too large"),
    "png, 16 bits": (
        lambda: png(6_000, 6_000, 16, 6, bytes(300_000)), "image too large"),
    "jpeg, repeated scan": (repeated_scan, "too many parts"),
    "jpeg, sizes alone": (empty_jpeg, "truncated image"),
    "jpeg, many segments": (many_segments, "too many parts"),
    "jpeg, fill bytes": (filled, "truncated image"),
    "gif, large canvas": (gif, "image too large"),
    "gif, comments": (wordy_gif, "too many parts"),
    "webp, large canvas": (webp, "broken image header"),
    "webp, large animation": (large_webp, "image too large"),
    "bmp, sizes alone": (bmp, "truncated image"),
    "bmp, run lengths": (lambda: bmp(compression=1), "image too large"),
    "tiff, tags that overlap": (many_tags, "truncated image"),
    "tiff, many strips": (many_strips, "too many parts"),
    "tiff, huge tile": (huge_tile, "broken image header"),
    "tiff, one color": (flat_tiff, "image too large"),
    "avif, small boxes": (small_boxes_large_data, "image too large"),
    "avif, one color": (flat_avif, "image too large"),
}

"""What decoding an image may cost, decided by its header and its structure.

A file of a few bytes can ask for gigabytes of memory or minutes of work. The
parsers beside this file (`_jpeg`, `_png`, `_webp`, `_gif`, `_bmp`, `_tiff`,
`_avif`) read sizes and walk the parts of a file without decoding; the limits are
here, in four kinds:

- pixels: height times width, at most `max_pixels` (a setting).
- memory: height times width times channels times depth as the file stores them,
  at most `RAW_BYTES` bytes for each of `max_pixels`: an RGBA image of 40 million
  pixels passes, one with 16 bits a channel may have half as many.
- expansion: above `SMALL` pixels, at most `EXPANSION` decoded bytes for a byte of
  the file. Of photographs, the most compressed AVIF in use reach about 400. Up to
  `SMALL` pixels (4,096 by 4,096) any file is decoded, for a PNG of one colour
  legitimately shrinks to a thousandth.
- parts: metadata, scans and tiles are counted, since decoders spend time on each.
"""

from typing import NamedTuple, NoReturn

from basic import types

MAX_ASPECT = 20  # longer side over shorter
SMALL = 2**24  # pixels
EXPANSION = 500  # decoded bytes over bytes of the file, above SMALL pixels
RAW_BYTES = 4  # for each pixel of `max_pixels`: RGBA of 8 bits
PARTS = 1_024  # segments, chunks or tags, for files of any size, and ...
BYTES_PER_PART = 1_024  # ... one more for each so many bytes of the file.
SCANS = 64  # of a progressive JPEG; encoders write about ten
SCANNED = 16  # scans times pixels, over `max_pixels`


class Header(NamedTuple):
  """What a file says about its image, before anything is decoded.

  Attributes:
    name: Pillow's name of the format.
    height: in pixels, as stored: before the image is turned upright.
    width: in pixels, as stored.
    bits: of a pixel, as stored: channels times depth.
    data: the file for the decoders, without metadata.
    orientation: of EXIF, 1 to 8; 1 is upright.
    plain: whether OpenCV decodes it to the same RGB as Pillow: no
      transparency, palette or color space to convert.
    scans: passes over all pixels.
    payload: bytes that a decoder needs at least for these pixels; 0 if unknown.
  """

  name: str
  height: int
  width: int
  bits: int
  data: bytes
  orientation: int = 1
  plain: bool = False
  scans: int = 1
  payload: int = 0

  @property
  def upright(self) -> tuple[int, int]:
    """(height, width) as a viewer shows the image."""
    if self.orientation > 4:
      return self.width, self.height
    return self.height, self.width


def check(header: Header, max_pixels: int) -> None:
  """Refuses an image that should not be decoded.

  Args:
    header: of the image.
    max_pixels: images of a larger height times width are refused.

  Raises:
    types.Unreadable: if the image is empty, exceeds a limit of this file, or
      the file is too short to hold it.
  """
  height, width = header.height, header.width
  pixels, size = height * width, len(header.data)
  if pixels < 1:
    broken(header.name, f"{height} by {width} pixels")
  if pixels > max_pixels:
    raise types.Unreadable(
        "image too large", f"{height} by {width} is over {max_pixels} pixels"
    )
  if header.bits * pixels > 8 * RAW_BYTES * max_pixels:
    raise types.Unreadable(
        "image too large", f"{height} by {width} pixels of {header.bits} bits "
        f"are over {RAW_BYTES * max_pixels} bytes"
    )
  if max(width, height) > MAX_ASPECT * min(width, height):
    raise types.Unreadable("extreme aspect ratio", f"{height} by {width}")
  if header.payload > size:
    raise types.Unreadable(
        "truncated image", f"{height} by {width} pixels need at least "
        f"{header.payload} bytes, the file has {size}"
    )
  if pixels > SMALL and header.bits * pixels > 8 * EXPANSION * size:
    raise types.Unreadable(
        "image too large",
        f"{height} by {width} pixels from {size} bytes, which is over "
        f"{EXPANSION} times their size",
    )
  if header.scans > SCANS or header.scans * pixels > SCANNED * max_pixels:
    raise types.Unreadable(
        "too many parts", f"{header.scans} scans of {height} by {width} pixels"
    )


def check_parts(count: int, size: int, what: str) -> None:
  """Refuses a file of `size` bytes with implausibly many parts.

  Raises:
    types.Unreadable: if there are more than `PARTS`, and than one for each
      `BYTES_PER_PART` bytes beyond.
  """
  if count > PARTS + size // BYTES_PER_PART:
    raise types.Unreadable("too many parts", f"over {count - 1} {what}")


def broken(name: str, why: str) -> NoReturn:
  """Raises types.Unreadable for a header that cannot be."""
  raise types.Unreadable("broken image header", f"{name}: {why}")


def truncated(name: str, why: str) -> NoReturn:
  """Raises types.Unreadable for a file that ends too early."""
  raise types.Unreadable("truncated image", f"{name}: {why}")

"""Decoding of image files.

An image is decoded as a viewer shows it. Its header and the structure of its
file are checked before memory is allocated for pixels (`decoding_limits`), and
an image that cannot be used raises `types.Unreadable` with one of these reasons,
by which they are counted:

    empty image, unknown image format, broken image header, image too large,
    extreme aspect ratio, too many parts, unsupported pixels, truncated image,
    broken image data

Where other libraries differ, on purpose:

    what                 here                      torchvision, open_clip, PIL
    EXIF, XMP turn       upright, every format     as stored
    transparency         on white                  black, or as stored below
    16 bits              the upper 8 bits          clipped at 255 (grayscale)
    32 bits              refused                   clipped at 255
    longer side          at most 20 times the      anything
                         shorter
    large from little    refused (decoding_limits) decoded, up to 179 megapixels
    animations           the first frame           the first frame
    color profiles       ignored                   ignored
"""

import dataclasses
import functools
import io
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from basic import types
from basic.data import (
    _avif,
    _bmp,
    _gif,
    _jpeg,
    _png,
    _tiff,
    _webp,
    decoding_limits,
)

_FORMATS = (  # offset, magic bytes, what reads the header
    (0, b"\xff\xd8\xff", _jpeg.header),
    (0, b"\x89PNG\r\n\x1a\n", _png.header),
    (8, b"WEBP", _webp.header),
    (0, b"GIF8", _gif.header),
    (0, b"BM", _bmp.header),
    (0, b"II*\x00", _tiff.header),
    (0, b"MM\x00*", _tiff.header),
    (4, b"ftypavif", _avif.header),
    (4, b"ftypavis", _avif.header),  # animated
)
_OTHERS = (  # offset, magic bytes, what such a file is, and what to do
    *(
        (4, b"ftyp" + brand, "HEIC; save it as JPEG or PNG")
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
    ),
    (4, b"ftyp", "a video; a picture is expected"),
    (0, b"\xff\x0a", "JPEG XL; save it as JPEG or PNG"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL; save it as JPEG or PNG"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000; save it as JPEG or PNG"),
    (0, b"8BPS", "a file of Photoshop; save it as PNG"),
    (0, b"\0\0\x01\0", "an icon (ICO); save it as PNG"),
    (0, b"%PDF", "PDF; draw its pages as PNG"),
    (0, b"version https://git-lfs", "a pointer of Git LFS; run `git lfs pull`"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it"),
    (0, b"PK\3\4", "a ZIP archive; unpack it"),
)
_LOOKED_AT = 1_024  # bytes
_COLOR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_BY_REDUCTION = {  # These bits name a scale; the color is that of _COLOR.
    1: _COLOR,
    2: _COLOR | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: _COLOR | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: _COLOR | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_BAND = 256  # rows that are blended at a time


@dataclasses.dataclass(frozen=True)
class Encoded:
  """An image file in memory, decoded when its pixels are needed.

  A source gives it as the "image" of an example, so that reading a caption
  costs no decoding. `np.asarray` decodes it, as `decode` does.

  Attributes:
    data: the content of the file.
    channels: of the pixels: 3 for RGB, 1 for luminance.
    max_pixels: images of a larger height times width are not decoded.
  """

  data: bytes
  channels: int = 3
  max_pixels: int = 40_000_000

  @functools.cached_property
  def header(self) -> decoding_limits.Header:
    """What the file says about its image; raises as `decode` does."""
    return read_header(self.data, self.max_pixels)

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) of the upright image, known without decoding it."""
    return self.header.upright

  def decode(self, reduce: int = 1) -> UInt8[np.ndarray, "h w c"]:
    """The pixels, at full size or reduced; raises as `decode` does.

    Args:
      reduce: 1, 2, 4 or 8: height and width are divided by it and rounded up.
        Only JPEG can do so, and other files are decoded at full size.
    """
    if self.channels not in (1, 3):
      raise ValueError(f"channels is {self.channels}; expected 1 or 3")
    return _decode(self.header, self.channels, reduce)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy  # Decoding always makes a new array.
    return np.asarray(self.decode(), dtype)


def decode(
    data: bytes, *, channels: int = 3, max_pixels: int = 40_000_000
) -> UInt8[np.ndarray, "h w c"]:
  """Decodes the bytes of an image file.

  Reads JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF; of an animation, the first
  frame.

  Args:
    data: the content of the file.
    channels: 3 for RGB, 1 for luminance.
    max_pixels: images of a larger height times width are not decoded.

  Returns:
    Pixels, uint8 from 0 to 255.

  Raises:
    types.Unreadable: for one of the reasons at the top of this file.
    ValueError: if `channels` is neither 1 nor 3.
  """
  return Encoded(data, channels, max_pixels).decode()


def read_header(data: bytes, max_pixels: int) -> decoding_limits.Header:
  """Reads what a file says about its image, and refuses what costs too much.

  Args:
    data: the content of the file.
    max_pixels: images of a larger height times width are refused.

  Raises:
    types.Unreadable: if the image should not be decoded.
  """
  read = _reader(data)
  try:
    header = read(data)
  except (struct.error, IndexError) as error:  # It ends within its header.
    raise types.Unreadable(
        "broken image header", f"it ends, or leads out of the file, of {len(data)} "
        f"bytes ({error})"
    ) from error
  decoding_limits.check(header, max_pixels)
  return header


def _reader(data: bytes) -> Callable[[bytes], decoding_limits.Header]:
  if not data:
    raise types.Unreadable("empty image")
  for offset, magic, read in _FORMATS:
    if data.startswith(magic, offset):
      return read
  kind = _kind(data)
  said = f"it is {kind}; " if kind else ""
  raise types.Unreadable(
      "unknown image format", f"{said}it starts with {data[:12]!r}"
  )


def _kind(data: bytes) -> str:
  """What a file is that is read by no decoder here; "" if that is not known."""
  start = data[:_LOOKED_AT].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
  if start.startswith((b"<!doctype html", b"<html")):
    return "a web page, such as an error of the server it was downloaded from"
  if start.startswith((b"<svg", b"<?xml")) and b"<svg" in start:
    return "SVG; draw it as PNG"
  return next((kind for at, magic, kind in _OTHERS if data.startswith(magic, at)), "")


def _decode(
    header: decoding_limits.Header, channels: int, reduce: int
) -> UInt8[np.ndarray, "h w c"]:
  image = _decode_fast(header, reduce) if header.plain else None
  if image is None:
    image = _decode_any(header)
  if header.orientation != 1:
    image = _upright(image, header.orientation)
  if channels == 1:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
  return image


def _decode_fast(
    header: decoding_limits.Header, reduce: int = 1
) -> UInt8[np.ndarray, "h w 3"] | None:
  """Decodes with OpenCV; None if it fails, and PIL then reports the reason."""
  if header.name != "JPEG":
    reduce = 1
  flags = _BY_REDUCTION[reduce]
  try:
    image = cv2.imdecode(np.frombuffer(header.data, np.uint8), flags)
  except cv2.error:
    return None
  size = (-(-header.height // reduce), -(-header.width // reduce))
  if image is None or image.shape[:2] != size:
    return None
  return image


def _decode_any(
    header: decoding_limits.Header,
) -> UInt8[np.ndarray, "h w 3"]:
  """Decodes with PIL, all modes but those of 32 bits."""
  data = header.data
  if header.name == "JPEG":
    data = _jpeg.essential(data)
  image = _open(data, header)
  if image.mode in ("I", "F"):  # 32 bits, of unknown range
    raise types.Unreadable("unsupported pixels", f"mode {image.mode}")
  try:
    image.load()
    if image.mode.startswith("I;16"):  # convert("RGB") would clip, not scale
      return _from_16_bits(image)
    if image.has_transparency_data:
      return _on_white(image)
    return np.array(image.convert("RGB"))
  except Exception as e:  # PIL raises many types for damaged files
    truncated = "truncated" in str(e).lower()
    reason = "truncated image" if truncated else "broken image data"
    raise types.Unreadable(reason, str(e)) from e


def _open(data: bytes, header: decoding_limits.Header) -> Image.Image:
  """Lets PIL parse the header, which must agree with ours."""
  try:
    image = Image.open(io.BytesIO(data), formats=(header.name,))
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
    raise types.Unreadable("image too large", str(e)) from e
  except Exception as e:  # PIL raises many types for damaged files
    raise types.Unreadable("broken image header", f"{header.name}: {e}") from e
  # What is checked must be what is decoded.
  if image.width * image.height > header.width * header.height:
    raise types.Unreadable(
        "broken image header", f"{header.height} by {header.width} and "
        f"{image.height} by {image.width} pixels",
    )
  return image


def _from_16_bits(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
  gray16 = np.asarray(image)
  gray = (gray16 >> 8).astype(np.uint8)
  if (transparent := image.info.get("transparency")) is not None:
    gray[gray16 == transparent] = 255
  return np.repeat(gray[..., None], 3, axis=2)


def _on_white(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
  """Blends in bands of rows, since each step of PIL makes a whole copy."""
  result = np.empty((image.height, image.width, 3), np.uint8)
  for top in range(0, image.height, _BAND):
    bottom = min(top + _BAND, image.height)
    band = image.crop((0, top, image.width, bottom)).convert("RGBA")
    white = Image.new("RGBA", band.size, "white")
    blended = Image.alpha_composite(white, band)
    result[top:bottom] = np.asarray(blended)[..., :3]
  return result


def _upright(
    image: UInt8[np.ndarray, "h w 3"], orientation: int
) -> UInt8[np.ndarray, "i j 3"]:
  """Turns and mirrors an image as EXIF says it is to be shown."""
  if orientation > 4:  # The first row is shown as the first column.
    image = cv2.transpose(image)
  across = orientation in (2, 3, 6, 7)
  down = orientation in (3, 4, 7, 8)
  if across and down:
    return cv2.flip(image, -1)
  if across or down:
    return cv2.flip(image, int(across))
  return image

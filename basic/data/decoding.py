"""Decoding of image files.

An image is decoded as a viewer shows it: rotated by its EXIF orientation,
transparent parts on white, 16-bit and CMYK images as 8-bit RGB. The header is
checked before memory is allocated for pixels, and an image that cannot be used
raises `types.Unreadable` with one of these reasons, by which they are counted:

    empty image, unknown image format, broken image header, image too large,
    extreme aspect ratio, unsupported pixels, truncated image,
    broken image data
"""

import dataclasses
import io
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from basic import types

_MAX_ASPECT = 20  # longer side over shorter
_SIGNATURES = (  # offset, magic bytes, PIL's name of the format
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),  # animated
)
_FAST = ("JPEG", "PNG", "WEBP", "BMP")  # OpenCV decodes these as PIL does
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


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

  def decode(self) -> UInt8[np.ndarray, "h w c"]:
    """The pixels; raises as `decode` does."""
    return decode(
        self.data, channels=self.channels, max_pixels=self.max_pixels
    )

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
  if channels not in (1, 3):
    raise ValueError(f"channels is {channels}; expected 1 or 3")
  name = _detect_format(data)
  if name == "WEBP":
    data = _flag_alpha(data)
  header = _open(data, name, max_pixels)
  image = _decode_fast(data, header) if _is_plain(header, name) else None
  if image is None:
    image = _decode_any(header)
  if channels == 1:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
  return image


def _detect_format(data: bytes) -> str:
  if not data:
    raise types.Unreadable("empty image")
  for offset, magic, name in _SIGNATURES:
    if data.startswith(magic, offset):
      return name
  raise types.Unreadable("unknown image format", f"starts with {data[:12]!r}")


def _flag_alpha(data: bytes) -> bytes:
  """Sets the alpha flags of a WebP file whose frames may be transparent.

  Some encoders set neither the alpha flag of the container nor the alpha hint
  of a lossless frame. Decoders then drop the alpha channel, and transparent
  pixels come out black. The first frame of an animation may also leave parts
  of its canvas uncovered.

  Layout: https://developers.google.com/speed/webp/docs/riff_container
  """
  flagged, alpha = bytearray(data), False
  at, container = 12, data[12:16] == b"VP8X"
  while at + 8 <= len(data):
    kind, size = data[at:at + 4], int.from_bytes(data[at + 4:at + 8], "little")
    if kind == b"ANMF":
      alpha = True
      at += 8 + 16  # The chunks of a frame follow its 16 bytes of header.
      continue
    if kind == b"VP8L" and at + 12 < len(data):
      alpha = True
      flagged[at + 12] |= 0x10
    if kind in (b"VP8 ", b"VP8L"):
      break  # Later frames are not decoded.
    alpha = alpha or kind == b"ALPH"
    at += 8 + size + size % 2
  if container and alpha and len(data) > 20:
    flagged[20] |= 0x10
  return bytes(flagged)


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
  """Parses the header alone, and refuses what should not be decoded."""
  try:
    header = Image.open(io.BytesIO(data), formats=(name,))
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
    raise types.Unreadable("image too large", str(e)) from e
  except Exception as e:  # PIL raises many types for damaged files
    raise types.Unreadable("broken image header", f"{name}: {e}") from e
  width, height = header.size
  if width * height > max_pixels:
    raise types.Unreadable(
        "image too large", f"{height} by {width} is over {max_pixels} pixels"
    )
  if max(width, height) > _MAX_ASPECT * min(width, height):
    raise types.Unreadable("extreme aspect ratio", f"{height} by {width}")
  return header


def _is_plain(header: Image.Image, name: str) -> bool:
  """Whether nothing needs to be rotated, blended or converted."""
  if name not in _FAST or header.mode not in ("RGB", "L"):
    return False
  if header.has_transparency_data:
    return False
  if "exif" not in header.info and "xmp" not in header.info:
    return True
  try:
    return header.getexif().get(_ORIENTATION, 1) == 1
  except Exception:  # broken EXIF data: no rotation
    return True


def _decode_fast(
    data: bytes, header: Image.Image
) -> UInt8[np.ndarray, "h w 3"] | None:
  """Decodes with OpenCV; None if it fails, and PIL then reports the reason."""
  flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  except cv2.error:
    return None
  if image is None or image.shape[1::-1] != header.size:
    return None
  return image


def _decode_any(header: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
  """Decodes with PIL, all modes but those of 32 bits."""
  if header.mode in ("I", "F"):  # 32 bits, of unknown range
    raise types.Unreadable("unsupported pixels", f"mode {header.mode}")
  try:
    header.load()
    image = ImageOps.exif_transpose(header)
    if image.mode.startswith("I;16"):  # convert("RGB") would clip, not scale
      gray16 = np.asarray(image)
      gray = (gray16 >> 8).astype(np.uint8)
      if (transparent := image.info.get("transparency")) is not None:
        gray[gray16 == transparent] = 255
      return np.repeat(gray[..., None], 3, axis=2)
    if image.has_transparency_data:
      image = image.convert("RGBA")
      white = Image.new("RGBA", image.size, "white")
      image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))
  except Exception as e:  # PIL raises many types for damaged files
    truncated = "truncated" in str(e).lower()
    reason = "truncated image" if truncated else "broken image data"
    raise types.Unreadable(reason, str(e)) from e

"""Decoding of image files, and resizing and cropping for a tower.

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
import math
from collections.abc import Callable

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
_METHODS = ("area", "bilinear", "bicubic")
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright

# (image, generator or None) -> image. Without a generator it is deterministic.
Augment = Callable[
    [UInt8[np.ndarray, "h w c"], np.random.Generator | None],
    UInt8[np.ndarray, "i j c"],
]


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


def resize(
    image: UInt8[np.ndarray, "h w c"],
    size: int,
    crop: str = "center",
    method: str = "area",
) -> UInt8[np.ndarray, "s s c"]:
  """Resizes an image to a square, deterministically.

  Args:
    image: pixels.
    size: height and width of the result, in pixels.
    crop: "center" resizes the shorter side to `size` and crops the center;
      "none" resizes both sides, and does not keep the aspect ratio.
    method: "area" averages areas when shrinking and is bicubic when enlarging;
      "bilinear" and "bicubic" equal Pillow's bit for bit, for weights that were
      trained with them.

  Returns:
    Pixels, in a new array, or `image` itself if nothing changes.

  Raises:
    ValueError: if `crop` or `method` is not one of these.
  """
  if crop not in ("center", "none"):
    raise ValueError(f"crop is {crop!r}; expected 'center' or 'none'")
  if method not in _METHODS:
    raise ValueError(f"method is {method!r}; expected one of {_METHODS}")
  if method != "area":
    return _resize_as_pillow(image, size, crop, method)
  if crop == "center":
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[top:top + side, left:left + side]
  return _scale(image, size)


def _resize_as_pillow(image, size, crop, method):
  """Resizes, then crops: the other order changes pixels at the edges."""
  height, width = image.shape[:2]
  new_height, new_width = size, size
  if crop == "center":
    shorter = min(height, width)
    new_height = int(size * height / shorter)
    new_width = int(size * width / shorter)
  if (new_height, new_width) != (height, width):
    pixels = image if image.shape[2] > 1 else image[..., 0]
    image = np.asarray(Image.fromarray(pixels).resize(
        (new_width, new_height), Image.Resampling[method.upper()]
    )).reshape(new_height, new_width, image.shape[2])
  top, left = (new_height - size) // 2, (new_width - size) // 2
  return image[top:top + size, left:left + size]


def random_crop(
    image: UInt8[np.ndarray, "h w c"],
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.3, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, "s s c"]:
  """Crops a random rectangle of an image and resizes it to a square.

  The area of the crop is uniform in `scale`, its aspect ratio log-uniform in
  `ratio`. If ten draws do not fit in the image, the center is cropped, as in
  `resize`.

  Args:
    image: pixels.
    size: height and width of the result, in pixels.
    rng: of the draws.
    scale: least and greatest fraction of the image's area, in (0, 1].
    ratio: least and greatest width over height, positive.

  Returns:
    Pixels.

  References:
    Szegedy et al., Going Deeper with Convolutions, 2014, section 6.
    https://arxiv.org/abs/1409.4842
  """
  height, width = image.shape[:2]
  for _ in range(10):
    area = rng.uniform(*scale) * height * width
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
    if 0 < h <= height and 0 < w <= width:
      top = rng.integers(height - h, endpoint=True)
      left = rng.integers(width - w, endpoint=True)
      return _scale(image[top:top + h, left:left + w], size)
  return resize(image, size)


def flip(
    image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w c"]:
  """Flips an image horizontally, with probability 1/2.

  A flipped image no longer fits captions that say "left", or that quote text in
  the image.
  """
  return image[:, ::-1] if rng.random() < 0.5 else image


def augment(
    *,
    size: int | None = None,
    crop: str = "none",
    mirror: bool = False,
    scale: tuple[float, float] = (0.3, 1.0),
    method: str = "area",
) -> Augment:
  """Makes the function that a pipeline applies to every image.

  Called with an image and a generator, it crops and flips at random; called
  with None in place of the generator, it crops the center and does not flip.

  Args:
    size: height and width of the result in pixels; None does not resize.
    crop: "none" resizes without keeping the aspect ratio, "center" crops the
      center, "random" crops at random (`random_crop`).
    mirror: whether images are flipped horizontally at random (`flip`).
    scale: for random crops, the least and greatest fraction of the area.
    method: of resizing where the crop is not random (`resize`).

  Returns:
    (image, generator or None) -> image; it can be pickled.

  Raises:
    ValueError: if `crop` or `method` is not one of these, if `crop` has no
      size, or if `scale` is not ascending within (0, 1].

  Example:
    >>> image = np.zeros((6, 4, 3), np.uint8)
    >>> augment(size=2, crop="random")(image, None).shape
    (2, 2, 3)
  """
  if crop not in ("none", "center", "random"):
    raise ValueError(f"crop is {crop!r}; expected 'none', 'center' or 'random'")
  if crop != "none" and size is None:
    raise ValueError(f"crop={crop!r} needs a size in pixels")
  if not 0 < scale[0] <= scale[1] <= 1:
    raise ValueError(f"scale is {scale}; expected 0 < least <= greatest <= 1")
  if method not in _METHODS:
    raise ValueError(f"method is {method!r}; expected one of {_METHODS}")
  return _Augment(size, crop, mirror, (scale[0], scale[1]), method)


@dataclasses.dataclass(frozen=True)
class _Augment:
  size: int | None
  crop: str
  mirror: bool
  scale: tuple[float, float]
  method: str

  def __call__(
      self,
      image: UInt8[np.ndarray, "h w c"],
      rng: np.random.Generator | None = None,
  ) -> UInt8[np.ndarray, "i j c"]:
    if self.size is None:
      pass
    elif self.crop == "random" and rng is not None:
      image = random_crop(image, self.size, rng, self.scale)
    else:
      crop = "none" if self.crop == "none" else "center"
      image = resize(image, self.size, crop, self.method)
    if self.mirror and rng is not None:
      image = flip(image, rng)
    return np.ascontiguousarray(image)


def _scale(
    image: UInt8[np.ndarray, "h w c"], size: int
) -> UInt8[np.ndarray, "s s c"]:
  """Resizes to a square: area averages when shrinking, bicubic otherwise."""
  if image.shape[:2] == (size, size):
    return image
  smaller = size < max(image.shape[:2])
  method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
  scaled = cv2.resize(image, (size, size), interpolation=method)
  return scaled.reshape(size, size, image.shape[2])

"""Pictures as people have them: files, their content, PIL images and arrays."""

import io
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from basic import types
from basic.data import decoding, images

_LARGEST = 1 << 29  # bytes of a file; no image that is decoded has more
_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that PNG keeps
_EXPECTED = (
    "expected the path of a picture, the content of one as bytes, a PIL image, or "
    "an array uint8 [h w], [h w 1], [h w 3] or [h w 4]"
)


def several(pictures: Any) -> Iterator[Any]:
  """One picture, or many, as many.

  Args:
    pictures: a picture, as `read` takes it; an array [n h w c]; or an iterable of
      pictures.

  Yields:
    The pictures.

  Raises:
    ValueError: if it is none of these.

  Example:
    >>> len(list(several(np.zeros((5, 8, 8, 3), np.uint8))))
    5
    >>> list(several("cat.jpg"))
    ['cat.jpg']
  """
  if _is_array(pictures):
    array = np.asarray(pictures)
    yield from array if array.ndim == 4 else (array,)
  elif isinstance(pictures, str | os.PathLike | bytes | Image.Image):
    yield pictures
  elif isinstance(pictures, Iterable):
    yield from pictures
  else:
    raise ValueError(f"found a {type(pictures).__name__}; {_EXPECTED}.")


def read(
    picture: Any, *, channels: int = 3, max_pixels: int = 40_000_000
) -> images.Pixels:
  """A picture in the form that sources give images.

  What is decoded is what a source would decode from the same file: upright, on
  white where it is transparent, RGB or luminance, within the limits of
  `decoding_limits`.

  Args:
    picture: the path of a file; its content; a PIL image; or an array uint8,
      [h w] or [h w 1] (luminance), [h w 3] (RGB) or [h w 4] (RGBA).
    channels: of the result: 3 for RGB, 1 for luminance.
    max_pixels: files and PIL images with more are not decoded.

  Returns:
    An `Encoded`, or uint8 [h w c] for an array without transparency.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is no picture; `types.Unreadable`, here or when it is
      decoded, if it cannot be read or exceeds a limit.

  Example:
    >>> read(np.zeros((4, 6), np.uint8)).shape
    (4, 6, 3)
  """
  if isinstance(picture, bytes):
    return decoding.Encoded(picture, channels, max_pixels)
  if isinstance(picture, str | os.PathLike):
    return decoding.Encoded(_content(picture), channels, max_pixels)
  if isinstance(picture, Image.Image):
    return decoding.Encoded(_png(picture, max_pixels), channels, max_pixels)
  if _is_array(picture):
    pixels = _checked(np.asarray(picture))
    if pixels.shape[2] == 4:
      png = _png(Image.fromarray(pixels), max_pixels)
      return decoding.Encoded(png, channels, max_pixels)
    return _colored(pixels, channels)
  raise ValueError(f"found a {type(picture).__name__}; {_EXPECTED}.")


def is_file(picture: Any) -> bool:
  """Whether a text is the path of a picture file."""
  return (
      isinstance(picture, str) and len(picture) < 4096 and "\0" not in picture
      and os.path.splitext(picture)[1] != "" and os.path.isfile(picture)
  )


def _is_array(value: Any) -> bool:
  """Whether it is an array of NumPy, JAX or others; PIL images are none."""
  return isinstance(value, np.ndarray) or (
      hasattr(value, "__array__") and hasattr(value, "shape")
  )


def _content(path: str | os.PathLike) -> bytes:
  """The content of a file."""
  found = pathlib.Path(path)
  text = os.fspath(path)
  if isinstance(text, str) and text.startswith(("http://", "https://")):
    raise ValueError(
        f"found the web address {text:.200}; download the picture, and give its "
        "path or content."
    )
  if found.is_dir():
    raise ValueError(
        f"{text!r} is a folder; expected a picture. `model.index(folder)` embeds "
        "all pictures of one."
    )
  if not found.exists():
    raise FileNotFoundError(
        f"there is no file {text!r}; {_EXPECTED}. Words are embedded by "
        "embed_texts."
    )
  if not found.is_file():  # A pipe or a device, whose reading may not end.
    raise types.Unreadable("not a file", text)
  if (size := found.stat().st_size) > _LARGEST:
    raise types.Unreadable("file too large", f"{text}: {size} bytes")
  return found.read_bytes()


def _png(image: Image.Image, max_pixels: int) -> bytes:
  """A PIL image as a file without loss, so that it is decoded as all others."""
  if image.width * image.height > max_pixels:
    raise types.Unreadable(
        "image too large",
        f"{image.height} by {image.width} is over {max_pixels} pixels",
    )
  try:
    image = ImageOps.exif_transpose(image)
    if image.mode not in _AS_PNG:
      image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
  except Exception as error:  # PIL raises many types for damaged files.
    raise types.Unreadable("broken image data", str(error)) from error
  return file.getvalue()


def _checked(array: np.ndarray) -> np.ndarray:
  """An array of pixels as uint8 [h w c]; ValueError if it is none."""
  pixels = array[..., None] if array.ndim == 2 else array
  if array.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
    advice = ""
    if array.dtype.kind == "f":
      advice = " Where values are from 0 to 1: (255 * array).round().astype('uint8')."
    elif array.ndim == 3 and array.shape[0] in (1, 3, 4):
      advice = " Channels come last: array.transpose(1, 2, 0)."
    raise ValueError(
        f"found an array {array.dtype}{list(array.shape)}; {_EXPECTED}.{advice}"
    )
  if not pixels.size:
    raise types.Unreadable("empty image", f"an array {list(array.shape)}")
  return pixels


def _colored(pixels: np.ndarray, channels: int) -> np.ndarray:
  """The same picture with this number of channels."""
  if pixels.shape[2] == channels:
    return pixels
  if channels == 3:
    return np.repeat(pixels, 3, axis=2)
  return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)[..., None]


def thumbnail(image: images.Pixels, side: int) -> bytes:
  """A small copy of an image as a JPEG file.

  Args:
    image: pixels, or the file that holds them; uint8, of 1 or 3 channels.
    side: its longer side is at most so many pixels; smaller images keep theirs.

  Raises:
    types.Unreadable: if the file cannot be decoded.

  Example:
    >>> decoding.decode(thumbnail(np.zeros((90, 600, 3), np.uint8), 200)).shape
    (30, 200, 3)
  """
  if isinstance(image, decoding.Encoded):
    reduce = next((n for n in (8, 4, 2) if max(image.size) >= 2 * n * side), 1)
    image = image.decode(reduce)
  pixels, longer = np.ascontiguousarray(image), max(image.shape[:2])
  if longer > side:
    height, width = (max(1, round(n * side / longer)) for n in pixels.shape[:2])
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
  if pixels.ndim == 3 and pixels.shape[2] == 3:
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
  return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()

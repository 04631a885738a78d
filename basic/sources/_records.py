"""Captions, labels and images of a record, whatever kind of file it is from."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from basic import types
from basic.data import decoding
from basic.sources import _storage

# Longer captions are bad records: web pages and base64, not descriptions.
LONGEST_CAPTION = 100_000


def check_channels(channels: int) -> None:
  """Raises ValueError if `channels` is neither 1 nor 3."""
  if channels not in (1, 3):
    raise ValueError(
        f"channels is {channels}; it takes 3 for RGB or 1 for luminance."
    )


def class_names(classes: str | Sequence[str]) -> tuple[str, ...]:
  """The names of classes: as given, or the lines of a text file, by its path.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is not UTF-8.
  """
  if not isinstance(classes, str):
    return tuple(classes)
  try:
    return tuple(_storage.read(classes).decode("utf-8").splitlines())
  except UnicodeDecodeError as error:
    raise ValueError(f"classes is {classes!r}, which is not UTF-8: {error}") from error


def image(data: Any, channels: int, max_pixels: int) -> decoding.Encoded:
  """The image of a record, to be decoded later.

  Raises:
    types.Unreadable: if there is no image, or it is not bytes.
  """
  if data is None:
    raise types.Unreadable("no image")
  if not isinstance(data, bytes | bytearray | memoryview):
    raise types.Unreadable("image is not bytes", f"found {type(data).__name__}")
  if not len(data):
    raise types.Unreadable("empty image")
  return decoding.Encoded(bytes(data), channels, max_pixels)


def captions(value: Any) -> tuple[str, ...]:
  """The captions of a record: one or several, without blank ones.

  Args:
    value: a caption, or several; a caption is `str` or UTF-8. None: none.

  Raises:
    types.Unreadable: if none is left, or one is not text or is too long.
  """
  several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
  texts = tuple(caption(each) for each in (value if several else (value,)))
  texts = tuple(text for text in texts if text)
  if not texts:
    raise types.Unreadable("no caption")
  return texts


def caption(value: Any) -> str:
  """One caption without surrounding spaces; "" for None.

  Raises:
    types.Unreadable: if it is not text, or is too long.
  """
  if value is None:
    return ""
  if not isinstance(value, str | bytes):
    raise types.Unreadable(
        "caption is not text", f"found {type(value).__name__}, expected str"
    )
  if len(value) > LONGEST_CAPTION:
    raise types.Unreadable(
        "caption too long", f"{len(value)} where {LONGEST_CAPTION} are allowed"
    )
  if isinstance(value, bytes):
    try:
      value = value.decode("utf-8")
    except UnicodeDecodeError as error:
      raise types.Unreadable("caption is not text", str(error)) from error
  try:
    value.encode("utf-8")  # JSON may hold half of a character: "\\ud83d".
  except UnicodeEncodeError as error:
    raise types.Unreadable("caption is not text", str(error)) from error
  return value.strip()


def label(value: Any) -> np.int32:
  """A class, an integer from 0.

  Raises:
    types.Unreadable: if it is not one.
  """
  if isinstance(value, str | bytes):
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    value = int(text) if text.strip().isdecimal() else text
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise types.Unreadable("label is not an integer", f"found {value!r:.80}")
  if not 0 <= value < 2**31:
    raise types.Unreadable("label out of range", f"found {value}")
  return np.int32(value)

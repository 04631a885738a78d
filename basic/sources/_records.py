"""Captions, labels and images of a record, whatever kind of file it is from."""

from collections.abc import Iterable, Mapping, Sequence
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


def check_image(channels: int, max_pixels: int) -> None:
  """Raises ValueError unless images of these channels and pixels can be read."""
  check_channels(channels)
  if max_pixels < 1:
    raise ValueError(
        f"max_pixels is {max_pixels}, so that every image would be unreadable; it "
        "takes a number of pixels, such as 40_000_000."
    )


def class_names(classes: str | Sequence[str]) -> tuple[str, ...]:
  """The names of classes: as given, or the lines of a text file, by its path.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it cannot be read or is not UTF-8, or names are blank or
      equal.
  """
  names = _lines(classes) if isinstance(classes, str) else tuple(classes)
  twice = next((name for name in names if names.count(name) > 1), None)
  if twice is not None or not all(name.strip() for name in names):
    found = "a blank name" if twice is None else f"{twice!r} twice"
    raise ValueError(
        f"classes has {found} among {len(names)} names; a class is known by its "
        "name, so give each another one, in the order of the labels."
    )
  return names


def _lines(path: str) -> tuple[str, ...]:
  """The lines of a file of names of classes."""
  _storage.checked("classes", path)
  try:
    return tuple(_storage.read(path).decode("utf-8").splitlines())
  except FileNotFoundError as error:
    raise FileNotFoundError(
        f"classes is {path!r}, and there is no such file; give the path of a text "
        "file with a name on each line, or the names themselves: ('cat', 'dog')."
    ) from error
  except UnicodeDecodeError as error:
    raise ValueError(f"classes is {path!r}, which is not UTF-8: {error}") from error
  except OSError as error:
    raise ValueError(
        f"classes is {path!r}, which cannot be read ({error}); it takes a text file "
        "with a name on each line."
    ) from error


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
  texts = tuple(caption(each) for each in _several(value))
  texts = tuple(text for text in texts if text)
  if not texts:
    raise types.Unreadable("no caption")
  return texts


def spoken(value: Any, language: Any) -> list[tuple[str, str]]:
  """(caption, its language) of one or several captions, without blank ones.

  Args:
    value: as of `captions`.
    language: a name for all of them, or one for each; None: unknown, "".

  Raises:
    types.Unreadable: if a caption or a language is not text or is too long, or
      there are more or fewer languages than captions.
  """
  several = _several(value)
  languages = _several(language)
  if not isinstance(language, str | bytes | None) and len(languages) != len(several):
    raise types.Unreadable(
        "languages do not fit",
        f"found {len(languages)} for {len(several)} captions",
    )
  if len(languages) != len(several):
    languages *= len(several)
  pairs = zip(map(caption, several), map(caption, languages), strict=True)
  return [(text, name) for text, name in pairs if text]


def _several(value: Any) -> list[Any]:
  """A value as a list: its elements, or itself if it is text or nothing."""
  if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
    return list(value)
  return [value]


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

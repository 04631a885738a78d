"""Image files that a table names, each of which may be missing or be something else.

    missing file, not a file (a device, a pipe, a folder), file too large,
    failed read (after several attempts)
"""

import os
import stat

from basic import types
from basic.sources import _storage

_LARGEST = 1 << 29  # bytes; no image that is decoded has more


def check(path: str) -> None:
  """Refuses what is not a file of the size of an image: reading it may hang.

  Raises:
    types.Unreadable: for one of the reasons at the top of this file.
  """
  if _storage.is_remote(path):
    if not _storage.exists(path):
      raise types.Unreadable("missing file", path)
    return
  try:
    found = os.stat(path)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise types.Unreadable("missing file", path) from error
  except ValueError as error:  # No file can have this name.
    raise types.Unreadable("missing file", f"{path!r}: {error}") from error
  except OSError as error:
    raise types.Unreadable("failed read", f"{path}: {error}") from error
  if not stat.S_ISREG(found.st_mode):
    raise types.Unreadable("not a file", path)
  if found.st_size > _LARGEST:
    raise types.Unreadable("file too large", f"{path}: {found.st_size} bytes")


def content(path: str) -> bytes:
  """The content of an image file.

  Raises:
    types.Unreadable: for one of the reasons at the top of this file.
  """
  if not _storage.is_remote(path):
    check(path)
  try:
    return _storage.read(path)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise types.Unreadable("missing file", path) from error
  except OSError as error:
    raise types.Unreadable("failed read", f"{path}: {error}") from error



"""Image files that a table names, each of which may be missing or be something else.

    missing file, not a file (a device, a pipe, a folder), file too large,
    failed read (after several attempts)

A name that does not exist may be written in another way: with the backslashes of
Windows, or with other Unicode for the same letters, as macOS does. Where exactly one
file has the name when written as usual, that is read.
"""

import os
import stat
import unicodedata

from basic import types
from basic.sources import _storage, _tree

_LISTED = 1_000  # folders in which a missing file is looked for
_LARGEST = 1 << 29  # bytes; no image that is decoded has more


def check(path: str) -> str:
  """Refuses what is not a file of the size of an image: reading it may hang.

  Returns:
    The path of the file as it is on the disk.

  Raises:
    types.Unreadable: for one of the reasons at the top of this file.
  """
  if _storage.is_remote(path):
    if not _storage.exists(path):
      raise types.Unreadable("missing file", path)
    return path
  try:
    found = os.stat(path)
  except (FileNotFoundError, NotADirectoryError) as error:
    others = _spellings(path)
    if len(others) != 1:
      raise types.Unreadable("missing file", path) from error
    return check(others[0])
  except ValueError as error:  # No file can have this name.
    raise types.Unreadable("missing file", f"{path!r}: {error}") from error
  except OSError as error:
    raise types.Unreadable("failed read", f"{path}: {error}") from error
  if not stat.S_ISREG(found.st_mode):
    raise types.Unreadable("not a file", path)
  if found.st_size > _LARGEST:
    raise types.Unreadable("file too large", f"{path}: {found.st_size} bytes")
  return path


def _spellings(path: str) -> list[str]:
  """Files whose name is the same text, written in another way."""
  slashed = path.replace("\\", "/")
  forms = {slashed, *(unicodedata.normalize(f, slashed) for f in ("NFC", "NFD"))}
  return sorted(each for each in forms - {path} if os.path.isfile(each))


def meant(path: str, base: str) -> str:
  """The file that a name which does not exist probably means; "" if none does.

  Its name differs in case or in its extension, or it lies in another folder: the
  path has a folder too many at its start, or lacks one.

  Args:
    path: of no file.
    base: the folder in which relative paths start.
  """
  if _storage.is_remote(path) or not os.path.isdir(base):
    return ""
  folder, name = os.path.split(path)
  if os.path.isdir(folder):
    for alike in (_folded, lambda each: _folded(os.path.splitext(each)[0])):
      wanted = (_folded(name), alike(name))
      named = [n for n in sorted(os.listdir(folder)) if alike(n) in wanted]
      pictures = [n for n in named if n.lower().endswith(_tree.PICTURES)]
      if pictures:
        return os.path.join(folder, pictures[0])
  parts = os.path.relpath(path, base).replace("\\", "/").split("/")
  shorter = [os.path.join(base, *parts[n:]) for n in range(1, len(parts))]
  inner = (
      os.path.join(base, each, *parts) for each in sorted(os.listdir(base))[:_LISTED]
  )
  return next((each for each in (*shorter, *inner) if os.path.isfile(each)), "")


def _folded(name: str) -> str:
  return unicodedata.normalize("NFC", name).casefold()


def content(path: str) -> bytes:
  """The content of an image file.

  Raises:
    types.Unreadable: for one of the reasons at the top of this file.
  """
  if not _storage.is_remote(path):
    path = check(path)
  try:
    return _storage.read(path)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise types.Unreadable("missing file", path) from error
  except OSError as error:
    raise types.Unreadable("failed read", f"{path}: {error}") from error



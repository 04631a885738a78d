"""Files of a data set: local ones, and others through fsspec (gs://, s3://, hf://).

A read that fails is tried again before its error is raised: network storage
fails briefly all the time, and a run must not end for it.
"""

import functools
import glob
import hashlib
import itertools
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import IO, Any, TypeVar

import fsspec

from basic import files

T = TypeVar("T")

ATTEMPTS = 4
WAIT_SECONDS = 0.5  # before the second attempt; doubled before each later one
# Another attempt would find the same.
_PERMANENT = (
    FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError,
)
_SAMPLE = 4096  # bytes of each sample of a file's content
_SAMPLED_FILES = 64
_BRACES = re.compile(r"\{([^{}]*)\}")
_BRACKETS = re.compile(r"\[(\d+\.\.\d+)\]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_remote(path: str) -> bool:
  """Whether a path is a URL of fsspec, such as "gs://bucket/file"."""
  return "://" in path


def expand(
    patterns: str | Sequence[str], setting: str = "files", ending: str = ""
) -> tuple[str, ...]:
  """The files that patterns name, in order.

  Args:
    patterns: paths or URLs, with braces ("{0000..0127}.tar", "{a,b}.tar"), which
      name files that must exist, or wildcards ("*.tar"), which find them.
    setting: that has the patterns, for messages.
    ending: of such files, for messages: ".tar".

  Returns:
    Paths: in the order of the patterns, those of one wildcard sorted.

  Raises:
    FileNotFoundError: if a pattern finds no file, or a named file is missing.
    ValueError: if there are no patterns, one is empty or has a "~" or "$NAME"
      that no shell has expanded, a path is a folder, or a file is named twice.
  """
  patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
  if not patterns:
    raise ValueError("found no paths of files; give one or more.")
  for pattern in patterns:
    checked(setting, pattern)
  named = [path for pattern in patterns for path in _braces(pattern)]
  found = [path for name in named for path in _find(name)]
  missing = [path for path in found if not exists(path)]
  if missing:
    raise FileNotFoundError(
        f"{len(missing)} of {len(found)} files do not exist, the first of them "
        f"is {missing[0]}; restore them, or leave them out of the pattern."
        f"{_commas(missing[0])}"
    )
  folder = next((path for path in found if is_folder(path)), None)
  if folder is not None:
    raise ValueError(
        f"{folder} is a folder; name its {setting}: "
        f"'{folder.rstrip('/')}/*{ending}'."
    )
  if len(set(found)) < len(found):
    twice = next(path for path in found if found.count(path) > 1)
    raise ValueError(
        f"the patterns name {twice} twice; its examples would count twice. To "
        "weight data sets, use the source mixture."
    )
  return tuple(found)


def checked(setting: str, path: str) -> str:
  """A path that a setting names, or ValueError if no shell has expanded it."""
  if not is_remote(path):
    files.checked(setting, path)
  return path


def is_folder(path: str) -> bool:
  """Whether a local path is that of a folder; of other storage, False."""
  return not is_remote(path) and os.path.isdir(path)


def _braces(pattern: str) -> list[str]:
  """Expands the braces of a pattern as a shell does, keeping leading zeros."""
  match = _BRACES.search(pattern)
  if match is None:
    return [pattern]
  before, after = pattern[: match.start()], pattern[match.end() :]
  counted = _RANGE.fullmatch(match[1])
  if counted is None:
    choices = match[1].split(",")
  else:
    first, last = counted.groups()
    step = 1 if int(last) >= int(first) else -1
    width = len(first) if len(first) == len(last) or first[0] == "0" else 0
    choices = [
        str(n).zfill(width) for n in range(int(first), int(last) + step, step)
    ]
  rest = _braces(after)
  return [before + choice + end for choice in choices for end in rest]


def _find(name: str) -> list[str]:
  """The files that a wildcard finds; a name without one is itself."""
  if not glob.has_magic(name):
    return [name]
  if is_remote(name):
    system, path = _system(name)
    found = sorted(system.unstrip_protocol(each) for each in system.glob(path))
  else:
    found = sorted(glob.glob(name, recursive=True))
  if not found:
    raise FileNotFoundError(
        f"no file matches {name!r}.{_brackets(name)} If the data has not been "
        "prepared yet, the head of a configuration names the command, and `python -m "
        "basic.prepare` lists all of them."
    )
  return found


def _commas(name: str) -> str:
  """What to do with several paths in one, if all of them exist."""
  parts = [part.strip() for part in name.split(",")]
  if len(parts) < 2 or not all(parts) or not all(map(exists, parts)):
    return ""
  return f" To name several files, give a tuple, ({', '.join(map(repr, parts))})."


def _brackets(name: str) -> str:
  """What to do with a range in brackets, which are a wildcard of one character."""
  braces = _BRACKETS.sub(r"{\1}", name)
  return "" if braces == name else f" A range stands in braces: {braces!r}."


@functools.lru_cache(maxsize=64)
def _system_of(protocol: str) -> Any:
  try:
    return fsspec.filesystem(protocol)
  except (ImportError, ValueError) as error:
    raise ValueError(
        f"files of {protocol}:// cannot be read here: {error}"
    ) from error


def _system(path: str) -> tuple[Any, str]:
  """(the file system of a URL, the path in it)."""
  system = _system_of(path.split("://")[0])
  return system, system._strip_protocol(path)


def exists(path: str) -> bool:
  """Whether a file exists."""
  if is_remote(path):
    system, inner = _system(path)
    return retry(lambda: system.exists(inner), path)
  return os.path.exists(path)


def size(path: str) -> int:
  """Size of a file in bytes.

  Raises:
    FileNotFoundError: if it does not exist.
    OSError: if it cannot be read, after `ATTEMPTS` attempts.
  """
  if is_remote(path):
    system, inner = _system(path)
    return retry(lambda: int(system.size(inner)), path)
  return retry(lambda: os.stat(path).st_size, path)


def open_binary(path: str) -> IO[bytes]:
  """Opens a file for reading.

  Raises:
    FileNotFoundError: if it does not exist.
    OSError: if it cannot be opened, after `ATTEMPTS` attempts.
  """
  if is_remote(path):
    system, inner = _system(path)
    return retry(lambda: system.open(inner, "rb"), path)
  return retry(lambda: open(path, "rb"), path)


def read(path: str, start: int = 0, stop: int | None = None) -> bytes:
  """Reads bytes of a file, by default all.

  Args:
    path: of the file.
    start: offset of the first byte.
    stop: one after the last byte; None: the end of the file.

  Returns:
    The bytes, fewer than asked for where the file ends earlier.

  Raises:
    FileNotFoundError: if it does not exist.
    OSError: if it cannot be read, after `ATTEMPTS` attempts.
  """
  if is_remote(path):
    system, inner = _system(path)
    return retry(lambda: system.cat_file(inner, start=start, end=stop), path)

  def local() -> bytes:
    with open(path, "rb", buffering=0) as file:
      file.seek(start)
      return _read_fully(file, stop and stop - start)

  return retry(local, path)


def _read_fully(file: Any, count: int | None) -> bytes:
  """Reads `count` bytes, or up to the end: one call may return fewer."""
  if count is None:
    return file.readall()
  parts = []
  while count > 0 and (part := file.read(count)):
    parts.append(part)
    count -= len(part)
  return parts[0] if len(parts) == 1 else b"".join(parts)


def retry(action: Callable[[], T], path: str) -> T:
  """Calls `action`, again after an OSError, `ATTEMPTS` times in all.

  A file that does not exist, or may not be read, is not tried again.

  Raises:
    OSError: the last error, with the path and the number of attempts in a note.
  """
  for attempt in itertools.count(1):
    try:
      return action()
    except _PERMANENT:
      raise
    except OSError as error:
      if attempt == ATTEMPTS:
        error.add_note(f"{path} could not be read in {ATTEMPTS} attempts.")
        raise
    time.sleep(WAIT_SECONDS * 2 ** (attempt - 1))
  raise AssertionError  # The loop above returns or raises.


def fingerprint(paths: Sequence[str]) -> str:
  """Hashes names, sizes and samples of the content of the files of a data set.

  The samples are 4 KiB at the start, the middle and the end of at most 64 files
  at equal distances: a data set that was written again with other content is
  found without reading all of it.

  Returns:
    16 hexadecimal digits. They do not depend on the folders of the files.

  Raises:
    OSError: if a file does not exist or cannot be read.
  """
  chosen = set(paths[:: -(-len(paths) // _SAMPLED_FILES) or 1])
  with futures.ThreadPoolExecutor(16) as pool:  # Remote storage has latency.
    parts = pool.map(lambda path: _digest(path, path in chosen), paths)
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _digest(path: str, with_content: bool) -> bytes:
  """Hashes the name and size of a file and, if asked, samples of its content."""
  length = size(path)
  digest = hashlib.sha256(os.fsencode(f"{os.path.basename(path)}\0{length}"))
  if with_content:
    for start in sorted({0, length // 2, max(0, length - _SAMPLE)}):
      digest.update(read(path, start, min(length, start + _SAMPLE)))
  return digest.digest()

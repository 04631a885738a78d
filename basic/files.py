"""Atomic writes of files, and checks of paths that a user gave."""

import errno
import os
import pathlib
import re
import secrets

# What a shell expands in a path.
_FOR_A_SHELL = re.compile(r"~[\w.-]*(/|$)|(.*/)?\$(\w+|\{\w+\})")


def replace(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file atomically: readers find the old content or the new one.

  The content is synced to disk before the file gets its name, and the name before
  this returns, so the file survives a kill and a power failure. If several
  processes write the same file, the last one wins.

  Args:
    path: the file; its folder is created if it does not exist.
    content: the whole content.

  Raises:
    OSError: if it cannot be written; no temporary file is left behind.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   replace(f"{folder}/a.txt", b"all of it")
    ...   print(os.listdir(folder))
    ['a.txt']
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Two hosts may share a folder and a process id.
  temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
  try:
    with open(temporary, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException as error:
    temporary.unlink(missing_ok=True)
    if isinstance(error, OSError) and error.filename is None:
      error.filename = str(path)  # ENOSPC comes without a name.
    raise
  _sync(path.parent)


def checked(name: str, path: str | os.PathLike) -> pathlib.Path:
  """Checks a path that a user gave.

  Args:
    name: name of the setting, for messages: "--workdir".
    path: of a file or folder, which need not exist.

  Returns:
    The path.

  Raises:
    ValueError: if it is empty, or contains an unexpanded "~" or "$NAME", which
      would create folders of those names.

  Example:
    >>> checked("--out", "runs/one").name
    'one'
  """
  text = os.fspath(path)
  if not text.strip():
    raise ValueError(f"{name} is empty; give the path of a file or folder.")
  if "\0" in text:
    raise ValueError(f"{name} is {text!r}; a path cannot contain a null character.")
  if is_for_a_shell(text):
    meant = os.path.expandvars(os.path.expanduser(text))
    raise ValueError(
        f"{name} is {text!r}, whose "
        f"{'~' if text.startswith('~') else '$'} no shell has expanded; give "
        f"{'the folder itself' if is_for_a_shell(meant) else repr(meant)}, or "
        f"write ./{text} if that is its name."
    )
  return pathlib.Path(path)


def folder(name: str, path: str | os.PathLike) -> pathlib.Path:
  """Checks a folder that a command is about to write, and makes nothing.

  Args:
    name: name of the setting, for messages: "--out".
    path: of a folder, which need not exist.

  Returns:
    The path.

  Raises:
    ValueError: as `checked`; if it, or what is above it, is a file; or if
      nothing may be written there.

  Example:
    >>> folder("--out", "runs/one").name
    'one'
  """
  found = checked(name, path)
  whole = found.absolute()
  there = next(each for each in (whole, *whole.parents) if each.exists())
  if not there.is_dir():
    raise ValueError(
        f"{name} is {os.fspath(path)!r}, and {there} is a file; it takes a folder, "
        "which is made if it does not exist."
    )
  if not os.access(there, os.W_OK | os.X_OK):
    raise ValueError(
        f"{name} is {os.fspath(path)!r}, and this user may not write in {there}; "
        "give another folder, or have that one opened."
    )
  return found


def is_for_a_shell(text: str) -> bool:
  """Whether a shell would expand something in this path.

  Example:
    >>> [is_for_a_shell(path) for path in ("~/r1", "$HOME/r1", "./~/r1", "r1~")]
    [True, True, False, False]
  """
  return not text.startswith("./") and bool(_FOR_A_SHELL.match(text))


def _sync(folder: pathlib.Path) -> None:
  """Syncs a folder, so that new names in it survive a power failure."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # Not supported everywhere.
      raise
  finally:
    os.close(descriptor)


def printable(text: str) -> str:
  """A text in which bytes of a file's name that are no UTF-8 are written out.

  Example:
    >>> print(printable("caf\\udce9.png"))
    caf\\udce9.png
  """
  return text.encode("utf-8", "backslashreplace").decode()

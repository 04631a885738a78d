"""Files that are written whole or not at all, and paths that mean what they say."""

import errno
import os
import pathlib
import re
import secrets

# What a shell replaces in front of a path, and a program does not.
_FOR_A_SHELL = re.compile(r"~[\w.-]*(/|$)|(.*/)?\$(\w+|\{\w+\})")


def replace(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file so that a reader finds the old content or the new, never half.

  The content is on disk before the file has its name, and the name is on disk
  before this returns, so neither a kill nor a loss of power tears the file.
  Several processes may write the same file; the last one wins.

  Args:
    path: the file; its folder is made if it is not there.
    content: all of it.

  Raises:
    OSError: if it cannot be written; then nothing is left behind.

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
      error.filename = str(path)  # A full disk does not say which file.
    raise
  _sync(path.parent)


def checked(name: str, path: str | os.PathLike) -> pathlib.Path:
  """A path as it was given, unless a shell was meant to change it first.

  Args:
    name: what the path is called in messages: "--workdir".
    path: of a file or folder; it need not be there.

  Returns:
    The path.

  Raises:
    ValueError: if it is empty, or begins with "~" or holds "$NAME": taken
      literally, both make folders of those names.

  Example:
    >>> checked("--out", "runs/one").name
    'one'
  """
  text = os.fspath(path)
  if not text.strip():
    raise ValueError(f"{name} is empty; give the path of a file or folder.")
  if "\0" in text:
    raise ValueError(f"{name} is {text!r}; a path holds no null character.")
  if is_for_a_shell(text):
    meant = os.path.expandvars(os.path.expanduser(text))
    raise ValueError(
        f"{name} is {text!r}, and no shell has replaced its "
        f"{'~' if text.startswith('~') else '$'} by a folder; give "
        f"{'the folder itself' if is_for_a_shell(meant) else repr(meant)}, or "
        f"write ./{text} if it is really called that."
    )
  return pathlib.Path(path)


def is_for_a_shell(text: str) -> bool:
  """Whether a shell would replace something in this path.

  Example:
    >>> [is_for_a_shell(path) for path in ("~/r1", "$HOME/r1", "./~/r1", "r1~")]
    [True, True, False, False]
  """
  return not text.startswith("./") and bool(_FOR_A_SHELL.match(text))


def _sync(folder: pathlib.Path) -> None:
  """Makes sure that new names in a folder survive a loss of power."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # Not on every system.
      raise
  finally:
    os.close(descriptor)

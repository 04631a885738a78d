"""One run writes into a folder at a time.

The owner keeps `run.lock` open and locked with `flock`. The kernel, or the file
server on a network file system, drops the lock when the owner ends, however it
ends, so a killed run leaves nothing that stands in the way. Whoever only reads
a run takes no lock.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import Any

NAME = "run.lock"
_CANNOT_LOCK = (
    errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL,
)
_log = logging.getLogger(__name__)


class InUseError(RuntimeError):
  """Another process writes into the folder."""


@contextlib.contextmanager
def hold(workdir: str | os.PathLike) -> Iterator[None]:
  """Owns a run's folder inside a `with`.

  On leaving, the lock file is removed, and the folder too if nothing was
  written into it. Where the file system has no locks the log warns, and the
  folder is used without one.

  Args:
    workdir: the folder; made if it is not there.

  Raises:
    InUseError: if another process owns it, or another `hold` in this one; it
      says which process, on which host, since when. Nothing was written.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, hold(folder):
    ...   print(os.listdir(folder))
    ['run.lock']
  """
  folder = pathlib.Path(workdir)
  made = [p for p in (folder, *folder.parents) if not p.exists()]
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / NAME
  descriptor = _locked(path)
  try:
    yield
  finally:
    # Removed while it is still held: see `_locked`.
    path.unlink(missing_ok=True)
    os.close(descriptor)
    with contextlib.suppress(OSError):  # It holds something by now.
      for each in made:
        each.rmdir()


def _locked(path: pathlib.Path) -> int:
  """Opens and locks the file; returns its descriptor."""
  while True:
    # Open for writing: NFS gives an exclusive lock on nothing else.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno not in _CANNOT_LOCK:
        said = _owner(descriptor)
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
          raise InUseError(_refusal(path.parent, said)) from error
        raise
      _log.warning(
          "%s cannot be locked (%s): see to it that no other run uses the "
          "folder", path, error.strerror,
      )
    # The owner before may have removed the file between `open` and `flock`;
    # then this lock is on a file that nobody else can find.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(descriptor), os.stat(path)):
        break
    os.close(descriptor)
  content = json.dumps({
      "pid": os.getpid(), "host": socket.gethostname(),
      "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
  })
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, content.encode() + b"\n", 0)
  return descriptor


def _owner(descriptor: int) -> dict[str, Any]:
  """What the owner wrote of itself; nothing, if it has not come to that yet."""
  try:
    said = json.loads(os.pread(descriptor, 4096, 0))
  except ValueError:
    return {}
  return said if isinstance(said, dict) else {}


def _refusal(folder: pathlib.Path, owner: dict[str, Any]) -> str:
  process = "another process"
  if owner:
    process = (
        f"process {owner.get('pid')} on {owner.get('host')}, since "
        f"{owner.get('since')}"
    )
  return (
      f"{folder} is being written by {process}. Wait until that run ends, or "
      "stop it and start this one again, or give another --workdir. Reading it "
      "with basic.evaluate, basic.report or basic.export is possible meanwhile. "
      "Nothing was changed."
  )

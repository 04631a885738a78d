"""A lock, so that only one process at a time writes into a run's folder.

The owner keeps `run.lock` open and locked with `flock`. The kernel, or the file
server of a network file system, releases the lock when the owner ends, however
it ends, so a killed run leaves no stale lock. Readers of a run take no lock.
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
_held: set[int] = set()  # descriptors of the locks that this process holds


def _close_in_child() -> None:
  """A forked child would keep the lock when its parent is gone."""
  for descriptor in _held:
    os.close(descriptor)  # And no unlock, which would be the parent's too.
  _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


class InUseError(RuntimeError):
  """Another process writes into the folder."""


@contextlib.contextmanager
def hold(workdir: str | os.PathLike) -> Iterator[None]:
  """Holds the lock of a run's folder inside a `with` statement.

  On exit, the lock file is removed, and the folder too if it is empty and was
  created here. If the file system does not support locks, a warning is logged
  and the folder is used without one.

  Args:
    workdir: the folder; created if it does not exist.

  Raises:
    InUseError: if another process holds the lock, or another `hold` in this
      one; names the process, its host, and since when. Nothing was written.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, hold(folder):
    ...   print(os.listdir(folder))
    ['run.lock']
  """
  folder = pathlib.Path(workdir)
  created = [p for p in (folder, *folder.parents) if not p.exists()]
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / NAME
  descriptor = _locked(path)
  _held.add(descriptor)
  try:
    yield
  finally:
    if descriptor in _held:  # Not in a child that was forked meanwhile.
      # Removed while the lock is still held: see `_locked`.
      path.unlink(missing_ok=True)
      _held.remove(descriptor)
      os.close(descriptor)
      with contextlib.suppress(OSError):  # A folder that is not empty stays.
        for each in created:
          each.rmdir()


def _locked(path: pathlib.Path) -> int:
  """Opens and locks the file; returns its descriptor."""
  while True:
    # Opened for writing, which NFS requires for an exclusive lock.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno not in _CANNOT_LOCK:
        owner = _owner(descriptor)
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
          raise InUseError(_refusal(path.parent, owner)) from error
        raise
      _log.warning(
          "%s cannot be locked (%s): make sure that no other run uses the "
          "folder", path, error.strerror,
      )
    # The previous owner may have removed the file between `open` and `flock`;
    # then this lock is on a deleted file, and another process can lock a new one.
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
  """Process, host and start of the owner; empty if not written yet."""
  try:
    content = json.loads(os.pread(descriptor, 4096, 0))
  except ValueError:
    return {}
  return content if isinstance(content, dict) else {}


def _refusal(folder: pathlib.Path, owner: dict[str, Any]) -> str:
  """Says who holds the lock, and what to do."""
  process = "another process"
  if owner:
    process = (
        f"process {owner.get('pid')} on {owner.get('host')}, since "
        f"{owner.get('since')}"
    )
  return (
      f"{folder} is in use by {process}. Wait until that run ends, or stop it "
      "and start this one again, or use another --workdir. basic.evaluate, "
      "basic.report and basic.export can read the folder meanwhile. Nothing was "
      "changed."
  )

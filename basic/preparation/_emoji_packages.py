"""Emoji packages of the npm registry, at pinned versions, read in memory.

The `npm` client fetches them by name from the registry that it is configured
for. A package is used only if its bytes are those that were looked at when this
list was written; nothing of it is run, and nothing is unpacked to disk.
"""

import hashlib
import io
import json
import os
import pathlib
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_MAX_PACKAGE = 64 << 20  # bytes, compressed
_MAX_CONTENT = 512 << 20  # bytes of all files of a package
_TIMEOUT_SECONDS = 600
_GONE = ("E404", "ETARGET", "EUNPUBLISH")


class Package(NamedTuple):
  """A package of the registry.

  Attributes:
    name: with its scope: "@iconify-json/noto".
    version: the pinned one.
    sha256: of its archive, hexadecimal.
  """

  name: str
  version: str
  sha256: str


class Content(NamedTuple):
  """The files of a package that were asked for.

  Attributes:
    package: where they are from.
    files: content by path: {"info.json": b"..."}.
  """

  package: Package
  files: Mapping[str, bytes]

  def json(self, path: str) -> Any:
    """A file of the package as JSON; ValueError if there is no such file."""
    if path not in self.files:
      raise ValueError(
          f"the package {self.package.name} has no file {path!r}; another "
          "version than the pinned one?"
      )
    return json.loads(self.files[path])


def fetch(package: Package, npm: str) -> bytes:
  """Gets the archive of a package with the npm client.

  Args:
    package: what to get.
    npm: the program: its name, or a path.

  Returns:
    The archive, a gzip-compressed tar.

  Raises:
    FileNotFoundError: if there is no such program, or no such package any more.
    OSError: if npm fails otherwise, without a network for example.
    ValueError: if the archive is not the one that was pinned.
  """
  with tempfile.TemporaryDirectory(prefix="emoji-") as folder:
    _pack(package, npm, folder)
    archives = list(pathlib.Path(folder).glob("*.tgz"))
    if len(archives) != 1:
      raise OSError(
          f"`npm pack {package.name}` left {len(archives)} archives, expected one."
      )
    if (size := archives[0].stat().st_size) > _MAX_PACKAGE:
      raise ValueError(
          f"{package.name} has {size} bytes, expected at most {_MAX_PACKAGE}."
      )
    data = archives[0].read_bytes()
  found = hashlib.sha256(data).hexdigest()
  if found != package.sha256:
    raise ValueError(
        f"{package.name} {package.version} has the SHA-256 {found[:16]}..., "
        f"expected {package.sha256[:16]}...: the registry gave other bytes than "
        "those that were checked. Nothing of it was used."
    )
  return data


def _pack(package: Package, npm: str, folder: str) -> None:
  """Runs `npm pack` in a folder."""
  wanted = f"{package.name}@{package.version}"
  command = [npm, "pack", wanted, "--ignore-scripts", "--loglevel=error"]
  try:
    run = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        timeout=_TIMEOUT_SECONDS, stdin=subprocess.DEVNULL,
        env={**os.environ, "NO_COLOR": "1"},
    )
  except FileNotFoundError as error:
    raise FileNotFoundError(
        f"the program {npm!r} is not installed; the pictures come as packages "
        "of the npm registry. Install Node.js, or give --npm=/path/to/npm."
    ) from error
  except subprocess.TimeoutExpired as error:
    raise OSError(
        f"npm did not get {wanted} in {_TIMEOUT_SECONDS} s; check the network "
        "and start the same command again."
    ) from error
  if run.returncode == 0:
    return
  said = run.stderr.strip() or run.stdout.strip() or "nothing"
  if any(code in said for code in _GONE):
    raise FileNotFoundError(
        f"the registry that npm uses has no {wanted} (any more). npm said:\n{said}"
    )
  raise OSError(
      f"npm could not get {wanted}; it needs a network, or a registry that it "
      f"can reach (npm config get registry). npm said:\n{said}"
  )


def read(
    package: Package, archive: bytes, wanted: Callable[[str], bool]
) -> Content:
  """Reads files of a package's archive.

  Args:
    package: where the archive is from.
    archive: a gzip-compressed tar whose files are in one folder.
    wanted: path below that folder -> whether to read the file.

  Returns:
    The files that are wanted.

  Raises:
    ValueError: if the archive is damaged or too large, or has a member that is
      neither file nor folder, or is outside its folder.
  """
  found, total = {}, 0
  try:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
      for member in tar:
        path = _checked(package, member)
        total += member.size
        if total > _MAX_CONTENT:
          raise ValueError(
              f"{package.name} unpacks to more than {_MAX_CONTENT} bytes."
          )
        if member.isfile() and wanted(path):
          content = tar.extractfile(member)
          found[path] = b"" if content is None else content.read()
  except (tarfile.TarError, EOFError, OSError) as error:
    raise ValueError(f"the archive of {package.name} is damaged: {error}") from error
  return Content(package, found)


def _checked(package: Package, member: tarfile.TarInfo) -> str:
  """The path of a member below the archive's folder."""
  parts = pathlib.PurePosixPath(member.name).parts
  if not (member.isfile() or member.isdir()):
    raise ValueError(
        f"{package.name} has the member {member.name!r}, which is neither a file "
        "nor a folder."
    )
  if ".." in parts or member.name.startswith("/"):
    raise ValueError(
        f"{package.name} has the member {member.name!r}, outside its folder."
    )
  return "/".join(parts[1:])


def content(
    package: Package, npm: str, wanted: Callable[[str], bool]
) -> Content:
  """Gets a package and reads files of it; raises as `fetch` and `read`."""
  return read(package, fetch(package, npm), wanted)

"""Opens a run's folder: says what the run is, and lets no other run into it."""

import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from basic import files
from basic.recording import redact

LIBRARIES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy",
)
_LISTED = 20  # differing settings that an error message names


def as_stored(stored: Any) -> Any:
  """The stored configuration as it is; the default of `upgrade`."""
  return stored


def check(
    workdir: str | os.PathLike,
    config: Mapping[str, Any],
    *,
    upgrade: Callable[[Any], Any] = as_stored,
) -> None:
  """Refuses the folder of another run, and writes nothing.

  Args:
    workdir: the folder; it need not be there.
    config: the complete configuration, nested dicts of plain data.
    upgrade: makes of a stored configuration what this version would have
      stored, where settings were renamed or added since.

  Raises:
    ValueError: if the folder holds a run with other settings, or files of a
      run that cannot be read.
    TypeError: if a setting is not plain data.
  """
  folder = pathlib.Path(workdir)
  settings = redact.value("", _plain("", config))
  before = load(folder / "config.json")
  if before is not None:
    _refuse_other(
        folder, redact.value("", _plain("", upgrade(before))), settings
    )
  load(folder / "run.json")


def begin(
    workdir: str | os.PathLike,
    config: Mapping[str, Any],
    *,
    command: Sequence[str],
    upgrade: Callable[[Any], Any] = as_stored,
) -> None:
  """Writes `config.json` and `run.json`, or refuses another run's folder.

  Secrets are hidden in what is written (`redact`), and configurations that
  differ only there count as the same. In a run of several processes all of
  them check and the first one writes. Each start adds its time to "started"
  in `run.json`; a fact that changed since the last start moves to "earlier".

  Args:
    workdir: the folder; made if it is not there.
    config: the complete configuration, nested dicts of plain data.
    command: the command line, one string an argument.
    upgrade: as in `check`.

  Raises:
    ValueError: if the folder holds a run with other settings, or files of a
      run that cannot be read. It is left as it was.
    TypeError: if a setting is not plain data.
  """
  check(workdir, config, upgrade=upgrade)
  if jax.process_index() != 0:
    return
  folder = pathlib.Path(workdir)
  known = load(folder / "run.json") or {}
  folder.mkdir(parents=True, exist_ok=True)
  if not (folder / "config.json").exists():
    settings = redact.value("", _plain("", config))
    files.replace(folder / "config.json", _json(settings))
  facts = {"command": shlex.join(redact.command(command)), **_facts()}
  files.replace(folder / "run.json", _json(_started(known, facts)))


def load(path: pathlib.Path) -> dict[str, Any] | None:
  """Reads one JSON object of a run's folder; None if the file is not there.

  Raises:
    ValueError: if it is there and is not a JSON object.
  """
  try:
    content = json.loads(path.read_bytes())
  except FileNotFoundError:
    return None
  except (ValueError, RecursionError) as error:  # Text that is not UTF-8 too.
    raise ValueError(
        f"{path} is not valid JSON ({error}). Put back the file that the run "
        "wrote, or use another --workdir."
    ) from error
  if not isinstance(content, dict):
    raise ValueError(
        f"{path} holds {json.dumps(content)[:40]} and should hold a JSON object. "
        "Put back the file that the run wrote, or use another --workdir."
    )
  return content


def _json(data: Any) -> bytes:
  text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False)
  return text.encode() + b"\n"


def _plain(path: str, found: Any) -> Any:
  """The form in which JSON gives a setting back."""
  if isinstance(found, Mapping):
    return {
        str(key): _plain(f"{path}/{key}" if path else str(key), each)
        for key, each in found.items()
    }
  if isinstance(found, (list, tuple)):
    return [_plain(f"{path}/{n}", each) for n, each in enumerate(found)]
  if isinstance(found, float) and not math.isfinite(found):
    return str(found)
  if found is None or isinstance(found, (bool, int, float, str)):
    return found
  raise TypeError(
      f"The setting {path} is a {type(found).__name__}. A configuration holds "
      "numbers, strings, booleans, None, and lists and dicts of them."
  )


def _refuse_other(folder: pathlib.Path, before: Any, now: Any) -> None:
  lines = [
      f"  {path or 'all'}: {old} -> {new}"
      for path, old, new in _differences("", before, now)
  ]
  if not lines:
    return
  if len(lines) > _LISTED:
    lines[_LISTED:] = [f"  and {len(lines) - _LISTED} more"]
  listed = "\n".join(lines)
  raise ValueError(
      f"{folder} holds a run with other settings (found -> expected):\n"
      f"{listed}\n"
      "Use another --workdir for a new run, or the settings of config.json in "
      "that folder to continue the run there. Nothing was overwritten."
  )


def _differences(
    path: str, old: Any, new: Any
) -> Iterator[tuple[str, str, str]]:
  """Yields (path, found, expected) for every leaf that is not the same."""
  if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
    old, new = dict(enumerate(old)), dict(enumerate(new))
  if not isinstance(old, dict) or not isinstance(new, dict):
    # 1 and 1.0 and True are equal, but only in Python.
    if json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
      yield path, json.dumps(old), json.dumps(new)
    return
  for key in sorted(old.keys() | new.keys()):
    below = f"{path}/{key}" if path else str(key)
    if key not in new:
      yield below, json.dumps(old[key]), "(absent)"
    elif key not in old:
      yield below, "(absent)", json.dumps(new[key])
    else:
      yield from _differences(below, old[key], new[key])


def _started(
    known: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
  """The content of run.json after one more start."""
  now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
  changed = {n: known[n] for n in facts if n in known and known[n] != facts[n]}
  earlier = known.get("earlier", [])
  if changed:
    earlier = [*earlier, {"until": now, **changed}]
  started = [*known.get("started", []), now]
  return {**facts, "started": started, "earlier": earlier}


def _facts() -> dict[str, Any]:
  """What a run stands on: software, devices, and the commit of this code."""
  versions: dict[str, str | None] = {"python": platform.python_version()}
  for library in LIBRARIES:
    try:
      versions[library] = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
      versions[library] = None
  return {
      "versions": versions,
      "backend": jax.default_backend(),
      "device_kind": jax.devices()[0].device_kind,
      "device_count": jax.device_count(),
      "process_count": jax.process_count(),
      "commit": _commit(),
  }


def _commit() -> str | None:
  """The commit of this code, "-dirty" if edited; None outside its checkout."""
  here = pathlib.Path(__file__)

  def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=here.parent, check=True, timeout=10,
        capture_output=True, text=True,
    ).stdout.strip()

  try:
    # Installed code may lie inside a checkout that is not its own.
    git("ls-files", "--error-unmatch", here.name)
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
  except (OSError, subprocess.SubprocessError):
    return None

"""Writes the metadata of a run into its folder, and keeps other runs out."""

import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
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
# A stage that would lose parameters of the stage before says so with `fresh`,
# also in a run that began before this was asked for. What happens if examples
# cannot be read, and how many threads read them, changes no number of a run.
_MAY_CHANGE = re.compile(
    r"stages/\d+/fresh|unreadable(/.*)?"
    r"|(stages/\d+/)?loader/(threads|workers|prefetch)"
)
_ABSENT = object()  # in place of a setting that one side does not have
_LISTED = 20  # most differing settings listed in an error message


def as_stored(stored: Any) -> Any:
  """Returns the stored configuration unchanged; the default of `upgrade`."""
  return stored


def check(
    workdir: str | os.PathLike,
    config: Mapping[str, Any],
    *,
    upgrade: Callable[[Any], Any] = as_stored,
) -> None:
  """Rejects the folder of another run; writes nothing.

  Args:
    workdir: the folder; it need not exist.
    config: the complete configuration, nested dicts of plain data.
    upgrade: converts a stored configuration to what this version would have
      stored, as settings may have been renamed or added.

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
    shorter: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> None:
  """Writes `config.json` and `run.json`, or rejects another run's folder.

  Secrets are redacted in both files (`redact`), and configurations that differ
  only in secrets count as equal. In a run of several processes all of them
  check and the first one writes. Each start appends its time to "started" in
  `run.json`; values that changed since the last start move to "earlier".

  Args:
    workdir: the folder; created if it does not exist.
    config: the complete configuration, nested dicts of plain data.
    command: the command line, one string per argument.
    upgrade: as in `check`.
    shorter: the configuration that the folder is checked for, where the run is
      made longer; config.json is then replaced. None: `config` itself.
    origin: the run that this one began from; None: as an earlier start recorded
      it, if it did.

  Raises:
    ValueError: if the folder holds a run with other settings, or files of a
      run that cannot be read. The folder is left unchanged.
    TypeError: if a setting is not plain data.
  """
  check(workdir, config if shorter is None else shorter, upgrade=upgrade)
  if jax.process_index() != 0:
    return
  folder = pathlib.Path(workdir)
  previous = load(folder / "run.json") or {}
  folder.mkdir(parents=True, exist_ok=True)
  if shorter is not None or not (folder / "config.json").exists():
    settings = redact.value("", _plain("", config))
    files.replace(folder / "config.json", _json(settings))
  facts = {"command": shlex.join(redact.command(command)), **_facts()}
  kept = {key: previous[key] for key in ("origin", "lengthened") if key in previous}
  if origin is not None:
    kept["origin"] = dict(origin)
  if shorter is not None:
    changes = _differences("", _plain("", shorter), _plain("", config))
    made = {path: f"{old} -> {new}" for path, old, new in changes}
    kept["lengthened"] = [*kept.get("lengthened", []), {"at": _now(), **made}]
  files.replace(folder / "run.json", _json(_started(previous, facts) | kept))


def origin(workdir: str | os.PathLike) -> dict[str, Any] | None:
  """The run that the run in a folder began from, as `begin` recorded it."""
  return (load(pathlib.Path(workdir) / "run.json") or {}).get("origin")


def load(path: pathlib.Path) -> dict[str, Any] | None:
  """Reads a file with one JSON object; None if it does not exist.

  Raises:
    ValueError: if it exists and is not a JSON object.
  """
  try:
    content = json.loads(path.read_bytes())
  except FileNotFoundError:
    return None
  except (ValueError, RecursionError) as error:  # Also if it is not UTF-8.
    raise ValueError(
        f"{path} is not valid JSON ({error}). Restore the file that the run "
        "wrote, or use another --workdir."
    ) from error
  if not isinstance(content, dict):
    raise ValueError(
        f"{path} holds {json.dumps(content)[:40]} instead of a JSON object. "
        "Restore the file that the run wrote, or use another --workdir."
    )
  return content


def _json(data: Any) -> bytes:
  """The content of a JSON file."""
  text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False)
  return text.encode() + b"\n"


def _plain(path: str, setting: Any) -> Any:
  """A setting as it would be after writing and reading JSON."""
  if isinstance(setting, Mapping):
    return {
        str(key): _plain(f"{path}/{key}" if path else str(key), each)
        for key, each in setting.items()
    }
  if isinstance(setting, (list, tuple)):
    return [_plain(f"{path}/{n}", each) for n, each in enumerate(setting)]
  if isinstance(setting, float) and not math.isfinite(setting):
    return str(setting)
  if setting is None or isinstance(setting, (bool, int, float, str)):
    return setting
  raise TypeError(
      f"The setting {path} is a {type(setting).__name__}. A configuration holds "
      "numbers, strings, booleans, None, and lists and dicts of them."
  )


def _refuse_other(folder: pathlib.Path, before: Any, now: Any) -> None:
  """Raises an error that lists the differing settings, if there are any."""
  lines = [
      f"  {path or 'all'}: {old} -> {new}"
      for path, old, new in _differences("", before, now)
      if not _MAY_CHANGE.fullmatch(path)
  ]
  if not lines:
    return
  if len(lines) > _LISTED:
    lines[_LISTED:] = [f"  and {len(lines) - _LISTED} more"]
  listed = "\n".join(lines)
  raise ValueError(
      f"{folder} holds a run with other settings (stored -> given):\n"
      f"{listed}\n"
      "Use another --workdir for a new run, or the settings of config.json in "
      "that folder to continue the run there. Nothing was overwritten."
  )


def _differences(
    path: str, old: Any, new: Any
) -> Iterator[tuple[str, str, str]]:
  """Yields (path, stored value, given value) for every differing setting."""
  if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
    old, new = dict(enumerate(old)), dict(enumerate(new))
  # A group that one side leaves out differs by its settings.
  if isinstance(new, dict) and old is _ABSENT:
    old = {}
  if isinstance(old, dict) and new is _ABSENT:
    new = {}
  if not isinstance(old, dict) or not isinstance(new, dict):
    # In Python 1 == 1.0 == True; as settings they differ.
    if (before := _shown(old)) != (now := _shown(new)):
      yield path, before, now
    return
  for key in sorted(old.keys() | new.keys()):
    below = f"{path}/{key}" if path else str(key)
    yield from _differences(below, old.get(key, _ABSENT), new.get(key, _ABSENT))


def _shown(value: Any) -> str:
  return "(absent)" if value is _ABSENT else json.dumps(value, sort_keys=True)


def _started(
    previous: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
  """The content of run.json after one more start."""
  now = _now()
  changed = {
      n: previous[n] for n in facts if n in previous and previous[n] != facts[n]
  }
  earlier = previous.get("earlier", [])
  if changed:
    earlier = [*earlier, {"until": now, **changed}]
  started = [*previous.get("started", []), now]
  return {**facts, "started": started, "earlier": earlier}


def _now() -> str:
  return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _facts() -> dict[str, Any]:
  """Environment of a run: versions, devices, and the commit of this code."""
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
    # Installed code may lie inside the checkout of another project.
    git("ls-files", "--error-unmatch", here.name)
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
  except (OSError, subprocess.SubprocessError):
    return None

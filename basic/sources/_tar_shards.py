"""Shards with their indexes: found, built where missing, checked, counted."""

import functools
import logging
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from typing import TypeVar

import numpy as np

from basic import files, types
from basic.sources import _storage, _tar_index

T = TypeVar("T")

_THREADS = 16  # Other storage has latency.
_CHECKED = 64  # shards whose content is compared with their index
_KEYS = 1 << 25  # keys compared at once

_log = logging.getLogger(__name__)


def opened(
    paths: Sequence[str], folder: str | None, missing: str
) -> tuple[_tar_index.Shard, ...]:
  """Reads the indexes of shards, and builds those that are missing.

  Args:
    paths: of the shards.
    folder: of the indexes; None: each beside its shard, or else in the cache.
    missing: "build" or "refuse" what has no index.

  Raises:
    FileNotFoundError: if an index is missing and `missing` is "refuse".
    ValueError: if `folder` is no folder, an index is damaged or not of its shard,
      which is found by the size of each shard and the content of 64 of them; or
      as `_tar_index.build`.
    OSError: if a shard cannot be read, or an index cannot be written.
  """
  _check(folder)
  places = {path: _file(path, folder) for path in paths}
  absent = {path: None for path, (_, there) in places.items() if not there}
  if absent and missing == "refuse":
    raise FileNotFoundError(
        f"{len(absent)} of {len(paths)} shards have no index, the first of them "
        f"{next(iter(absent))}; build them: python -m basic.prepare index "
        "--shards=..."
    )
  if absent:
    _log.warning(
        "building the indexes of %d of %d shards in %s; `python -m basic.prepare "
        "index` does it once for all, on all cores", len(absent), len(paths),
        os.path.dirname(places[next(iter(absent))][0]),
    )
  compared = set(paths[:: -(-len(paths) // _CHECKED)])

  def one(path: str) -> _tar_index.Shard:
    file, _ = places[path]
    if path in absent:
      return _tar_index.build(path, file)
    try:
      return _read(path, file, path in compared)
    except ValueError:
      if folder is not None or file == _tar_index.beside(path):
        raise
      return _tar_index.build(path, file)  # The cache is ours.

  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return tuple(pool.map(one, paths))


def _check(folder: str | None) -> None:
  """Refuses what cannot be a folder of indexes."""
  if folder is None:
    return
  files.checked("index", folder)
  if _storage.is_remote(folder) or os.path.isfile(folder):
    kind = "a URL" if _storage.is_remote(folder) else "a file"
    raise ValueError(
        f"index is {folder!r}, which is {kind}; it takes a local folder for the "
        "indexes of all shards."
    )


def _file(path: str, folder: str | None) -> tuple[str, bool]:
  """Where the index of a shard is, or would be built; and whether it is there."""
  beside = _tar_index.beside(path)
  if folder is None and beside is not None and os.path.exists(beside):
    return beside, True
  file = _tar_index.inside(folder or _tar_index.cache(), path)
  return file, os.path.exists(file)


def _read(path: str, file: str, with_content: bool) -> _tar_index.Shard:
  shard = _tar_index.read(path, file)
  if with_content:
    _tar_index.check_content(shard)
  return shard


def prepared(
    paths: Sequence[str], folder: str | None, workers: int
) -> tuple[tuple[_tar_index.Shard, ...], int]:
  """Builds the indexes of shards that have none that fits.

  Args:
    paths: of the shards.
    folder: of the indexes; None: beside a local shard, the cache for others.
    workers: processes, one shard each.

  Returns:
    The shards, and the number of indexes built now.

  Raises:
    ValueError: if some shards cannot be indexed; the others are by then. Before
      that, if `folder` is no folder.
  """
  _check(folder)
  one = functools.partial(_prepared, folder)
  workers = min(workers, len(paths))
  if workers > 1:
    spawn = multiprocessing.get_context("spawn")  # Threads do not survive a fork.
    with futures.ProcessPoolExecutor(workers, spawn) as pool:
      done = list(_with_progress(pool.map(one, paths), len(paths)))
  else:
    done = list(_with_progress(map(one, paths), len(paths)))
  faults = [fault for _, _, fault in done if fault]
  if faults:
    raise ValueError(
        f"{len(faults)} of {len(paths)} shards cannot be indexed, the first of "
        f"them: {faults[0]}"
    )
  shards = tuple(shard for shard, _, _ in done if shard is not None)
  return shards, sum(now for _, now, _ in done)


def _with_progress(done: Iterable[T], total: int) -> Iterator[T]:
  """Logs every half minute how many are done."""
  said = time.monotonic()
  for number, each in enumerate(done, 1):
    if time.monotonic() - said > 30:
      said = time.monotonic()
      _log.warning("%d of %d shards are indexed", number, total)
    yield each


def _prepared(
    folder: str | None, path: str
) -> tuple[_tar_index.Shard | None, bool, str]:
  """(the shard, whether its index was built now, why it cannot be or "")."""
  if folder is not None:
    file = _tar_index.inside(folder, path)
  else:
    file = _tar_index.beside(path) or _tar_index.inside(_tar_index.cache(), path)
  try:
    return _read(path, file, with_content=True), False, ""
  except (FileNotFoundError, ValueError):
    pass  # It is missing, damaged or of another shard: built now.
  try:
    return _tar_index.build(path, file), True, ""
  except (ValueError, OSError) as error:
    notes = getattr(error, "__notes__", ())
    return None, False, " ".join([str(error), *notes])


def repeated_keys(shards: Sequence[_tar_index.Shard]) -> int:
  """The number of keys that occur in more than one shard.

  Memory is bounded: 2**25 keys are compared at once, by parts of their range.
  """
  parts = sum(shard.samples for shard in shards) // _KEYS + 1
  width = 2**64 // parts + 1
  total = 0
  for part in range(parts):
    keys = [_keys(shard, part * width, (part + 1) * width) for shard in shards]
    _, counts = np.unique(np.concatenate(keys), return_counts=True)
    total += int((counts > 1).sum())
  return total


def _keys(shard: _tar_index.Shard, first: int, stop: int) -> np.ndarray:
  """The keys of a shard in a range, each once."""
  found = []
  for begin in range(0, shard.samples, _KEYS):
    rows = _tar_index.read_rows(shard, begin, min(begin + _KEYS, shard.samples))
    keys = rows["key"]
    inside = (keys >= np.uint64(first)) & (keys <= np.uint64(min(stop, 2**64) - 1))
    found.append(keys[inside])
  return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


def totals(shards: Sequence[_tar_index.Shard]) -> types.Counts:
  """What is lost of shards beside their samples: reason -> count."""
  lost: dict[str, int] = {}
  for shard in shards:
    for reason, count in shard.lost.items():
      lost[reason] = lost.get(reason, 0) + count
  return lost

"""Writes any source as ArrayRecord files, which a run reads at random fastest."""

import collections
import dataclasses
import itertools
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from concurrent import futures
from typing import Any

from basic import files, types
from basic.data import array_records
from basic.recording import lock

_PLAN = "converting.json"  # what is done, beside the shards
_ONCE = (
    "The source draws its examples in an order of its own, as a mixture does by its "
    "weights; each example is written once, and the weights are lost. To keep them, "
    "convert its parts, and mix what was written."
)
_AHEAD = 64  # examples read ahead
_log = logging.getLogger(__name__)


def convert(
    *,
    source: types.Source,
    out: str,
    split: str = "train",
    shard: int = 256,
    threads: int = 16,
) -> types.Counts:
  """Writes a source as a data set that `dict(name="tfds", ...)` reads.

  Image files are copied as they are, in the order of the source; captions and
  labels too, and the names of the classes. Examples that cannot be read are
  left out and counted; images are not decoded, so a broken one is found later.
  The data set is whole when its `dataset_info.json` is there, which is written
  last. The same command again goes on where one was stopped.

      python -m basic.prepare convert --source.name=folder \\
          --source.path=pictures --out=data/pictures

  Then train on `source=dict(name="tfds", dataset="data/pictures",
  split="train", text="captions")`, with label="label" if there are labels
  (and most_labels, if an image has several).

  Args:
    source: settings of the source: {"name": "folder", "path": "pictures"}.
    out: the folder of the data set, local; its last part names the data set.
    split: the name of its only split.
    shard: MiB of records after which a file is full, at least 1.
    threads: number of examples that are read at the same time.

  Returns:
    The number of examples, of written ones, of unreadable ones by reason, of
    files and bytes, and of examples whose text_weights were left out: TFDS has
    no place for them. Of a mixture, "order" says that each example is written
    once, whatever its weight.

  Raises:
    ValueError: if `out` holds another data set, is being written, or is no folder
      that can be written; if no example can be read, or two have other fields.
    OSError: if a file cannot be written.
  """
  if "://" in out:
    raise ValueError(
        f"--out is {out}; ArrayRecord files are written to a local folder. Write "
        "there, and copy the folder."
    )
  if shard < 1 or threads < 1 or not re.fullmatch(r"\w+", split):
    raise ValueError(
        f"shard is {shard}, threads is {threads} and split is {split!r}; expected "
        "numbers of at least 1, and a split of letters and digits."
    )
  folder = files.folder("--out", out)
  try:
    with lock.hold(folder):
      return _convert(source, folder, split, shard << 20, threads)
  except lock.InUseError as error:
    raise ValueError(f"{folder} is being written by another process.") from error


@dataclasses.dataclass
class _Done:
  """A complete shard: examples [start, stop) of the source."""

  start: int
  stop: int
  records: int
  size: int
  skipped: dict[str, int]
  weighted: int


def _convert(source, folder: pathlib.Path, split, limit, threads) -> types.Counts:
  job = {
      "examples": len(source), "fingerprint": getattr(source, "fingerprint", None),
      "split": split, "bytes of a shard": limit,
  }
  done = _resume(folder, job)
  how = _layout(source)
  if hasattr(source, "order"):
    _log.warning("%s", _ONCE)
  if not (folder / array_records.METADATA).exists():
    start = done[-1].stop if done else 0
    if start:
      _log.info("%s: going on at example %d of %d", folder, start, len(source))
    _save(folder, job, done)  # Tells that what is written here is ours.
    for path in folder.glob(".part-*.tmp"):
      path.unlink()  # Of a process that was killed.
    for each in _shards(source, folder, how, len(done), start, limit, threads):
      done.append(each)
      _save(folder, job, done)
    _finish(folder, split, how, done)
  return _counts(source, done)


def _layout(source) -> array_records.Layout:
  """What the first readable example holds."""
  classes = tuple(getattr(source, "classes", ()) or ())
  reasons: collections.Counter[str] = collections.Counter()
  for index in range(len(source)):
    try:
      return array_records.layout(source[index], classes)
    except types.Unreadable as error:
      reasons[error.reason] += 1
  raise ValueError(f"none of {len(source)} examples can be read: {dict(reasons)}")


def _shards(
    source, folder, how, number: int, start: int, limit: int, threads: int
) -> Iterator[_Done]:
  """Writes shards, each under its final content or not at all."""
  examples = _read(source, start, threads)
  while start < len(source):
    path = folder / f".part-{number:05}"
    temporary = folder / f"{path.name}.tmp"
    shard = array_records.Shard(temporary)
    skipped: collections.Counter[str] = collections.Counter()
    stop, weighted = start, 0
    while stop < len(source) and shard.size < limit:
      example = next(examples)
      if isinstance(example, types.Unreadable):
        skipped[example.reason] += 1
      else:
        shard.write(_record(example, how, stop))
        weighted += "text_weights" in example
      stop += 1
    shard.close()
    _sync(temporary)
    os.replace(temporary, path)
    yield _Done(start, stop, shard.count, shard.size, dict(skipped), weighted)
    start, number = stop, number + 1


def _read(source, start: int, threads: int) -> Iterator[Any]:
  """Examples in order, or why they cannot be read, some of them ahead."""

  def read(index: int) -> Any:
    try:
      return source[index]
    except types.Unreadable as error:
      return error

  with futures.ThreadPoolExecutor(threads) as pool:
    indices = iter(range(start, len(source)))
    waiting = collections.deque(
        pool.submit(read, index) for index in itertools.islice(indices, _AHEAD)
    )
    try:
      while waiting:
        yield waiting.popleft().result()
        waiting.extend(
            pool.submit(read, index) for index in itertools.islice(indices, 1)
        )
    finally:
      for each in waiting:
        each.cancel()


def _record(example, how: array_records.Layout, index: int) -> bytes:
  try:
    return array_records.record(example, how)
  except ValueError as error:
    error.add_note(f"while writing example {index}")
    raise


def _sync(path: pathlib.Path) -> None:
  with open(path, "rb") as file:
    os.fsync(file.fileno())


def _resume(folder: pathlib.Path, job: dict[str, Any]) -> list[_Done]:
  """The shards that are done; refuses a folder with other data."""
  path = folder / _PLAN
  if not path.exists():
    others = [p.name for p in folder.iterdir() if p.name != lock.NAME]
    if others:
      raise ValueError(
          f"--out {folder} holds {sorted(others)[:5]}, which is no conversion; "
          "give a new folder."
      )
    return []
  try:
    plan = json.loads(path.read_bytes())
    found, done = plan["job"], [_Done(**each) for each in plan["shards"]]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
        f"{path} cannot be read ({error}); remove {folder} and start again."
    ) from error
  changed = [key for key in job if found.get(key) != job[key]]
  if changed:
    raise ValueError(
        f"{folder} holds a conversion of other data or settings: "
        + ", ".join(f"{key} {found.get(key)!r}, now {job[key]!r}" for key in changed)
        + ". Give another folder, or remove it."
    )
  return done


def _save(folder: pathlib.Path, job: dict[str, Any], done: list[_Done]) -> None:
  plan = {"job": job, "shards": [dataclasses.asdict(each) for each in done]}
  files.replace(folder / _PLAN, json.dumps(plan, indent=1).encode())


def _finish(folder: pathlib.Path, split: str, how, done: list[_Done]) -> None:
  """Gives the shards with records their names, then writes the metadata."""
  name = _name(folder)
  full = [(n, each) for n, each in enumerate(done) if each.records]
  for number, (n, _) in enumerate(full):
    path = folder / array_records.shard_name(name, split, number, len(full))
    if not path.exists():  # It has its name if this was interrupted.
      os.replace(folder / f".part-{n:05}", path)
  for path in folder.glob(".part-*"):
    path.unlink()  # Shards without a record.
  array_records.write_metadata(
      folder, name, split, how, [each.records for _, each in full],
      sum(each.size for _, each in full),
  )


def _name(folder: pathlib.Path) -> str:
  """A name for TFDS, from that of a folder: letters, digits, underscores."""
  name = re.sub(r"\W+", "_", folder.resolve().name.lower(), flags=re.ASCII)
  return name if re.match(r"[a-z]", name) else f"data_{name}"


def _counts(source, done: list[_Done]) -> types.Counts:
  reasons: collections.Counter[str] = collections.Counter()
  for each in done:
    reasons.update(each.skipped)
  weighted = sum(each.weighted for each in done)
  return {
      "examples": len(source), "written": sum(each.records for each in done),
      **{f"unreadable/{reason}": n for reason, n in sorted(reasons.items())},
      **({"text_weights left out": weighted} if weighted else {}),
      **({"order": _ONCE} if hasattr(source, "order") else {}),
      "files": sum(each.records > 0 for each in done),
      "bytes": sum(each.size for each in done),
  }

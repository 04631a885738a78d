"""The passes of `filter` over numbered parts of a source, and their files."""

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from basic import types
from basic.data import hashing
from basic.preparation import _features, _folder, _rules
from basic.sources import subset


@runtime_checkable
class Runner(Protocol):
  """Where the passes run; see _local.Local and _beam.Beam."""

  def read(self, title: str, task: Any, numbers: Any) -> dict[str, int]: ...

  def decide(self, task: Any, numbers: Any) -> dict[str, int]: ...

  def tables(self, paths: Any, rules: Any, folder: str) -> None: ...


class Parts(NamedTuple):
  """A source in numbered parts of equal length, with a folder for their files."""

  source: types.Source
  folder: str
  size: int

  def numbers(self) -> range:
    return range(-(-len(self.source) // self.size))

  def bounds(self, number: int) -> tuple[int, int]:
    start = number * self.size
    return start, min(start + self.size, len(self.source))

  def path(self, number: int) -> str:
    return f"{self.folder}/{number:06}.npz"


def begin(parts: Parts, setting: str) -> None:
  """Notes which source the folder is for, or compares it with the one noted.

  Raises:
    ValueError: if the folder holds parts of other data.
  """
  path = f"{parts.folder}/source.json"
  now = {
      "examples": len(parts.source), "part": parts.size,
      "fingerprint": getattr(parts.source, "fingerprint", None),
  }
  try:
    noted = json.loads(_folder.read(path))
  except FileNotFoundError:
    _folder.write(path, json.dumps(now).encode())
    return
  if noted != now:
    raise ValueError(
        f"{parts.folder} holds parts of {setting} with {noted}, which is now "
        f"{now}; give the same, or another folder, or delete this one."
    )


def missing(parts: Parts) -> list[int]:
  """Numbers of the parts that have no file yet."""
  there = _folder.names(parts.folder)
  return [
      number for number in parts.numbers()
      if parts.path(number).rpartition("/")[2] not in there
  ]


def store_features(parts: Parts, number: int) -> Mapping[str, int]:
  """Extracts and stores the features of a part."""
  features = _features.extract(parts.source, *parts.bounds(number))
  _folder.write_arrays(parts.path(number), features._asdict())
  return {}


def store_looks(parts: Parts, number: int) -> Mapping[str, int]:
  """Hashes and stores a part of an evaluation set."""
  found = _features.looks(parts.source, *parts.bounds(number))
  _folder.write_arrays(parts.path(number), found)
  return {}


def evaluation(
    several: Mapping[str, Parts], runner: Runner
) -> tuple[_rules.Evaluation, dict[str, int]]:
  """Hashes of all evaluation sets, and how many of their images have none."""
  looks, images, counts = [], [], {}
  for label, parts in several.items():
    begin(parts, f"evaluation.{label}")
    task = functools.partial(store_looks, parts)
    runner.read(f"hash {label}", task, missing(parts))
    for number in parts.numbers():
      found = _folder.read_arrays(parts.path(number))
      looks.append(found["look"])
      images.append(found["image"])
      for name in ("flat", "unreadable"):
        key = f"evaluation/{label}/{name}"
        counts[key] = counts.get(key, 0) + int(found[name])
  none = hashing.unsigned(())
  return _rules.Evaluation(
      np.unique(np.concatenate([none, *images])),
      np.unique(np.concatenate([none, *looks])),
  ), counts


class Judge(NamedTuple):
  """Decides on a part and stores the decision; sent to every worker.

  Attributes:
    parts: those of the source.
    folder: for the decisions.
    rules: the limits.
    tables: folder of `_rules.load`.
  """

  parts: Parts
  folder: str
  rules: _rules.Rules
  tables: str

  def path(self, number: int) -> str:
    return f"{self.folder}/{number:06}.npz"

  def __call__(self, number: int) -> Mapping[str, int]:
    features = _features.load(self.parts.path(number))
    found = _rules.decide(features, self.rules, *_rules.load(self.tables))
    kept = np.flatnonzero(found.reason == 0)
    masks = _masks(features, found.caption)[kept]
    whole = _masks(features, np.ones(len(found.caption), bool))[kept]
    _folder.write_arrays(self.path(number), {
        "reason": found.reason, "masks": masks,
        "examples": kept + self.parts.bounds(number)[0],
        "whole": np.array((masks == whole).all()),
        "counts": np.array(json.dumps(found.counts)),
    })
    return found.counts


def _masks(features: _features.Features, caption: np.ndarray) -> np.ndarray:
  """The captions of each example as bits of 64-bit words, uint64 [n w]."""
  owner = features.owner()
  place = np.arange(len(owner)) - features.captions[owner]
  words = int(place.max(initial=0)) // 64 + 1
  masks = np.zeros((len(features.reason), words), np.uint64)
  bits = caption.astype(np.uint64) << (place % 64).astype(np.uint64)
  np.bitwise_or.at(masks, (owner, place // 64), bits)
  return masks


def collect(judge: Judge, out: str, report: Mapping[str, Any]) -> dict[str, int]:
  """Joins the decisions on all parts to the files that `subset` reads.

  Args:
    judge: with which they were made.
    out: folder of the files.
    report: more to note in the report.

  Returns:
    The sums of the counts.
  """
  parts = [_folder.read_arrays(judge.path(n)) for n in judge.parts.numbers()]
  counts = _total(json.loads(str(part["counts"])) for part in parts)
  examples = _folder.array_bytes(np.concatenate([p["examples"] for p in parts]))
  captions = None
  if not all(part["whole"] for part in parts):
    width = max(part["masks"].shape[1] for part in parts)
    captions = _folder.array_bytes(np.concatenate([
        np.pad(part["masks"], ((0, 0), (0, width - part["masks"].shape[1])))
        for part in parts
    ]))
    _folder.write(f"{out}/{subset.CAPTIONS}", captions)
  _folder.write(f"{out}/{subset.EXAMPLES}", examples)
  reasons = np.concatenate([part["reason"] for part in parts])
  _folder.write(f"{out}/reasons.npy", _folder.array_bytes(reasons))
  source = judge.parts.source
  whole = {
      "examples": len(source),
      "fingerprint": getattr(source, "fingerprint", None),
      "kept": counts["kept"], "captions": captions is not None,
      "digest": subset.digest(examples, captions),
      "reasons": _rules.REASONS, "rules": judge.rules._asdict(),
      "counts": counts, **report,
  }
  _folder.write(f"{out}/{subset.REPORT}", json.dumps(whole, indent=1).encode())
  return counts


def _total(several) -> dict[str, int]:
  """The sums of counts, in the order of the rules."""
  total: dict[str, int] = {}
  for counts in several:
    for name, count in counts.items():
      total[name] = total.get(name, 0) + count
  order = [
      "examples", *sorted(n for n in total if n.startswith("unreadable/")),
      *_rules.REASONS[2:-1], "captions",
      *(n for n in total if n.startswith("caption/")), _rules.REASONS[-1],
      "kept", "kept captions",
  ]
  return {name: total[name] for name in order}

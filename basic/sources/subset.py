"""A chosen part of the examples and captions of another source.

`python -m basic.prepare filter` writes what it keeps as numbers of examples; this
reads only those, so that filtered data are trained on without a copy of them.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any, SupportsIndex

import numpy as np

from basic import types
from basic.data import damage
from basic.sources import _stable, _storage

# Files of a folder of kept examples.
REPORT = "report.json"
EXAMPLES = "examples.npy"  # int64 [n], ascending
CAPTIONS = "captions.npy"  # uint64 [n w]; bit i % 64 of word i // 64: caption i


def subset(*, source: types.Source, kept: str) -> types.Source:
  """Reads the examples of a source that a filter kept, with the captions it kept.

  Args:
    source: settings of the source that was filtered.
    kept: the folder that `python -m basic.prepare filter --out=...` wrote; local
      or a URL.

  Returns:
    A source of the kept examples in the order of the source, with its fields.
    "text" has the kept captions, "text_weights" and "text_languages" those of
    these.

  Raises:
    FileNotFoundError: if a file of the folder is missing.
    ValueError: if the source is not the one that was filtered, if it draws its
      examples in an order of its own, or if a file of the folder is damaged.
  """
  return _Subset(source, _storage.checked("kept", kept))


def digest(examples: bytes, captions: bytes | None) -> str:
  """Hashes the content of the files of a folder of kept examples."""
  found = hashlib.sha256(examples)
  found.update(b"" if captions is None else captions)
  return found.hexdigest()[:16]


class _Subset:
  """An open folder of kept examples; unpickling opens its files again."""

  def __init__(self, source: types.Source, kept: str):
    self._source, self._kept = source, kept
    self._report = _report(kept)
    _check(self._report, source, kept)
    examples = _storage.read(_file(kept, EXAMPLES))
    captions = (
        _storage.read(_file(kept, CAPTIONS)) if self._report["captions"] else None
    )
    if digest(examples, captions) != self._report["digest"]:
      raise ValueError(
          f"{kept}: {EXAMPLES} or {CAPTIONS} is not what {REPORT} was written "
          "for; one of them is damaged, or the filter was stopped. Run the "
          "filter again, which goes on where it was."
      )
    self._open()

  def _open(self) -> None:
    self._examples = _array(self._kept, EXAMPLES)
    self._captions = (
        _array(self._kept, CAPTIONS) if self._report["captions"] else None
    )
    self.classes = getattr(self._source, "classes", ())
    shards = getattr(self._source, "shards", None)
    if shards is not None:
      first = np.unique(np.searchsorted(self._examples, shards))
      self.shards = tuple(first[first < len(self._examples)].tolist())

  def __getstate__(self) -> tuple[Any, ...]:
    return self._source, self._kept, self._report

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    self._source, self._kept, self._report = state
    self._open()

  @property
  def fingerprint(self) -> str:
    return _stable.fingerprint(
        "subset", getattr(self._source, "fingerprint", None), self._report["digest"]
    )

  @property
  def state(self) -> str | None:
    return getattr(self._source, "state", None)

  def where(self, index: int) -> str:
    """Where the source has an example; "" if it does not say."""
    return damage.where(self._source, int(self._examples[index]))

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    index = _stable.position(index, len(self))
    example = self._source[int(self._examples[index])]
    if self._captions is None or not isinstance(example.get("text"), tuple | list):
      return example
    words = self._captions[index].tolist()
    chosen = [
        i for i in range(len(example["text"])) if words[i // 64] >> i % 64 & 1
    ]
    result = {**example, "text": tuple(example["text"][i] for i in chosen)}
    if "text_weights" in example:
      weights = tuple(example["text_weights"][i] for i in chosen)
      # The kept captions may be those that are never drawn.
      result["text_weights"] = weights if sum(weights) else (1.0,) * len(chosen)
    if "text_languages" in example:
      languages = example["text_languages"]
      result["text_languages"] = tuple(languages[i] for i in chosen)
    return result


def _file(folder: str, name: str) -> str:
  return f"{folder.rstrip('/')}/{name}"


def _report(kept: str) -> Mapping[str, Any]:
  path = _file(kept, REPORT)
  try:
    report = json.loads(_storage.read(path))
  except (FileNotFoundError, NotADirectoryError) as error:
    raise FileNotFoundError(
        f"{path} does not exist; kept is the folder that `python -m basic.prepare "
        "filter --out=FOLDER` wrote, which has one when it is finished."
    ) from error
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}; run the filter again.") from error
  expected = {"examples", "fingerprint", "kept", "captions", "digest"}
  if not isinstance(report, dict) or not expected <= report.keys():
    raise ValueError(
        f"{path} is not the report of a filter; expected the names "
        f"{sorted(expected)}."
    )
  return report


def _check(report: Mapping[str, Any], source: types.Source, kept: str) -> None:
  """Raises ValueError unless the source is the one that was filtered."""
  if hasattr(source, "order"):
    raise ValueError(
        "subset: the source draws its examples in an order of its own, as a "
        "mixture does; filter its parts, and mix the subsets."
    )
  for name, now in (
      ("examples", len(source)),
      ("fingerprint", getattr(source, "fingerprint", None)),
  ):
    if report[name] != now:
      raise ValueError(
          f"{kept} was filtered from a source whose {name} is {report[name]}, and "
          f"that of this source is {now}; give the settings of the source that was "
          "filtered, or filter this one."
      )
  if not report["kept"]:
    raise ValueError(f"{kept} keeps no example; {REPORT} there counts the reasons.")


def _array(folder: str, name: str) -> np.ndarray:
  """An array of the folder; of a local one only what is used is read."""
  path = _file(folder, name)
  if _storage.is_remote(path):
    return np.load(io.BytesIO(_storage.read(path)), allow_pickle=False)
  return np.load(path, mmap_mode="r", allow_pickle=False)

"""Says what a folder looks like that is not what a source expected."""

import collections
import itertools
import os
import re
from collections.abc import Iterator

_LOOKED_AT = 2_000  # files
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".avif")
_TABLES = (".csv", ".tsv", ".jsonl")
_CONVERT = "python -m basic.prepare convert"
_TFRECORD = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$")


def advice(folder: str) -> str:
  """What reads a folder that has no `dataset_info.json`, in a sentence.

  Args:
    folder: exists.
  """
  names = list(itertools.islice(_names(folder), _LOOKED_AT))
  inner = [name for name in names if os.path.basename(name) == "dataset_info.json"]
  if inner:
    found = sorted(os.path.join(folder, os.path.dirname(name)) for name in inner)
    return f"The data set is in {' and '.join(found)}: set `dataset` to that folder."
  if "converting.json" in names:
    return (
        "It is a conversion that has not finished: start the same "
        f"`{_CONVERT}` again."
    )
  kinds = collections.Counter(map(_kind, names))
  reads = {
      "tar": f"dict(name='tar', ...) reads those, or {_CONVERT} converts them",
      "Parquet": f"dict(name='parquet', files='{folder}/*.parquet') reads those",
      "TFRecord": (
          f"{_CONVERT} --source.name=tfrecord --source.files='{folder}/*.tfrecord*' "
          "--out=DIR converts those"
      ),
      "picture": f"dict(name='folder', path='{folder}') reads those",
      "table": f"dict(name='folder', path='{folder}') reads those",
  }
  most = max(reads, key=lambda kind: kinds[kind])  # The first, if as many.
  if kinds[most]:
    return f"It has {kinds[most]} {most} files: {reads[most]}."
  ends = sorted({os.path.splitext(name)[1] or name for name in names})
  return f"It has {ends[:5] if ends else 'no files'}, which no source reads."


def _kind(name: str) -> str:
  lower = name.lower()
  if lower.endswith((".tar", ".tar.gz", ".tgz")):
    return "tar"
  if lower.endswith((".parquet", ".pq")):
    return "Parquet"
  if _TFRECORD.search(lower):
    return "TFRecord"
  if lower.endswith(_PICTURES):
    return "picture"
  return "table" if lower.endswith(_TABLES) else ""


def _names(folder: str) -> Iterator[str]:
  """Names of files, at most two folders deep, without hidden ones."""
  for root, folders, names in os.walk(folder):
    below = os.path.relpath(root, folder)
    depth = 0 if below == "." else below.count("/") + 1
    folders[:] = sorted(each for each in folders if each[0] != ".") * (depth < 2)
    for name in sorted(names):
      if not name.startswith("."):
        yield name if below == "." else f"{below}/{name}"

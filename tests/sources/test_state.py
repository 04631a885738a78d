"""The state of a source changes with every file that it reads, and no other."""

import json
import os
import pickle

import fsspec
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet as pyarrow_parquet

from basic.preparation import filter as command
from basic.sources import (
  _state,
  _tree,
  digits,
  folder,
  labels,
  mixture,
  parquet,
  subset,
)

NAMES = [f"{number}.png" for number in range(4)]


@pytest.fixture
def pictures(tmp_path):
  path = tmp_path / "pictures"
  path.mkdir()
  for number, name in enumerate(NAMES):
    Image.new("RGB", (5, 4), (number, 0, 9)).save(path / name)
  return path


def table(path):
  (path / "a.csv").write_text(
      "filepath,title\n" + "".join(f"{name},a {name}\n" for name in NAMES))


def texts(path):
  for name in NAMES[:3]:
    (path / name).with_suffix(".txt").write_text(f"a {name}")
  (path / "3.json").write_text(json.dumps({"caption": "three"}))


def karpathy(path):
  (path / "k.json").write_text(json.dumps({"images": [
      {"filename": name, "split": "test", "sentences": [{"raw": name}]}
      for name in NAMES
  ]}))


def nothing(path):
  del path


CASES = [
    (table, {}, ["a.csv", *NAMES]),
    (texts, {}, [*NAMES, "0.txt", "2.txt", "3.json"]),
    (karpathy, dict(table="k.json", split="test"), ["k.json", *NAMES]),
    (nothing, dict(layout="pictures"), NAMES),
]


def touched(path):
  """Changes a file as an edit of the same length does."""
  found = os.stat(path)
  os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


@pytest.mark.parametrize(("prepare", "settings", "names"), CASES)
def test_every_file_of_a_folder_counts(pictures, prepare, settings, names):
  prepare(pictures)
  source = folder.folder(path=str(pictures), **settings)
  seen = {source.state}
  assert source.state in seen and pickle.loads(pickle.dumps(source)).state in seen
  for count, name in enumerate(names, 2):
    touched(pictures / name)
    seen.add(source.state)
    assert len(seen) == count, name
  (pictures / "other.md").write_text("not read")
  assert source.state in seen
  os.truncate(pictures / NAMES[2], 7)
  os.utime(pictures / NAMES[2], ns=(1, 1))
  seen.add(source.state)
  (pictures / NAMES[1]).unlink()
  seen.add(source.state)
  assert len(seen) == len(names) + 3


def test_every_file_of_classes_counts(pictures):
  source = folder.folder(path=str(pictures.parent))
  before = source.state
  touched(pictures / NAMES[3])
  assert source.state != before


@pytest.mark.parametrize("in_struct", [False, True])
def test_pictures_that_parquet_names_count(pictures, in_struct):
  column = [{"bytes": None, "path": n} for n in NAMES] if in_struct else NAMES
  file = pictures / "a.parquet"
  pyarrow_parquet.write_table(
      pyarrow.table({"image": column, "text": NAMES}), file, row_group_size=3)
  source = parquet.parquet(files=str(file))
  seen = {source.state, source.state}
  for name in (*NAMES, "a.parquet"):
    touched(pictures / name)
    seen.add(source.state)
  assert len(seen) == 6


def test_remote_files_count_by_what_storage_says(monkeypatch):
  memory = fsspec.filesystem("memory")
  for n in range(3):
    memory.pipe(f"/state/a/{n}.png", b"12345")
  paths = [f"memory://state/a/{n}.png" for n in range(3)]
  paths.append("memory://state/none/x.png")
  before = _state.state(paths)
  assert _state.state(paths) == before
  memory.pipe("/state/a/1.png", b"54321")
  assert _state.state(paths) != before
  memory.rm("/state", recursive=True)


def test_many_files_are_all_looked_at(tmp_path, monkeypatch):
  monkeypatch.setattr(_state, "_TOGETHER", 2)
  monkeypatch.setattr(_state, "_PARTS", 2)
  paths = [str(tmp_path / str(n)) for n in range(9)]
  for path in paths:
    with open(path, "w") as file:
      file.write("x")
  seen = {_state.state(paths)}
  for path in paths:
    touched(path)
    seen.add(_state.state(paths))
  assert len(seen) == 10


def test_wrappers_have_the_state_of_what_they_wrap(pictures, tmp_path):
  source = folder.folder(path=str(pictures.parent))
  scenes = digits.digits(canvas=24, length=4)
  named = labels.labels(source=source)
  mixed = mixture.mixture(
      sources={"a": source, "b": scenes}, fields=("image", "text"))
  kept = tmp_path / "kept"
  command.filter(
      source=source, out=str(kept), workers=1, shorter_side=1, fewest_words=1)
  part = subset.subset(source=source, kept=str(kept))
  assert named.state == part.state == source.state
  before = mixed.state
  touched(pictures / NAMES[0])
  assert named.state == source.state and mixed.state != before
  assert mixture.mixture(sources={"b": scenes}).state is None
  assert labels.labels(source=scenes).state is None


def test_only_captions_that_are_read_count(pictures):
  texts(pictures)
  tree = _tree.Tree(str(pictures))
  assert sorted(tree.files(with_text=False)) == [
      str(pictures / name) for name in NAMES]

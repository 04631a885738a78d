"""Indexes belong to their shards, are found, refused or built, and stay small."""

import logging
import os
import tracemalloc

import numpy as np
import pytest
import tar_shards

from basic import types
from basic.sources import _tar_index, _tar_shards
from basic.sources import tar as module

tar = module.tar


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.mktemp("cache")
  monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
  return folder / "basic" / "tar"


@pytest.fixture
def shard(tmp_path):
  path = tmp_path / "0.tar"
  path.write_bytes(tar_shards.archive(tar_shards.pairs(*range(30))))
  return path


def build(path, index=None):
  return module.build_indexes(shards=str(path), index=index, workers=1)


def test_a_missing_index_is_built_in_the_cache_once(shard, cache, caplog):
  tar(shards=str(shard))
  assert "building the indexes of 1 of 1 shards" in caplog.text
  (file,) = cache.iterdir()
  before = file.stat().st_mtime_ns
  caplog.clear()
  tar(shards=str(shard))
  assert "building" not in caplog.text and file.stat().st_mtime_ns == before
  assert os.listdir(shard.parent) == ["0.tar"]


def test_an_index_beside_the_shard_is_used(shard, cache):
  build(shard)
  assert sorted(os.listdir(shard.parent)) == ["0.tar", "0.tar.index"]
  assert len(tar(shards=str(shard), missing_index="refuse")) == 30
  assert not cache.exists()


def test_a_folder_of_indexes_holds_shards_of_the_same_name(tmp_path):
  for name, numbers in (("a", (1, 2)), ("b", (3, 4, 5))):
    (tmp_path / name).mkdir()
    (tmp_path / name / "0.tar").write_bytes(
        tar_shards.archive(tar_shards.pairs(*numbers))
    )
  folder = str(tmp_path / "indexes")
  assert len(tar(shards=f"{tmp_path}/{{a,b}}/0.tar", index=folder)) == 5
  assert len(os.listdir(folder)) == 2
  source = tar(
      shards=f"{tmp_path}/{{a,b}}/0.tar", index=folder, missing_index="refuse"
  )
  assert source.shards.tolist() == [0, 2]


def test_a_missing_index_may_be_refused(shard):
  with pytest.raises(FileNotFoundError, match="1 of 1 shards have no index"):
    tar(shards=str(shard), missing_index="refuse")


def changed_size(shard):
  shard.write_bytes(shard.read_bytes() + bytes(512))


def changed_content(shard):
  numbers = (99, *range(1, 30))
  shard.write_bytes(tar_shards.archive(tar_shards.pairs(*numbers)))


@pytest.mark.parametrize("change", [changed_size, changed_content])
def test_an_index_of_another_file_is_refused_and_one_in_the_cache_is_replaced(
    shard, change
):
  before = len(shard.read_bytes())
  tar(shards=str(shard))
  build(shard)
  change(shard)
  assert change is changed_size or len(shard.read_bytes()) == before
  with pytest.raises(ValueError, match=r"is not of the shard .*0\.tar .*index"):
    tar(shards=str(shard))
  os.remove(f"{shard}.index")
  assert len(tar(shards=str(shard))) == 30
  assert build(shard)["indexed now"] == 1
  assert len(tar(shards=str(shard))) == 30


def test_the_size_of_every_shard_is_compared(tmp_path, monkeypatch):
  """The content of some is, where there are many."""
  monkeypatch.setattr(_tar_shards, "_CHECKED", 1)
  for name in ("0", "1"):
    (tmp_path / f"{name}.tar").write_bytes(tar_shards.archive(tar_shards.pairs(1)))
  build(f"{tmp_path}/*.tar")
  changed_size(tmp_path / "1.tar")
  with pytest.raises(ValueError, match=r"1\.tar as it is now: \d+ bytes"):
    tar(shards=f"{tmp_path}/*.tar")


@pytest.mark.parametrize("damage", [
    lambda data: b"",
    lambda data: data[:50],
    lambda data: data[:-1],
    lambda data: data + b"\0",
    lambda data: b"[]" + data,
    lambda data: data.replace(b"basic tar index 1", b"basic tar index 2"),
    lambda data: data.replace(b'"patterns"', b'"pattern" '),
    lambda data: b"\xff" + data[1:],
])
def test_a_damaged_index_is_a_sentence(shard, damage):
  build(shard)
  file = shard.parent / "0.tar.index"
  file.write_bytes(damage(file.read_bytes()))
  with pytest.raises(ValueError, match=r"0\.tar\.index is damaged .*again"):
    tar(shards=str(shard))
  assert build(shard)["indexed now"] == 1
  assert len(tar(shards=str(shard))) == 30


def test_damaged_rows_lead_to_no_other_sample(shard):
  build(shard)
  file = shard.parent / "0.tar.index"
  whole, rows = file.read_bytes(), 30 * _tar_index.ROW.itemsize
  for offset in (0, 1, 8, 16, 17):  # of start, key, length; one bit each
    file.write_bytes(tar_shards.flipped(whole, offset - rows))
    source = tar(shards=str(shard))
    assert source[1]["text"] == ("caption 1",)
    try:
      assert source[0]["text"] == ("caption 0",)  # More bytes do no harm.
      assert offset in (16, 17)
    except types.Unreadable as error:
      assert error.reason in (
          "shard differs from its index", "no image", "no caption"
      )


def test_damaged_rows_are_found_where_some_are_left_out(shard):
  shard.write_bytes(tar_shards.archive([*tar_shards.pairs(1, 2), ("x.png", b"x")]))
  build(shard)
  file = shard.parent / "0.tar.index"
  file.write_bytes(tar_shards.flipped(file.read_bytes(), -10))
  source = tar(shards=str(shard))
  with pytest.raises(ValueError, match="another checksum"):
    source[0]


def test_an_index_is_a_line_of_json_and_an_array_that_can_be_mapped(shard):
  build(shard)
  found = _tar_index.read(str(shard), f"{shard}.index")
  assert found.offset % 64 == 0 and found.samples == 30
  rows = np.memmap(found.file, _tar_index.ROW, "r", found.offset)
  assert len(rows) == 30
  data = shard.read_bytes()
  assert rows["start"].tolist() == [
      tar_shards.header(data, f"{n:05}.png") for n in range(30)
  ]


def test_many_combinations_of_extensions_are_refused(shard, monkeypatch):
  monkeypatch.setattr(_tar_index, "_MOST_PATTERNS", 5)
  members = [(f"{n}.{n}.jpg", b"x") for n in range(6)]
  shard.write_bytes(tar_shards.archive(members))
  with pytest.raises(ValueError, match="first dot"):
    tar(shards=str(shard))


def test_rows_are_read_in_pieces(shard, monkeypatch):
  """The piece is smaller than the shard; unusable rows lie in several."""
  members = [
      member for n in range(40)
      for member in tar_shards.pair(n)[: 1 if n % 7 == 3 else 2]
  ]
  shard.write_bytes(tar_shards.archive(members))
  monkeypatch.setattr(_tar_index, "_ROWS", 9)
  source = tar(shards=str(shard))
  usable = [n for n in range(40) if n % 7 != 3]
  assert [source[i]["text"][0] for i in range(len(source))] == [
      f"caption {n}" for n in usable
  ]


def test_keys_in_several_shards_are_counted_whatever_the_pieces(
    tmp_path, monkeypatch
):
  for name, numbers in (("0", range(10)), ("1", range(5, 15)), ("2", (0, 5, 20))):
    (tmp_path / f"{name}.tar").write_bytes(
        tar_shards.archive(tar_shards.pairs(*numbers, 3 if name == "0" else 21))
    )
  expected = len({*range(5, 10), 0, 21})
  assert build(f"{tmp_path}/*.tar")["keys in several shards"] == expected
  monkeypatch.setattr(_tar_shards, "_KEYS", 4)
  assert build(f"{tmp_path}/*.tar")["keys in several shards"] == expected


def test_neither_indexing_nor_reading_loads_a_shard(tmp_path):
  path = tmp_path / "0.tar"
  members = [
      (f"{n:05}.{end}", content) for n in range(64)
      for end, content in (("jpg", bytes([n]) * 500_000), ("txt", b"x"))
  ]
  path.write_bytes(tar_shards.archive(members))
  del members
  tracemalloc.start()
  try:
    source = tar(shards=str(path))
    for index in (0, 63, 31):
      assert source[index]["image"].data[0] == index
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 4_000_000 < path.stat().st_size / 8


def test_opening_logs_no_warning_where_nothing_is_lost(shard, caplog):
  build(shard)
  with caplog.at_level(logging.INFO):
    tar(shards=str(shard))
  assert caplog.text == ""

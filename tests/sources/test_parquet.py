"""Parquet files are read as they were written; damage costs its row group alone."""

import io
import logging
import pickle
import threading
from concurrent import futures

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet as writer

from basic import sources, types
from basic.sources import _row_groups, _storage
from basic.sources import parquet as module

ROWS = 23


def png(number):
  data = io.BytesIO()
  Image.new("RGB", (5, 4), (number, 0, 9)).save(data, "PNG")
  return data.getvalue()


def table(first=0, rows=ROWS, **columns):
  numbers = range(first, first + rows)
  return pyarrow.table({
      "jpg": [png(n) for n in numbers], "caption": [f"caption {n}" for n in numbers],
      **columns,
  })


def opened(*files, **settings):
  return module.parquet(files=tuple(map(str, files)), **settings)


def assert_rows(source, first=0):
  for index in range(len(source)):
    example = source[index]
    assert example["image"].data == png(first + index)
    assert example["text"] == (f"caption {first + index}",)
    assert example["id"] == index


def reason(source, index):
  with pytest.raises(types.Unreadable) as raised:
    source[index]
  return raised.value.reason


@pytest.mark.parametrize("how", [
    {"compression": "none"}, {"compression": "snappy"}, {"compression": "gzip"},
    {"compression": "zstd", "row_group_size": 1}, {"compression": "lz4"},
    {"compression": "brotli", "row_group_size": 7, "data_page_size": 64},
    {"use_dictionary": False, "version": "1.0"}, {"data_page_version": "2.0"},
    {"write_page_checksum": True, "row_group_size": 5},
], ids=str)
def test_files_of_pyarrow_are_read_whole(tmp_path, how):
  writer.write_table(table(), tmp_path / "a.parquet", **how)
  source = opened(tmp_path / "a.parquet")
  assert len(source) == ROWS
  assert_rows(source)
  size = how.get("row_group_size", ROWS)
  assert source.shards.tolist() == list(range(0, ROWS, size))


@pytest.mark.parametrize("kinds", [
    (pyarrow.large_binary(), pyarrow.large_string()),
    (pyarrow.binary(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
    (pyarrow.binary(), pyarrow.binary()),
    (pyarrow.binary(), pyarrow.string_view()),
], ids=str)
def test_columns_may_be_of_several_types(tmp_path, kinds):
  found = table()
  found = found.set_column(0, "jpg", found["jpg"].cast(kinds[0]))
  found = found.set_column(1, "caption", found["caption"].cast(kinds[1]))
  writer.write_table(found, tmp_path / "a.parquet", row_group_size=10)
  assert_rows(opened(tmp_path / "a.parquet"))


def test_files_are_one_source_in_the_order_of_the_pattern(tmp_path):
  for number, rows in enumerate((3, 0, 4, 5)):
    first = sum((3, 0, 4, 5)[:number])
    writer.write_table(
        table(first, rows), tmp_path / f"{number}.parquet", row_group_size=2
    )
  source = opened(f"{tmp_path}/{{0..3}}.parquet")
  assert len(source) == 12 and source.shards.tolist() == [0, 2, 3, 5, 7, 9, 11]
  assert_rows(source)
  assert_rows(opened(f"file://{tmp_path}/*.parquet"))
  assert sources.check(source) == []


@pytest.mark.parametrize("how", ["bytes", "paths"])
def test_files_of_datasets_are_read_whole(tmp_path, how):
  """Hugging Face's layout: struct of bytes and path, names of classes."""
  datasets = pytest.importorskip("datasets")
  datasets.disable_progress_bars()
  rows = []
  for number in range(ROWS):
    (tmp_path / f"{number}.png").write_bytes(png(number))
    bytes_in_row = png(number) if how == "bytes" else None
    rows.append({"bytes": bytes_in_row, "path": f"{number}.png"})
  features = datasets.Features({
      "picture": datasets.Image(), "kind": datasets.ClassLabel(names=["x_y", "z"]),
      "caption": datasets.List(datasets.Value("string")),
  })
  written = datasets.Dataset.from_dict({
      "picture": rows, "kind": [n % 2 for n in range(ROWS)],
      "caption": [[f"a {n}", "", f"b {n}"] for n in range(ROWS)],
  }, features=features)
  path = tmp_path / "train-00000.parquet"
  if how == "bytes":
    written.to_parquet(str(path), batch_size=10)
  else:  # `to_parquet` embeds files; older writers did not.
    writer.write_table(written.data.table, path)
  source = opened(path)
  assert source.classes == ("x y", "z") and len(source) == ROWS
  for number in range(ROWS):
    example = source[number]
    assert example["image"].data == png(number)
    assert example["text"] == (f"a {number}", f"b {number}")
    assert example["label"] == number % 2 and example["label"].dtype == np.int32
  names = opened(path, text="")
  assert names[1]["text"] == ("z",) and names[0]["text"] == ("x y",)


def test_paths_start_at_a_folder(tmp_path):
  (tmp_path / "in").mkdir()
  (tmp_path / "in/0.png").write_bytes(png(0))
  written = pyarrow.table({
      "file_name": ["0.png", "9.png", "..", f"{tmp_path}/in/0.png"],
      "text": ["a"] * 4,
  })
  writer.write_table(written, tmp_path / "a.parquet")
  source = opened(tmp_path / "a.parquet", folder=f"{tmp_path}/in")
  assert source[0]["image"].data == source[3]["image"].data == png(0)
  assert reason(source, 1) == "missing file" and reason(source, 2) == "not a file"
  assert reason(opened(tmp_path / "a.parquet"), 0) == "missing file"


def test_columns_of_captions_have_probabilities(tmp_path):
  made = pyarrow.array([["x", "y"]] + [[]] * (ROWS - 1))
  writer.write_table(table(made=made), tmp_path / "a.parquet")
  source = opened(
      tmp_path / "a.parquet", text=("caption", "made"), weights=(1.0, 4.0)
  )
  assert source[0]["text"] == ("caption 0", "x", "y")
  assert source[0]["text_weights"] == (1.0, 2.0, 2.0)
  assert source[1]["text_weights"] == (1.0,)


def test_bad_rows_are_counted_and_no_other_is_lost(tmp_path):
  written = pyarrow.table({
      "image": [png(0), None, b"", png(3), png(4), png(5)],
      "text": pyarrow.array(
          [b"fine", b"a", b"a", None, b" ", b"\xff"], pyarrow.binary()
      ).view(pyarrow.string()),
      "label": [0, 1, 1, 7, -1, None],
  })
  writer.write_table(written, tmp_path / "a.parquet")
  source = opened(tmp_path / "a.parquet", label="")
  assert source[0]["text"] == ("fine",) and "label" not in source[0]
  assert [reason(source, n) for n in range(1, 6)] == [
      "no image", "empty image", "no caption", "no caption", "caption is not text"
  ]
  floats = written.set_column(2, "label", [[0.0, 1.0, 1.5, 7.0, -1.0, None]])
  writer.write_table(floats, tmp_path / "b.parquet")
  of_pandas = opened(tmp_path / "b.parquet", text="", classes=("a", "b"))
  assert of_pandas[0]["label"] == 0
  assert reason(of_pandas, 2) == "label is not an integer"
  labelled = opened(tmp_path / "a.parquet", text="", classes=("a", "b"))
  assert labelled[0]["text"] == ("a",) and labelled[0]["label"] == 0
  assert [reason(labelled, n) for n in (3, 4, 5)] == [
      "label out of range", "label out of range", "label is not an integer"
  ]


def damaged(path, group, column=0):
  """Overwrites the pages of a column of one row group."""
  found = writer.read_metadata(path).row_group(group).column(column)
  start = found.dictionary_page_offset or found.data_page_offset
  data = bytearray(path.read_bytes())
  size = found.total_compressed_size
  data[start : start + size] = b"\x5a" * size
  path.write_bytes(data)


def test_a_damaged_row_group_is_unreadable_and_the_others_are_read(
    tmp_path, monkeypatch
):
  path = tmp_path / "a.parquet"
  writer.write_table(table(), path, row_group_size=5)
  damaged(path, 2)
  source = opened(path)
  decoded = counted(monkeypatch)
  for index in range(ROWS):
    if 10 <= index < 15:
      assert reason(source, index) == "damaged row group"
    else:
      assert source[index]["image"].data == png(index)
  assert sorted(decoded) == [(0, n) for n in range(5)]  # Each once.


def test_a_changed_bit_is_found_where_pages_have_checksums(tmp_path):
  path = tmp_path / "a.parquet"
  writer.write_table(
      table(), path, row_group_size=5, compression="none", write_page_checksum=True,
      use_dictionary=False,
  )
  data = bytearray(path.read_bytes())
  data[data.index(png(7)) + 60] ^= 1
  path.write_bytes(data)
  source = opened(path)
  assert reason(source, 7) == "damaged row group"
  assert source[12]["image"].data == png(12)


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda data: data[: len(data) // 2], "its end is missing"),
    (lambda data: data[:3], "it has 3 bytes"),
    (lambda data: b"", "it has 0 bytes"),
    (lambda data: b"PK\3\4" + data[4:], "it starts with b'PK"),
    (lambda data: data[:-40] + b"\xff" * 32 + data[-8:], "footer is damaged"),
    (lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1", "footer is damaged"),
])
def test_a_file_without_its_end_is_refused_by_name(tmp_path, change, sentence):
  for name in ("a", "b", "c"):
    writer.write_table(table(), tmp_path / f"{name}.parquet")
  path = tmp_path / "b.parquet"
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(ValueError, match=f"1 of 3 files .*b.parquet: .*{sentence}"):
    opened(f"{tmp_path}/*.parquet")


def test_a_file_that_loses_its_end_later_is_counted(tmp_path):
  path = tmp_path / "a.parquet"
  writer.write_table(table(), path, row_group_size=5)
  source = opened(path)
  path.write_bytes(path.read_bytes()[:200])
  assert {reason(source, index) for index in (0, 22)} == {"failed read"}
  with pytest.raises(ValueError, match="no whole Parquet files"):
    pickle.loads(pickle.dumps(source))


def test_wrong_starts_are_refused_in_a_sentence(tmp_path):
  path = tmp_path / "a.parquet"
  writer.write_table(table(), path)
  with pytest.raises(ValueError, match=r"no column 'alt'; it has \['jpg'"):
    opened(path, text="alt")
  with pytest.raises(ValueError, match="no column 'nothing'"):
    opened(path, image="nothing")
  with pytest.raises(ValueError, match="memory is 0"):
    opened(path, memory=0)
  with pytest.raises(ValueError, match="channels is 2"):
    opened(path, channels=2)
  with pytest.raises(FileNotFoundError, match="no file matches"):
    opened(f"{tmp_path}/*.pq")
  writer.write_table(table().drop(["caption"]), tmp_path / "b.parquet")
  with pytest.raises(ValueError, match=r"b.parquet has no column 'caption'"):
    opened(f"{tmp_path}/*.parquet")
  with pytest.raises(ValueError, match=r"\['jpg'\].*captions: set `text`"):
    opened(tmp_path / "b.parquet")
  writer.write_table(table(rows=0), path)
  with pytest.raises(ValueError, match="has no rows"):
    opened(path)
  for name, column in (("jpg", list(range(ROWS))), ("caption", [1.5] * ROWS)):
    writer.write_table(table(**{name: column}), tmp_path / "c.parquet")
    writer.write_table(table(), path)
    with pytest.raises(ValueError, match=f"{name!r} of .*c.parquet holds"):
      opened(path, tmp_path / "c.parquet")
  writer.write_table(table(jpg=list(range(ROWS))), path)
  with pytest.raises(ValueError, match="holds integers; expected the content"):
    opened(path)
  twice = pyarrow.Table.from_arrays(
      [*table().columns, table()["jpg"]], ["jpg", "caption", "jpg"]
  )
  writer.write_table(twice, path)
  with pytest.raises(ValueError, match="column 'jpg' twice"):
    opened(path)
  writer.write_table(table(label=[0] * ROWS).drop(["caption"]), path)
  with pytest.raises(ValueError, match="set `text` or `classes`"):
    opened(path)


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"info": {"features": 3}}'])
def test_metadata_of_hugging_face_that_is_broken_is_left_out(tmp_path, text, caplog):
  written = table().replace_schema_metadata({"huggingface": text})
  writer.write_table(written, tmp_path / "a.parquet")
  assert_rows(opened(tmp_path / "a.parquet"))
  assert "is not used" in caplog.text


def counted(monkeypatch):
  """Records which row groups are decoded."""
  calls, real = [], _row_groups.RowGroups._decode

  def decode(self, file, group):
    calls.append((file, group))
    return real(self, file, group)

  monkeypatch.setattr(_row_groups.RowGroups, "_decode", decode)
  return calls


def test_a_row_decodes_its_row_group_and_needed_columns_alone(tmp_path, monkeypatch):
  writer.write_table(
      table(large=["x" * 10_000] * ROWS), tmp_path / "a.parquet", row_group_size=5
  )
  read, real = [], _storage.read

  def reading(path, start=0, stop=None):
    data = real(path, start, stop)
    read.append(len(data))
    return data

  source = opened(tmp_path / "a.parquet")
  decoded = counted(monkeypatch)
  monkeypatch.setattr(_storage, "read", reading)
  assert source[12]["text"] == ("caption 12",) and source[13]["id"] == 13
  assert decoded == [(0, 2)]
  assert source._groups.table(0, 2).column_names == ["jpg", "caption"]


def test_row_groups_are_forgotten_when_memory_is_used_up(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)
  written = pyarrow.table({
      "jpg": [rng.bytes(200_000) for _ in range(40)], "caption": ["a"] * 40
  })
  writer.write_table(written, tmp_path / "a.parquet", row_group_size=1)
  source = opened(tmp_path / "a.parquet", memory=1)  # Five of these row groups.
  decoded = counted(monkeypatch)
  for index in (*range(40), 39, 38, 0):
    assert source[index]["image"].data == written["jpg"][index].as_py()
    assert source._groups.nbytes <= 1 << 20
  assert [group for _, group in decoded] == [*range(40), 0]
  for index in (10, 11, 12, 13, 14, 10, 15, 10):  # 11 is the one not used longest.
    source[index]
  assert [group for _, group in decoded[41:]] == [10, 11, 12, 13, 14, 15]
  assert len(source._groups._kept) <= 6


def test_threads_that_want_the_same_row_group_decode_it_once(tmp_path, monkeypatch):
  writer.write_table(table(), tmp_path / "a.parquet", row_group_size=12)
  source = opened(tmp_path / "a.parquet")
  decoded, gate = counted(monkeypatch), threading.Barrier(8)

  def read(index):
    gate.wait()
    return source[index]["image"].data

  with futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(read, range(8))) == [png(n) for n in range(8)]
  assert decoded == [(0, 0)]


def test_a_read_that_fails_is_tried_again_and_counted_if_it_keeps_failing(
    tmp_path, monkeypatch
):
  writer.write_table(table(), tmp_path / "a.parquet", row_group_size=5)
  source = opened(tmp_path / "a.parquet")
  source[0]
  real = _storage.read

  def failing(path, start=0, stop=None):
    raise OSError(5, "planted")

  monkeypatch.setattr(_storage, "read", failing)
  assert reason(source, 6) == "failed read"
  assert source[1]["text"] == ("caption 1",)  # It is in memory.
  monkeypatch.setattr(_storage, "read", real)
  assert source[6]["text"] == ("caption 6",)


def test_large_row_groups_are_advised_against(tmp_path, monkeypatch, caplog):
  writer.write_table(table(), tmp_path / "a.parquet")
  with caplog.at_level(logging.WARNING):
    opened(tmp_path / "a.parquet")
    assert not caplog.messages
    monkeypatch.setattr(module, "_LARGE", 100)
    opened(tmp_path / "a.parquet")
  assert "is decoded whole for one row" in caplog.text


def test_a_copy_is_small_and_refuses_files_that_changed(tmp_path):
  path = tmp_path / "a.parquet"
  writer.write_table(table(), path)
  source = opened(path)
  source[0]
  copy = pickle.dumps(source)
  assert len(copy) < 1000
  assert pickle.loads(copy).fingerprint == source.fingerprint
  writer.write_table(table(1), path)
  assert opened(path).fingerprint != source.fingerprint
  with pytest.raises(ValueError, match="changed since"):
    pickle.loads(copy)


def test_changed_bytes_are_errors_in_words_or_unreadable(tmp_path):
  """Any other exception would end a run, a crash would end everything."""
  whole, path = tmp_path / "whole.parquet", tmp_path / "a.parquet"
  writer.write_table(table(rows=6), whole, row_group_size=3, compression="snappy")
  data, rng = whole.read_bytes(), np.random.default_rng(0)
  found = {"refused": 0, "unreadable": 0}
  for _ in range(150):
    changed = bytearray(data)
    for at in rng.integers(len(data), size=rng.integers(1, 4)):
      changed[at] = rng.integers(256)
    path.write_bytes(changed)
    try:
      source = opened(path, image="jpg", text="caption")
    except ValueError:
      found["refused"] += 1
      continue
    for index in range(len(source)):
      try:
        source[index]
      except types.Unreadable:
        found["unreadable"] += 1
  assert min(found.values()) > 0, found

"""What cannot be read is named by its file or record, wherever a run reports it."""

import json
import re
import tarfile

import numpy as np
import pyarrow
import pytest
import tar_shards
from PIL import Image
from pyarrow import parquet as parquet_file

from basic import cli, types
from basic.data import captions, damage, examples, images, pipeline
from basic.pages import unreadable
from basic.preparation import check
from basic.recording import quarantine
from basic.sources import folder, labels, mixture, parquet, tar, tfrecord


def colored(path, number):
  path.parent.mkdir(exist_ok=True, parents=True)
  Image.new("RGB", (5, 4), (number, 0, 255)).save(path)


def in_folder(tmp_path):
  for number in range(5):
    colored(tmp_path / f"class {number // 3}" / f"{number}.png", number)
  return folder.folder(path=str(tmp_path)), lambda where: Image.open(where)


def in_a_table(tmp_path):
  for number in range(5):
    colored(tmp_path / f"{number}.png", number)
  lines = ["file_name,caption", *(f"{n}.png,a {n}" for n in (3, 0, 4, 1, 2))]
  (tmp_path / "t.csv").write_text("\n\n".join(lines))

  def read(where):
    path, row = re.fullmatch(r"(.*), row (\d+) of .*/t\.csv", where).groups()
    rows = [line for line in (tmp_path / "t.csv").read_text().split("\n") if line]
    assert rows[int(row)].startswith(path.rpartition("/")[2] + ",")
    return Image.open(path)

  return folder.folder(path=str(tmp_path)), read


def in_tar(tmp_path):
  """The second sample of each shard has no caption, and is left out."""
  for shard, numbers in (("a", (7, 8, 9)), ("b", (3, 4, 5))):
    members = [m for m in tar_shards.pairs(*numbers) if m[0] != f"{numbers[1]:05}.txt"]
    (tmp_path / f"{shard}.tar").write_bytes(tar_shards.archive(members))

  def read(where):
    path, key = where.split(" key ")
    return Image.open(tarfile.open(path).extractfile(f"{key}.png"))

  return tar.tar(shards=f"{tmp_path}/*.tar"), read


def in_parquet(tmp_path):
  for file in range(2):
    numbers = range(7 * file, 7 * file + 7)
    parquet_file.write_table(pyarrow.table({
        "jpg": [tar_shards.png(n) for n in numbers], "caption": ["x"] * 7,
    }), tmp_path / f"{file}.parquet", row_group_size=3)

  def read(where):
    path, group, row = re.fullmatch(r"(.*) row group (\d+) row (\d+)", where).groups()
    found = parquet_file.ParquetFile(path).read_row_group(int(group))
    return Image.open(pyarrow.BufferReader(found["jpg"][int(row)].as_py()))

  return parquet.parquet(files=f"{tmp_path}/*.parquet"), read


@pytest.mark.parametrize("make", [in_folder, in_a_table, in_tar, in_parquet])
def test_the_place_of_an_example_holds_what_another_library_finds_there(
    tmp_path, make
):
  source, read = make(tmp_path)
  assert len(source) > 3
  places = [source.where(index) for index in range(len(source))]
  assert len(set(places)) == len(places)
  for index, place in enumerate(places):
    found = np.asarray(read(place))
    np.testing.assert_array_equal(np.asarray(source[index]["image"]), found)


def test_a_record_is_named_by_its_file_and_number(tmp_path):
  google_crc32c = pytest.importorskip("google_crc32c")
  from tensorflow_datasets.proto import tf_example_generated_pb2 as proto

  def framed(data):
    parts = []
    for part in (len(data).to_bytes(8, "little"), data):
      crc = google_crc32c.value(part)
      masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
      parts += [part, masked.to_bytes(4, "little")]
    return b"".join(parts)

  for file in range(2):
    content = b""
    for number in range(3):
      message = proto.Example()
      features = message.features.feature
      features["jpg"].bytes_list.value.append(tar_shards.png(number))
      features["caption"].bytes_list.value.append(f"{file} {number}".encode())
      content += framed(message.SerializeToString())
    (tmp_path / f"{file}.tfrecord").write_bytes(content)
  source = tfrecord.tfrecord(files=f"{tmp_path}/*.tfrecord")
  for index in range(6):
    file, number = source[index]["text"][0].split()
    assert source.where(index) == f"{tmp_path}/{file}.tfrecord record {number}"


def test_a_sample_that_is_no_longer_there_is_named_by_its_number(tmp_path):
  path = tmp_path / "a.tar"
  path.write_bytes(tar_shards.archive(tar_shards.pairs(0, 1)))
  source = tar.tar(shards=str(path))
  path.write_bytes(path.read_bytes()[:700])
  assert source.where(1) == f"{path} sample 1"


def test_a_row_that_is_none_is_named_by_its_number_in_the_table(tmp_path):
  colored(tmp_path / "0.png", 0)
  (tmp_path / "t.csv").write_text("file_name,caption\n0.png,a\n0.png,a,b\n")
  source = folder.folder(path=str(tmp_path))
  assert source.where(1) == f"row 2 of {tmp_path}/t.csv"


class Named(list):
  """Examples in memory, with places."""

  fingerprint = "1"
  classes = ("ant", "bee")

  def where(self, index):
    return f"shelf {index}"


def test_sources_of_sources_pass_the_place_on():
  example = {"text": ("a",), "label": np.int32(1)}
  named, nameless = Named([example] * 3), [example] * 2
  assert labels.labels(source=named).where(2) == "shelf 2"
  both = mixture.mixture(
      sources={"b": named, "a": nameless}, fields=("text",))
  assert [both.where(n) for n in range(5)] == [
      "a: example 0", "a: example 1", "b: shelf 0", "b: shelf 1", "b: shelf 2"]


def test_a_place_that_cannot_be_had_does_not_end_a_run():
  class Wrong(Named):
    def where(self, index):
      raise KeyError(index)

  class Constant(Named):
    where = "a shelf"

  error = types.Unreadable("torn")
  assert damage.failure(Wrong(), 3, error).said == (
      "example 3 (where(3) raised KeyError: 3): torn")
  assert damage.failure(Constant(), 3, error).said == "example 3: torn"
  assert damage.failure([], 3, error).said == "example 3: torn"


@pytest.fixture
def torn(tmp_path):
  """Twelve pictures, of which number 5 is cut off within its pixels."""
  rng = np.random.default_rng(0)
  for number in range(12):
    path = tmp_path / "pictures" / f"class {number % 2}" / f"{number:02}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(path)
  bad = tmp_path / "pictures" / "class 1" / "05.png"
  bad.write_bytes(bad.read_bytes()[:1500])
  return str(tmp_path / "pictures"), str(bad)


@pytest.mark.parametrize("workers", [0, 2])
def test_log_list_and_page_of_a_run_have_the_file(torn, tmp_path, caplog, workers):
  path, bad = torn
  prepare = examples.prepare(
      tokenize=None, augment=images.augment(size=8, crop="random"))
  with pipeline.stream(
      folder.folder(path=path), prepare=prepare, batch_size=12, seed=0,
      threads=1, workers=workers,
  ) as batches:
    next(batches)
    failures = batches.failures
  assert failures and {failure.where for failure in failures} == {bad}
  assert f"({bad}): truncated image" in caplog.text
  quarantine.Quarantine(tmp_path).add("1", failures)
  (row,) = quarantine.read(tmp_path)
  assert row["where"] == bad
  assert f"<td>{bad}</td>" in unreadable.section([], [row])
  _, sentence = damage.add(
      damage.Tally(), [(0, failures[0])], 12, damage.Limit(0, 12))
  assert sentence.endswith(f"\n  {failures[0].said}") and bad in failures[0].said


def test_a_check_has_one_file_of_each_reason(torn, caplog):
  path, bad = torn
  other = f"{path}/class 0/10.png"
  with open(other, "wb"):
    pass
  with pytest.raises(cli.DamagedData, match="17% of the 12 examples"):
    check.check(source=folder.folder(path=path), examples=12)
  assert f"({bad}): truncated image: " in caplog.text
  assert f"({other}): empty image" in caplog.text


def test_whoever_opens_unreadable_data_is_told_the_file(tmp_path):
  class Blank(Named):
    def __getitem__(self, index):
      raise types.Unreadable("no caption")

  source = Blank([0] * 3)
  with pytest.raises(ValueError, match=r"example 0 \(shelf 0\): no caption"):
    list(captions.spread(source, 3, caption=None, seed=0))
  with pytest.raises(ValueError, match=r"example 2 \(shelf 2\): no caption"):
    mixture.mixture(sources={"a": source})
  colored(tmp_path / "0.png", 0)
  (tmp_path / "t.csv").write_text("file_name,caption\n0.png, \n")
  with pytest.raises(ValueError, match=r"0\.png, row 1 of .*/t\.csv\): no caption"):
    folder.folder(path=str(tmp_path))


def test_any_other_error_has_the_file_too(torn):
  path, _ = torn

  def prepare(example, rng):
    raise KeyError("planted")

  with pytest.raises(KeyError) as raised:
    examples.read(folder.folder(path=path), prepare, 0, None)
  assert raised.value.__notes__ == [
      f"while reading example 0 of 12 ({path}/class 0/00.png)"]


def test_lists_of_older_runs_are_read_without_places(tmp_path):
  old = {"index": 1, "reason": "torn", "message": "torn", "source": "a"}
  (tmp_path / quarantine.NAME).write_text(json.dumps(old) + "\n")
  (row,) = quarantine.read(tmp_path)
  assert row == {**old, "where": ""}
  listed = quarantine.Quarantine(tmp_path)
  assert not listed.new("a", 1)
  assert "<td>torn</td>" in unreadable.section([], [row])

"""What is converted is read back the same, in order, or it is not taken for whole."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image
from tensorflow_datasets.core import example_serializer

from basic import prepare, types
from basic.data import array_records, decoding
from basic.preparation import convert as module
from basic.sources import folder as folders
from basic.sources import mixture, shapes, tfds

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS = 11


class Listed:
  """Examples of a list, of which some may be errors."""

  def __init__(self, examples, classes=(), fingerprint="1f"):
    self.examples = examples
    self.classes = classes
    self.fingerprint = fingerprint

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, index):
    if isinstance(self.examples[index], Exception):
      raise self.examples[index]
    return self.examples[index]


def example(number, **fields):
  image = decoding.Encoded(b"\xff\xd8\xff" + bytes([number]) * 700_000)
  return {"image": image, "text": (f"caption {number}", "ä"), **fields}


def converted(source, out, **settings):
  return module.convert(source=source, out=str(out), **settings)


def opened(out, **settings):
  return tfds.tfds(dataset=str(out), split="train", **settings)


@pytest.fixture
def pictures(tmp_path):
  """A folder of pictures with a CSV of captions, labels, and bad rows."""
  path = tmp_path / "pictures"
  path.mkdir()
  rows = [["file_name", "caption", "label"]]
  for number in range(ROWS):
    name = f"{number}.{('png', 'jpg', 'webp')[number % 3]}"
    Image.new("RGB", (5, 4), (number, 0, 9)).save(path / name)
    rows.append([name, f"caption {number}", ("red_ant", "bee")[number % 2]])
  rows += [["9.none", "a", "bee"], ["0.png", "", "bee"]]
  with open(path / "table.csv", "w", newline="") as file:
    csv.writer(file).writerows(rows)
  return path


def test_a_converted_folder_is_read_back_the_same(pictures, tmp_path, capsys):
  out = tmp_path / "Own pictures"
  prepare.main([
      "convert", "--source.name=folder", f"--source.path={pictures}",
      f"--out={out}", "--json",
  ])
  counts = json.loads(capsys.readouterr().out)
  assert counts == {
      "examples": ROWS + 2, "written": ROWS, "unreadable/missing file": 1,
      "unreadable/no caption": 1, "files": 1, "bytes": counts["bytes"],
  }
  assert (out / "own_pictures-train.array_record-00000-of-00001").exists()
  before, after = folders.folder(path=str(pictures)), opened(
      out, text="captions", label="label"
  )
  assert len(after) == ROWS and after.classes == before.classes == ("bee", "red ant")
  for index in range(ROWS):
    one, two = before[index], after[index]
    assert one["image"].data == two["image"].data
    assert one["text"] == two["text"] and one["label"] == two["label"]


def test_records_are_those_that_tfds_writes(pictures):
  source = folders.folder(path=str(pictures))
  how = array_records.layout(source[0], source.classes)
  features = tensorflow_datasets.features.FeaturesDict(array_records._features(how))
  serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
  for index in range(ROWS):
    found = source[index]
    expected = serializer.serialize_example(features.encode_example({
        "image": found["image"].data, "captions": list(found["text"]),
        "label": int(found["label"]),
    }))
    parse = array_records._proto.Example.FromString
    assert parse(array_records.record(found, how)) == parse(expected)


def test_pixels_become_files_without_loss(tmp_path):
  source = shapes.shapes(length=6, canvas=32)
  converted(source, tmp_path / "a")
  after = opened(tmp_path / "a", text="captions", label="label")
  assert after.classes == source.classes
  for index in range(6):
    np.testing.assert_array_equal(after[index]["image"], source[index]["image"])
    assert after[index]["text"] == source[index]["text"]
  grey = [{"image": np.arange(12, dtype=np.uint8).reshape(3, 4, 1), "text": "a"}]
  converted(Listed(grey), tmp_path / "b")
  read = opened(tmp_path / "b", text="captions", channels=1)
  np.testing.assert_array_equal(read[0]["image"], grey[0]["image"])


def test_several_labels_and_labels_without_names(tmp_path):
  several = [
      example(0, label=np.array([1, 0, -1], np.int32)),
      example(1, label=np.array([-1, -1, -1], np.int32)),
  ]
  converted(Listed(several, ("a", "b")), tmp_path / "several")
  after = opened(
      tmp_path / "several", text="captions", label="label", most_labels=3
  )
  for index, each in enumerate(several):
    np.testing.assert_array_equal(after[index]["label"], each["label"])
  one = [{"image": example(0)["image"], "label": np.int32(7)}]
  converted(Listed(one), tmp_path / "one")
  with pytest.raises(ValueError, match="gives no captions"):
    opened(tmp_path / "one", label="label")


def test_weights_of_captions_are_left_out_and_said(tmp_path):
  source = Listed([example(n, text_weights=(1.0, 2.0)) for n in range(3)])
  assert converted(source, tmp_path / "a")["text_weights left out"] == 3


def test_files_are_full_at_their_size_and_in_order(tmp_path):
  source = Listed([example(n) for n in range(ROWS)])
  counts = converted(source, tmp_path / "a", shard=2)
  assert counts["files"] == 4 and counts["written"] == ROWS
  read = opened(tmp_path / "a", text="captions")
  assert [read[n]["text"][0] for n in range(ROWS)] == [
      f"caption {n}" for n in range(ROWS)
  ]
  info = json.loads((tmp_path / "a" / array_records.METADATA).read_text())
  assert info["splits"][0]["shardLengths"] == ["3", "3", "3", "2"]


class Stops(Listed):
  """Ends the process of converting, as a kill would, at one example."""

  def __init__(self, *arguments, at, **named):
    super().__init__(*arguments, **named)
    self.at = at
    self.read = []

  def __getitem__(self, index):
    self.read.append(index)
    if index == self.at:
      raise KeyboardInterrupt
    return super().__getitem__(index)


@pytest.mark.parametrize("at", [0, 2, 3, 8, 10])
def test_a_conversion_that_was_stopped_goes_on_and_is_whole_only_then(
    tmp_path, monkeypatch, at
):
  monkeypatch.setattr(module, "_AHEAD", 1)
  examples = [example(n) for n in range(ROWS)]
  examples[1] = types.Unreadable("missing file")
  out = tmp_path / "a"
  with pytest.raises(KeyboardInterrupt):
    converted(Stops(examples, at=at), out, shard=2)
  assert not (out / array_records.METADATA).exists()
  with pytest.raises((FileNotFoundError, ValueError)):
    opened(out, text="captions")
  again = Stops(examples, at=None)
  counts = converted(again, out, shard=2)
  shards = [0, 0, 0, 0, 4, 4, 4, 7, 7, 7, 10]  # first example of its shard
  assert min(set(again.read) - {0}) == max(1, shards[at])  # 0 tells the fields
  assert counts == converted(Listed(examples), tmp_path / "b", shard=2)
  for name in os.listdir(tmp_path / "b"):
    one, two = ((tmp_path / folder / name) for folder in "ab")
    if name.startswith("b-"):
      one = out / name.replace("b-", "a-", 1)
    if name != array_records.METADATA:
      assert one.read_bytes() == two.read_bytes()
  read = opened(out, text="captions")
  assert [read[n]["text"][0] for n in range(len(read))] == [
      f"caption {n}" for n in range(ROWS) if n != 1
  ]


@pytest.mark.parametrize("step", ["replace", "metadata"])
def test_a_stop_at_the_end_is_made_up_for(tmp_path, monkeypatch, step):
  source, out = Listed([example(n) for n in range(ROWS)]), tmp_path / "a"
  real, calls = os.replace, []

  def stops(one, two):
    calls.append(two)
    name = pathlib.Path(two).name
    if (step == "replace" and "-00002-of-" in name) or (
        step == "metadata" and name == array_records.METADATA
    ):
      raise KeyboardInterrupt
    real(one, two)

  monkeypatch.setattr(os, "replace", stops)
  with pytest.raises(KeyboardInterrupt):
    converted(source, out, shard=2)
  monkeypatch.setattr(os, "replace", real)
  assert not (out / array_records.METADATA).exists()
  assert converted(source, out, shard=2)["written"] == ROWS
  assert len(opened(out, text="captions")) == ROWS
  assert not list(out.glob(".*"))


def test_a_kill_leaves_nothing_that_is_taken_for_whole(pictures, tmp_path):
  """A real process, killed while it writes, then the same command again."""
  code = (
      "import os, sys\n"
      "from basic import prepare\n"
      "from basic.data import array_records\n"
      "real, count = array_records.Shard.write, []\n"
      "def write(self, data):\n"
      "  count.append(0)\n"
      "  if len(count) == 4: os.kill(os.getpid(), 9)\n"
      "  real(self, data)\n"
      "array_records.Shard.write = write\n"
      "prepare.main(sys.argv[1:])\n"
  )
  out = tmp_path / "out"
  arguments = [
      "convert", "--source.name=folder", f"--source.path={pictures}", f"--out={out}"
  ]
  killed = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT)
  assert killed.returncode == -9 and list(out.glob(".part-*.tmp"))
  with pytest.raises(FileNotFoundError):
    opened(out, text="captions")
  prepare.main(arguments)
  assert len(opened(out, text="captions")) == ROWS
  assert not list(out.glob(".*"))


def test_the_same_command_again_does_nothing(tmp_path):
  source = Listed([example(n) for n in range(3)])
  counts = converted(source, tmp_path / "a")
  before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}
  assert converted(source, tmp_path / "a") == counts
  assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}


def test_a_folder_of_something_else_is_refused(tmp_path):
  source = Listed([example(n) for n in range(3)])
  converted(source, tmp_path / "a")
  with pytest.raises(ValueError, match="fingerprint '1f', now '2f'"):
    converted(Listed(source.examples, fingerprint="2f"), tmp_path / "a")
  with pytest.raises(ValueError, match="examples 3, now 2"):
    converted(Listed(source.examples[:2]), tmp_path / "a")
  with pytest.raises(ValueError, match="bytes of a shard"):
    converted(source, tmp_path / "a", shard=1)
  (tmp_path / "b").mkdir()
  (tmp_path / "b/letter.txt").touch()
  with pytest.raises(ValueError, match=r"\['letter.txt'\], which is no conversion"):
    converted(source, tmp_path / "b")
  (tmp_path / "a/converting.json").write_text("{")
  with pytest.raises(ValueError, match="cannot be read"):
    converted(source, tmp_path / "a")


@pytest.mark.parametrize(("examples", "classes", "sentence"), [
    ([types.Unreadable("missing file")] * 2, (), "none of 2 examples .*missing file"),
    ([{"image": example(0)["image"]}], (), "expected an image, and a text or"),
    ([example(0), {"image": example(0)["image"], "label": 1}], (), "all must have"),
    ([example(0, label=0)], ("a\nb",), "the class 'a\\\\nb'"),
])
def test_data_that_cannot_be_written_is_refused(
    tmp_path, examples, classes, sentence
):
  with pytest.raises(ValueError, match=sentence):
    converted(Listed(examples, classes), tmp_path / "a")
  assert not (tmp_path / "a" / array_records.METADATA).exists()


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"out": "gs://bucket/a"}, "local folder"), ({"out": "~/a"}, "no shell"),
    ({"shard": 0}, "shard is 0"), ({"threads": 0}, "threads is 0"),
    ({"split": "a-b"}, "split is 'a-b'"),
])
def test_wrong_settings_are_refused(tmp_path, settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    module.convert(
        source=Listed([example(0)]), **{"out": str(tmp_path / "a"), **settings}
    )


def test_two_processes_do_not_write_into_one_folder(tmp_path):
  class Second(Listed):

    def __getitem__(self, index):
      with pytest.raises(ValueError, match="written by another process"):
        converted(Listed(self.examples), tmp_path / "a")
      return super().__getitem__(index)

  assert converted(Second([example(0)]), tmp_path / "a")["written"] == 1


def test_a_mixture_is_written_once_and_its_weights_are_said_to_be_lost(
    tmp_path, caplog
):
  parts = {name: Listed([example(n) for n in range(2)]) for name in ("a", "b")}
  mixed = mixture.mixture(sources=parts, weights={"a": 3, "b": 1})
  counts = converted(mixed, tmp_path / "out")
  assert counts["written"] == 4
  assert "the weights are lost" in counts["order"]
  assert "the weights are lost" in caplog.text
  assert "order" not in converted(parts["a"], tmp_path / "a")


def test_a_file_is_no_place_to_convert_to(tmp_path):
  (tmp_path / "file").write_text("")
  for out in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(ValueError, match="file is a file; it takes a folder"):
      converted(Listed([example(0)]), out)

"""Prepared data sets are read as they were written, or refused in words."""

import errno
import io
import pathlib
import pickle
import subprocess
import sys
from concurrent import futures

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image
from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.core.utils import shard_utils

from basic import types
from basic.data import captions, damage, examples, pipeline, position
from basic.sources import _storage, tfds

ROWS = 12
FEATURES = tensorflow_datasets.features


def png(value):
  data = io.BytesIO()
  Image.new("RGB", (5, 4), (value, 0, 255)).save(data, "PNG")
  return data.getvalue()


def row(number, value=0):
  """What record `number` holds; some of them are bad on purpose."""
  captions = [f"caption {number}", f"  another {number} "]
  if number == 9:
    captions = [b"\xff\xfe not utf-8"]
  if number == 10:
    captions = []
  if number == 11:
    captions = ["", "  "]
  return {
      "image": io.BytesIO(
          png(number)[:-30] if number == 8 else png(number + value)
      ),
      "captions": {"text": captions, "score": [1.0] * len(captions)},
      "title": f"title {number}",
      "kind": number % 3,
      "kinds": [number % 3, 2, number % 3][: number % 4],
      "number": number,
  }


def prepare(folder, file_format="array_record", value=0):
  """Writes the data set with images as bytes, which needs no TensorFlow."""

  class Tiny(
      tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True
  ):
    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
      return tensorflow_datasets.core.DatasetInfo(
          builder=self,
          features=FEATURES.FeaturesDict({
              "image": FEATURES.Image(shape=(None, None, 3)),
              "captions": FEATURES.Sequence(
                  {"text": FEATURES.Text(), "score": np.float32}
              ),
              "title": FEATURES.Text(),
              "kind": FEATURES.ClassLabel(names=["red_ant", "bee", "cat"]),
              "kinds": FEATURES.Sequence(
                  FEATURES.ClassLabel(names=["red_ant", "bee", "cat"])
              ),
              "number": np.int64,
          }),
      )

    def _split_generators(self, manager):
      return {"train": self._generate_examples(), "test": [(0, row(0))]}

    def _generate_examples(self):
      for number in range(ROWS):
        yield number, row(number, value)

  builder = Tiny(data_dir=str(folder), file_format=file_format)
  builder.download_and_prepare()
  return pathlib.Path(builder.data_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  tensorflow_datasets.disable_progress_bar()
  return prepare(tmp_path_factory.mktemp("data"))


def opened(folder, **settings):
  settings = {"split": "train", "text": "captions/text"} | settings
  return tfds.tfds(dataset=str(folder), **settings)


def numbers(folder):
  """The number of each record in the order in which TFDS stored it."""
  builder = tensorflow_datasets.builder_from_directory(str(folder))
  skip = {"image": tensorflow_datasets.decode.SkipDecoding()}
  records = builder.as_data_source(split="train", decoders=skip)
  return [int(record["number"]) for record in records]


def place(folder, number):
  return numbers(folder).index(number)


def test_examples_are_the_records_as_written(folder):
  source = opened(folder, label="kind")
  stored = numbers(folder)
  assert len(source) == ROWS and sorted(stored) == list(range(ROWS))
  for index, number in enumerate(stored):
    if number >= 8:
      continue
    example = source[index]
    assert example["text"] == (f"caption {number}", f"another {number}")
    image = np.asarray(example["image"])
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.full((4, 5, 3), (number, 0, 255)))
    assert example["label"] == number % 3
    assert example["label"].dtype == np.int32
    assert example["id"] == index and example["id"].dtype == np.int64


def test_one_caption_is_a_tuple_of_one(folder):
  source = opened(folder, text="title")
  assert source[place(folder, 3)]["text"] == ("title 3",)
  assert "label" not in source[place(folder, 3)] and source.classes == ()


def test_without_captions_the_name_of_the_class_is_one(folder):
  source = opened(folder, text=None, label="kind")
  assert source.classes == ("red ant", "bee", "cat")
  assert source[place(folder, 3)]["text"] == ("red ant",)


def test_a_named_data_set_is_found_in_its_folder(folder):
  source = tfds.tfds(
      dataset="tiny", data_dir=str(folder.parent.parent), split="train",
      text="title",
  )
  assert len(source) == ROWS
  assert source.fingerprint == opened(folder, text="title").fingerprint


def test_a_part_of_a_split_is_a_part(folder):
  part = opened(folder, split="train[3:8]", text="title")
  whole = opened(folder, text="title")
  assert len(part) == 5
  assert [part[i]["text"] for i in range(5) if numbers(folder)[i + 3] != 8] == [
      whole[i]["text"] for i in range(3, 8) if numbers(folder)[i] != 8
  ]
  assert part.fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (8, "truncated image"),
        (9, "caption is not text"),
        (10, "no caption"),
        (11, "no caption"),
    ],
)
def test_a_bad_example_says_why(folder, number, reason):
  with pytest.raises(types.Unreadable) as raised:
    np.asarray(opened(folder)[place(folder, number)]["image"])
  assert raised.value.reason == reason


@pytest.mark.parametrize(("split", "first"), [("train", 0), ("train[3:9]", 3)])
def test_an_example_is_named_by_its_file_and_record(folder, split, first):
  source = opened(folder, split=split, text="title")
  for index in range(len(source)):
    path, _, number = source.where(index).rpartition(" record ")
    reader = tfds.array_record_data_source.array_record_module.ArrayRecordReader(path)
    (record,) = reader.read([int(number)])
    assert int(number) == first + index
    title = f"title {numbers(folder)[first + index]}".encode()
    assert title in record and source[index]["text"] == (title.decode(),)
  with pytest.raises(IndexError):
    source.where(len(source))


def test_numbers_are_not_captions(folder):
  with pytest.raises(types.Unreadable) as raised:
    opened(folder, text="number")[0]
  assert raised.value.reason == "caption is not text"


def test_a_damaged_record_is_unreadable(tmp_path):
  folder = prepare(tmp_path)
  shard = next(folder.glob("tiny-train.array_record*"))
  data = bytearray(shard.read_bytes())
  at = data.index(b"PNG") + 60
  data[at] ^= 1
  shard.write_bytes(data)
  source = opened(folder, text="title")
  reasons = []
  for index in range(ROWS):
    try:
      source[index]
    except types.Unreadable as error:
      reasons.append(error.reason)
  assert sorted(reasons) in (
      ["damaged record"], ["damaged record", "truncated image"]
  )


def test_threads_read_what_one_thread_reads(folder):
  source = opened(folder, text="title")
  good = [i for i, n in enumerate(numbers(folder)) if n != 8]
  expected = [source[i]["text"] for i in good]
  fresh = pickle.loads(pickle.dumps(source))
  with futures.ThreadPoolExecutor(4) as pool:
    for _ in range(5):
      found = list(pool.map(lambda i: fresh[i]["text"], good))
      assert found == expected


@pytest.mark.parametrize(("stored", "command"), [
    ("tfrecord", "prepare convert --source.name=tfrecord"),
    ("parquet", "loses rows .*tfds build ... --file_format=array_record"),
    ("riegeli", "tfds build ... --file_format=array_record"),
])
def test_other_formats_are_refused_with_the_command_that_helps(
    tmp_path, folder, stored, command
):
  written = (folder / "dataset_info.json").read_text()
  assert "array_record" in written
  features = (folder / "features.json").read_text()
  (tmp_path / "features.json").write_text(features)
  (tmp_path / "dataset_info.json").write_text(
      written.replace("array_record", stored)
  )
  assert stored in {f.value for f in file_adapters.FileFormat}
  with pytest.raises(ValueError, match=f"stored as {stored}.*{command}"):
    opened(tmp_path)


def test_what_is_not_there_is_said(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match="tfds build coco_captions"):
    tfds.tfds(
        dataset="coco_captions", data_dir=str(tmp_path), split="train",
        text="captions/text",
    )
  with pytest.raises(FileNotFoundError, match="not there, so it is no folder"):
    opened(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match="is a file, and is no folder"):
    opened(folder / "features.json")
  with pytest.raises(ValueError, match=r"no split 'val'; it has \['test'"):
    opened(folder, split="val")
  with pytest.raises(ValueError, match=r"it has .*'captions/text'"):
    opened(folder, text="captions/txt")
  with pytest.raises(ValueError, match="no feature 'jpg'"):
    opened(folder, image="jpg")
  with pytest.raises(ValueError, match="gives no captions"):
    opened(folder, text=None)
  with pytest.raises(ValueError, match="gives no captions"):
    opened(folder, text=None, label="number")
  with pytest.raises(ValueError, match="channels is 2"):
    opened(folder, channels=2)


@pytest.mark.parametrize(("names", "sentence"), [
    (("00000.tar", "00000.parquet", "a.json"), r"1 tar files: dict\(name='tar'"),
    (("00000.parquet", "00000/0.jpg", "00000/1.jpg"), "2 picture files"),
    (("data/train-0.parquet", "README.md"), r"1 Parquet files: dict\(name='parquet'"),
    (("a.tfrecord-00000-of-00001",), r"source.files='.*/\*.tfrecord\*' --out=DIR"),
    (("cat/1.jpg", "dog/2.PNG"), r"2 picture files: dict\(name='folder', path="),
    (("list.csv",), r"1 table files: dict\(name='folder', path="),
    (("1.0.0/dataset_info.json",), r"is in .*/1\.0\.0: set `dataset`"),
    (("converting.json", ".part-00000"), "has not finished: start the same"),
    (("a.zip",), r"has \['\.zip'\], which no source reads"),
    ((), "has no files, which"),
])
def test_a_folder_of_something_else_says_what_reads_it(tmp_path, names, sentence):
  for name in names:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  with pytest.raises(FileNotFoundError, match=sentence) as raised:
    opened(tmp_path)
  assert "tfds build" not in str(raised.value)


def test_a_missing_file_is_found_when_opening(tmp_path):
  folder = prepare(tmp_path)
  next(folder.glob("tiny-train.array_record*")).unlink()
  with pytest.raises(FileNotFoundError, match="1 of 1 files"):
    opened(folder)


def test_reading_needs_no_tensorflow(folder):
  code = (
      "import sys\n"
      "from basic.sources import tfds\n"
      f"folder = {str(folder)!r}\n"
      "source = tfds.tfds(dataset=folder, split='train', text='title')\n"
      f"source[{place(folder, 3)}]\n"
      "assert 'tensorflow' not in sys.modules\n"
  )
  root = pathlib.Path(__file__).resolve().parents[2]
  subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_several_labels_come_once_each_and_fill_up(folder):
  source = opened(folder, text="title", label="kinds", most_labels=2)
  assert source.classes == ("red ant", "bee", "cat")
  expected = {0: [-1, -1], 1: [1, -1], 2: [2, -1], 3: [0, 2], 7: [1, 2]}
  for number, labels in expected.items():
    found = source[place(folder, number)]["label"]
    np.testing.assert_array_equal(found, np.array(labels, np.int32), strict=True)


def test_several_labels_make_a_shuffled_caption(folder):
  source = opened(folder, text="title", label="kinds", most_labels=2)
  caption = captions.captions(classes=source.classes, templates=("see {}",))
  example = source[place(folder, 7)]
  assert caption(example, None) == "see bee and cat"
  drawn = {caption(example, np.random.default_rng(n)) for n in range(20)}
  assert drawn == {"see bee and cat", "see cat and bee"}
  names = opened(folder, text=None, label="kinds", most_labels=2)
  assert names[place(folder, 7)]["text"] == ("bee", "cat")
  with pytest.raises(types.Unreadable, match="no caption"):
    names[place(folder, 0)]


def test_an_image_with_more_labels_is_unreadable(folder):
  source = opened(folder, label="kinds", most_labels=1)
  with pytest.raises(types.Unreadable, match="2 where most_labels is 1"):
    source[place(folder, 7)]


def test_most_labels_must_say_what_the_feature_holds(folder):
  with pytest.raises(ValueError, match=r"several of 'kinds' .* which is None"):
    opened(folder, label="kinds")
  with pytest.raises(ValueError, match=r"one 'kind' .* most_labels, which is 2"):
    opened(folder, label="kind", most_labels=2)


# --- Storage that fails -------------------------------------------------------


def prepared_shards(folder, monkeypatch):
  """Writes the data set into several files."""
  monkeypatch.setattr(
      shard_utils.ShardConfig, "get_number_shards",
      lambda self, total_size, num_examples, *rest: min(4, num_examples),
  )
  made = prepare(folder)
  files = sorted(made.glob("tiny-train.array_record*"))
  assert len(files) == 4
  return made, files


def test_a_read_that_fails_once_is_tried_again(folder, monkeypatch):
  monkeypatch.setattr(_storage, "WAIT_SECONDS", 0.0)
  source, index = opened(folder, text="title"), place(folder, 3)
  records, failures = source._records, [OSError(errno.EIO, "I/O error")]

  class Flaky:
    def __len__(self):
      return len(records)

    def __getitem__(self, index):
      if failures:
        raise failures.pop()
      return records[index]

  source._records = Flaky()
  assert source[index]["text"] == ("title 3",)
  assert failures == []
  failures.extend(OSError(errno.EIO, "I/O error") for _ in range(9))
  with pytest.raises(types.Unreadable, match=r"damaged record: .*I/O error"):
    source[index]
  assert len(failures) == 9 - _storage.ATTEMPTS


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_found_when_opening(
    tmp_path, monkeypatch, caplog, share
):
  folder, files = prepared_shards(tmp_path, monkeypatch)
  opened(folder, text="title")
  assert "damaged" not in caplog.text
  content = files[0].read_bytes()
  files[0].write_bytes(content[: int(share * len(content))])
  source = opened(folder, text="title")
  assert "1 of 4 files of tiny/1.0.0 are damaged" in caplog.text
  assert files[0].name in caplog.text
  with pytest.raises(types.Unreadable, match="damaged record"):
    source[0]
  assert source[ROWS - 1]["text"]
  for path in files[1:]:
    path.write_bytes(b"")
  with pytest.raises(ValueError, match=r"4 of 4 files .* should hold 12 records"):
    opened(folder, text="title")


def test_a_truncated_file_of_four_ends_a_run(tmp_path, monkeypatch):
  folder, files = prepared_shards(tmp_path, monkeypatch)
  files[0].write_bytes(files[0].read_bytes()[:-1000])
  source = opened(folder, text="title")
  bound = damage.limit(source, most=0.1, window=10_000)
  with pipeline.stream(
      source, prepare=examples.prepare(tokenize=None, augment=lambda image, rng: 0),
      batch_size=4, seed=0, threads=0,
  ) as batches:
    tally, sentence = damage.Tally(), None
    while sentence is None:
      assert batches.position < 12
      next(batches)
      first = batches.position - 4
      tally, sentence = damage.add(
          tally, [(first + f.row, f) for f in batches.failures],
          batches.position, bound,
      )
  assert sentence.startswith("2 of the first ")  # 1 of 12 is allowed, not 2.
  assert " examples of an epoch of 12 could not be read (2 x damaged" in sentence
  assert "of tiny/1.0.0: " in sentence


def test_other_pictures_under_the_same_names_and_counts_are_refused(tmp_path):
  folder = prepare(tmp_path)
  shard = next(folder.glob("tiny-train.array_record*"))
  prepared = examples.prepare(
      tokenize=None, augment=lambda image, rng: np.zeros(1)
  )
  with pipeline.stream(
      opened(folder, text="title"), prepare=prepared, batch_size=4, seed=0,
      threads=0,
  ) as batches:
    next(batches)
    record = position.record(batches)
  assert position.check(record, opened(folder, text="title"), 0) == 4
  # A run that began when the content was no part of the fingerprint.
  source = opened(folder, text="title")
  assert source.former_fingerprint != source.fingerprint
  former = {**record, "fingerprint": source.former_fingerprint}
  assert position.check(former, source, 0) == 4
  other = prepare(tmp_path / "other", value=100)
  replaced = next(other.glob("tiny-train.array_record*"))
  assert replaced.name == shard.name
  shard.write_bytes(replaced.read_bytes())
  with pytest.raises(ValueError, match=r"the saved fingerprint is .*, this run has"):
    position.check(record, opened(folder, text="title"), 0)

"""Laws of sources, over every module in the folder.

A source is examples by number, and an example is a pure function of the
settings and that number, whatever was read before and by whom.
"""

import importlib
import io
import pathlib
import pickle
import pkgutil
from concurrent import futures

import google_crc32c
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets
from PIL import Image

from basic import sources
from basic.data import array_records, decoding

NAMES = sorted(
    module.name
    for module in pkgutil.iter_modules(sources.__path__)
    if not module.name.startswith("_")
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A prepared data set of eight images with a caption and a label each."""
  tensorflow_datasets.disable_progress_bar()
  features = tensorflow_datasets.features

  class Law(
      tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True
  ):
    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
      return tensorflow_datasets.core.DatasetInfo(
          builder=self,
          features=features.FeaturesDict({
              "image": features.Image(shape=(None, None, 3)),
              "caption": features.Text(),
              "label": features.ClassLabel(names=["ant", "bee"]),
          }),
      )

    def _split_generators(self, manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for number in range(8):
        data = io.BytesIO()
        Image.new("RGB", (5, 4), (number, 0, 255)).save(data, "PNG")
        data.seek(0)
        caption = f"caption {number}"
        yield number, {"image": data, "caption": caption, "label": number % 2}

  builder = Law(
      data_dir=str(tmp_path_factory.mktemp("data")), file_format="array_record"
  )
  builder.download_and_prepare()
  return str(builder.data_path)


def pictures(prepared):
  """A folder of eight pictures in two classes, with a table of captions."""
  folder = pathlib.Path(prepared).parent / "pictures"
  rows = ["file_name\tcaption\tlabel\n"]
  for number in range(8):
    name = f"{'ab'[number % 2]}/{number}.png"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (number, 0, 255)).save(folder / name)
    rows.append(f"{name}\tcaption {number}\t{'ab'[number % 2]}\n")
  (folder / "table.tsv").write_text("".join(rows))
  return str(folder)


def parquet_file(prepared):
  """A Parquet file of eight images with captions and labels."""
  folder = pathlib.Path(pictures(prepared))
  pyarrow.parquet.write_table(pyarrow.table({
      "image": [next(folder.glob(f"*/{n}.png")).read_bytes() for n in range(8)],
      "caption": [f"caption {n}" for n in range(8)],
      "label": [n % 2 for n in range(8)],
  }), folder.parent / "pictures.parquet", row_group_size=3)
  return f"{folder.parent}/pictures.parquet"


def tfrecord_file(prepared):
  """A TFRecord file of the records of the Parquet file."""
  path = pathlib.Path(prepared).parent / "pictures.tfrecord"
  source = make("parquet", TINY["parquet"][0], prepared)
  how = array_records.layout(source[0], source.classes)

  def checked(data):
    crc = google_crc32c.value(data)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    return data + masked.to_bytes(4, "little")

  records = [array_records.record(source[n], how) for n in range(8)]
  path.write_bytes(b"".join(
      checked(len(data).to_bytes(8, "little")) + checked(data) for data in records
  ))
  return str(path)


def labelled(prepared):
  """A labeled source, to be given captions."""
  return make("digits", {"kind": "single", "length": 12}, prepared)


# Settings of a few small sources for each module; "{prepared}" stands for the
# folder of a prepared data set, and a function is given that folder.
TINY = {
    "digits": (
        {"length": 12},
        {"split": "test", "length": 12, "channels": 1},
        {"kind": "single", "split": "test", "length": 12},
        {"kind": "pairs", "split": "test", "length": 12},
        {"kind": "seen_pairs", "length": 12, "canvas": 24},
    ),
    "folder": (
        {"path": pictures},
        {"path": pictures, "layout": "classes"},
        {"path": pictures, "text": ("caption", "label"), "weights": (0.5, 1.5)},
    ),
    "labels": (
        {"source": labelled},
        {"source": labelled, "templates": ("a {}", "the {}")},
    ),
    "parquet": (
        {"files": parquet_file, "classes": ("ant", "bee")},
        {"files": parquet_file, "text": ("caption",), "label": "", "memory": 1},
    ),
    "shapes": (
        {"length": 12},
        {"split": "test", "length": 12, "canvas": 32},
        {"kind": "single", "length": 12},
        {"kind": "compositions", "split": "test", "length": 12},
    ),
    "tfds": (
        {"dataset": "{prepared}", "split": "train", "text": "caption"},
        {"dataset": "{prepared}", "split": "train", "label": "label"},
    ),
    "tfrecord": (
        {"files": tfrecord_file, "classes": ("ant", "bee")},
        {"files": tfrecord_file, "label": ""},
    ),
}

# One setting changed, which the fingerprint must tell.
CHANGED = {
    "digits": {"seed": 7},
    "folder": {"channels": 1},
    "labels": {"templates": ("one {}",)},
    "parquet": {"channels": 1},
    "shapes": {"seed": 7},
    "tfds": {"channels": 1},
    "tfrecord": {"channels": 1},
}

# Pairs of settings whose examples must have no id in common.
APART = {
    "digits": ({"kind": "single"}, {"kind": "single", "split": "test"}),
}

CASES = [(name, i) for name in NAMES for i in range(len(TINY.get(name, ())))]


def make(name, settings, prepared):
  factory = getattr(importlib.import_module(f"basic.sources.{name}"), name)
  filled = {
      k: prepared if v == "{prepared}" else v(prepared) if callable(v) else v
      for k, v in settings.items()
  }
  return factory(**filled)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request, prepared):
  """(how to make the source once more, the source)."""
  name, number = request.param

  def again(**changed):
    return make(name, TINY[name][number] | changed, prepared)

  return name, again, again()


def pixels(example):
  """The image of an example, decoded if it is a file."""
  image = example["image"]
  assert isinstance(image, np.ndarray | decoding.Encoded)
  return np.asarray(image)


def assert_same(one, two):
  assert one.keys() == two.keys()
  assert one["text"] == two["text"]
  for key in one.keys() - {"text", "text_weights"}:
    first, second = np.asarray(one[key]), np.asarray(two[key])
    assert first.dtype == second.dtype
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_every_source_has_tiny_settings(name):
  assert name in TINY and name in CHANGED, (
      f"basic/sources/{name}.py has no row in TINY or CHANGED of this file: "
      "give settings of a source of a dozen examples, so that the laws reach it"
  )


def test_the_order_of_reading_changes_nothing(case):
  _, again, source = case
  forward = [source[i] for i in range(len(source))]
  for index in reversed(range(len(source))):
    assert_same(source[index], forward[index])
  assert_same(again()[len(source) - 1], forward[-1])


def test_a_pickled_source_is_the_same_source(case):
  _, _, source = case
  source[0]
  copy = pickle.loads(pickle.dumps(source))
  assert len(copy) == len(source) and copy.classes == source.classes
  assert copy.fingerprint == source.fingerprint
  for index in range(len(source)):
    assert_same(copy[index], source[index])


def test_threads_see_the_same_examples(case):
  _, again, source = case
  fresh = again()
  with futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(fresh.__getitem__, list(range(len(source))) * 3))
  for position, example in enumerate(found):
    assert_same(example, source[position % len(source)])


def test_examples_hold_what_a_source_promises(case):
  _, _, source = case
  channels = {pixels(source[i]).shape[-1] for i in range(len(source))}
  assert len(channels) == 1 and channels <= {1, 3}
  for index in range(len(source)):
    example = source[index]
    image, text = pixels(example), example["text"]
    assert image.dtype == np.uint8 and image.ndim == 3 and image.size
    assert isinstance(text, tuple) and text
    assert all(isinstance(caption, str) and caption.strip() for caption in text)
    assert isinstance(example["id"], np.int64)
    if "label" in example:
      assert isinstance(example["label"], np.int32)


def test_nothing_is_said_against_a_source(case):
  _, _, source = case
  assert sources.check(source) == []


def test_labels_index_the_classes(case):
  _, _, source = case
  assert isinstance(source.classes, tuple)
  assert all(isinstance(name, str) and name for name in source.classes)
  assert len(set(source.classes)) == len(source.classes)
  if source.classes:
    for index in range(len(source)):
      assert 0 <= source[index]["label"] < len(source.classes)


def test_ids_tell_examples_apart(case):
  _, _, source = case
  ids = [int(source[i]["id"]) for i in range(len(source))]
  assert len(set(ids)) == len(ids)


def test_a_caller_may_write_into_an_image(case):
  _, _, source = case
  before = pixels(source[0]).copy()
  pixels(source[0])[...] = 7
  np.testing.assert_array_equal(source[0]["image"], before)


def test_past_the_end_there_is_nothing(case):
  _, _, source = case
  for index in (len(source), len(source) + 10, -1):
    with pytest.raises(IndexError, match=f"example {index} does not exist"):
      source[index]


def test_numpy_numbers_are_indices_too(case):
  _, _, source = case
  assert_same(source[np.int64(1)], source[1])


def test_the_fingerprint_tells_settings_and_not_reads(case):
  name, again, source = case
  before = source.fingerprint
  int(before, 16)
  source[1]
  assert source.fingerprint == before == again().fingerprint
  assert again(**CHANGED[name]).fingerprint != before


def test_sources_of_one_module_have_their_own_fingerprints(prepared):
  for name in NAMES:
    found = [make(name, s, prepared).fingerprint for s in TINY[name]]
    assert len(set(found)) == len(found), name


@pytest.mark.parametrize("name", APART)
def test_splits_have_no_example_in_common(name, prepared):
  one, two = (make(name, settings, prepared) for settings in APART[name])
  ids = [{int(s[i]["id"]) for i in range(len(s))} for s in (one, two)]
  assert ids[0] and ids[1] and not ids[0] & ids[1]

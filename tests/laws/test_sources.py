"""Laws of sources, over every module in the folder.

A source is examples by number, and an example is a pure function of the
settings and that number, whatever was read before and by whom.
"""

import hashlib
import pickle
import pkgutil
from concurrent import futures

import numpy as np
import pytest

from basic import sources
from basic.data import decoding
from basic.experiment import schema
from basic.preparation import filter as command

NAMES = sorted(
    module.name
    for module in pkgutil.iter_modules(sources.__path__)
    if not module.name.startswith("_")
)

SINGLE = {"name": "digits", "kind": "single", "length": 12}

# Settings of a few small sources for each module; written.py says what stands in
# braces.
TINY = {
    "digits": (
        {"length": 12},
        {"split": "test", "length": 12, "channels": 1},
        {"kind": "single", "split": "test", "length": 12},
        {"kind": "pairs", "split": "test", "length": 12},
        {"kind": "seen_pairs", "length": 12, "canvas": 24},
    ),
    "folder": (
        {"path": "{pictures}"},
        {"path": "{pictures}", "layout": "classes"},
        {"path": "{pictures}", "text": ("caption", "label"), "weights": (0.5, 1.5)},
    ),
    "labels": (
        {"source": SINGLE},
        {"source": SINGLE, "templates": ("a {}", "the {}")},
    ),
    "mixture": (
        {
            "sources": {
                "a": {"name": "digits", "length": 5},
                "b": {"name": "digits", "length": 7, "seed": 2},
            },
            "weights": {"a": 3, "b": 1},
        },
        {
            "sources": {
                "a": {"name": "digits", "length": 5, "kind": "single"},
                "b": {"name": "tfds", "dataset": "{prepared}", "split": "train",
                      "text": "caption"},
            },
            "fields": ("image", "text"),
        },
    ),
    "parquet": (
        {"files": "{parquet}", "classes": ("ant", "bee")},
        {"files": "{parquet}", "text": ("caption",), "label": "", "memory": 1},
    ),
    "shapes": (
        {"length": 12},
        {"split": "test", "length": 12, "canvas": 32},
        {"kind": "single", "length": 12},
        {"kind": "compositions", "split": "test", "length": 12},
    ),
    "tar": (
        {"shards": "{shard}"},
        {"shards": "{shard}", "text": ("txt", "json/alt")},
        {"shards": "{shard}", "text": None, "label": "cls",
         "classes": ("ant", "bee")},
    ),
    "subset": (
        {"source": {"name": "shapes", "length": 24}, "fewest_words": 5},
        {"source": {"name": "digits", "length": 12, "kind": "single"}},
    ),
    "tfds": (
        {"dataset": "{prepared}", "split": "train", "text": "caption"},
        {"dataset": "{prepared}", "split": "train", "label": "label"},
    ),
    "tfrecord": (
        {"files": "{tfrecord}", "classes": ("ant", "bee")},
        {"files": "{tfrecord}", "label": ""},
    ),
}

# One setting changed, which the fingerprint must tell.
CHANGED = {
    "digits": {"seed": 7},
    "folder": {"channels": 1},
    "labels": {"templates": ("one {}",)},
    "mixture": {"temperature": 2.0, "weights": None},
    "parquet": {"channels": 1},
    "shapes": {"seed": 7},
    "tar": {"channels": 1},
    "subset": {"most_words": 6},
    "tfds": {"channels": 1},
    "tfrecord": {"channels": 1},
}

# Pairs of settings whose examples must have no id in common.
APART = {
    "digits": ({"kind": "single"}, {"kind": "single", "split": "test"}),
}


def make(name, settings, paths):
  """A source of settings in which paths stand in braces."""
  settings = filled(settings, paths)
  if name == "subset":
    settings = filtered(settings, paths)
  return schema.make("sources", {"name": name, **settings})


def filled(settings, paths):
  """Settings with paths for what stands in braces, at any depth."""
  if isinstance(settings, dict):
    return {k: filled(v, paths) for k, v in settings.items()}
  return paths.get(settings, settings) if isinstance(settings, str) else settings


def filtered(settings, paths):
  """The settings of a subset: a source, filtered by the rules that remain."""
  described, *rules = settings.items()
  name = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
  kept = f"{paths['{prepared}']}-{name}"
  command.filter(
      source=schema.make("sources", described[1]), out=kept, shorter_side=0,
      workers=1, **dict(rules),
  )
  return {"source": described[1], "kept": kept}


CASES = [(name, i) for name in NAMES for i in range(len(TINY.get(name, ())))]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request, paths):
  """(how to make the source once more, the source)."""
  name, number = request.param

  def again(**changed):
    return make(name, TINY[name][number] | changed, paths)

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


def test_sources_of_one_module_have_their_own_fingerprints(paths):
  for name in NAMES:
    found = [make(name, s, paths).fingerprint for s in TINY[name]]
    assert len(set(found)) == len(found), name


@pytest.mark.parametrize("name", APART)
def test_splits_have_no_example_in_common(name, paths):
  one, two = (make(name, settings, paths) for settings in APART[name])
  ids = [{int(s[i]["id"]) for i in range(len(s))} for s in (one, two)]
  assert ids[0] and ids[1] and not ids[0] & ids[1]

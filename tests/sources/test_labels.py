"""The names of classes become captions, the same at every reading."""

import pickle

import numpy as np
import pytest

from basic import types
from basic.sources import labels, shapes


class Labelled:
  """Ten images with up to three of three classes."""

  classes = ("ant", "red bee", "cat")
  fingerprint = "1f"
  shards = (0, 4)

  def __len__(self):
    return 10

  def __getitem__(self, index):
    if not 0 <= index < 10:
      raise IndexError(index)
    several = [[0, 1, 2], [2, 1, -1], [1, -1, -1], [-1, -1, -1], [0, 0, 7]]
    return {
        "image": np.full((2, 2, 3), index, np.uint8), "text": ("its own",),
        "text_weights": (1.0,), "label": np.array(several[index % 5], np.int32),
        "id": np.int64(index),
    }


def test_each_template_gives_a_caption_of_all_names():
  source = labels.labels(source=Labelled(), templates=("a {}", "{} here"), joiner="+")
  assert len(source) == 10
  assert source[2]["text"] == ("a red bee", "red bee here")
  for caption, (before, after) in zip(
      source[1]["text"], (("a ", ""), ("", " here")), strict=True
  ):
    names = caption.removeprefix(before).removesuffix(after).split("+")
    assert sorted(names) == ["cat", "red bee"]


def test_the_rest_of_an_example_is_kept_but_weights_of_other_captions():
  inner = Labelled()
  example = labels.labels(source=inner)[1]
  assert example.keys() == inner[1].keys() - {"text_weights"}
  for name in ("image", "label", "id"):
    np.testing.assert_array_equal(example[name], inner[1][name])


def test_orders_of_names_differ_between_examples_and_not_between_readings():
  source = labels.labels(source=Labelled(), templates=("{}", "x {}", "y {}"))
  copy = pickle.loads(pickle.dumps(source))
  first = {source[index]["text"][0] for index in (0, 5)}
  all_of = [text.split(" and ") for index in (0, 5) for text in source[index]["text"]]
  orders = {tuple(name.split()[-1] for name in names) for names in all_of}
  assert len(orders) > 1 and first
  for index in (5, 0, 1):
    assert source[index]["text"] == source[index]["text"] == copy[index]["text"]


def test_an_example_without_a_class_is_unreadable_and_a_wrong_one_ends():
  source = labels.labels(source=Labelled())
  with pytest.raises(types.Unreadable) as raised:
    source[3]
  assert raised.value.reason == "no label"
  with pytest.raises(ValueError, match="'label' 7, and the source names 3 classes"):
    source[4]


def test_attributes_are_those_of_the_inner_source():
  source = labels.labels(source=Labelled())
  assert source.classes == Labelled.classes and source.shards == (0, 4)
  assert not hasattr(source, "order")
  found = {
      labels.labels(source=Labelled(), **changed).fingerprint
      for changed in ({}, {"templates": ("a {}",)}, {"joiner": ", "})
  }
  other = Labelled()
  other.fingerprint = "2f"
  assert len(found | {labels.labels(source=other).fingerprint, "1f"}) == 5
  other.fingerprint = None
  assert not hasattr(labels.labels(source=other), "fingerprint")


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"templates": ()}, "no templates"), ({"templates": ("a",)}, "without '{}'"),
    ({"source": [1]}, "without `classes`"),
])
def test_wrong_settings_are_refused(settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    labels.labels(**{"source": shapes.shapes(length=4), **settings})

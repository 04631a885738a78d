"""One example becomes arrays; what cannot be read is said and replaced."""

import pickle

import numpy as np
import pytest

from basic import types
from basic.data import batches, examples, tokenizer

CAPTIONS = ("a red cat", "a blue dog", "two birds")


def tokenize(text):
  if not isinstance(text, str):
    raise types.Unreadable("caption is not text")
  return np.array([ord(c) for c in text.ljust(12)[:12]], np.int32)


def flip(image, rng):
  return image if rng is None or rng.random() < 0.5 else image[:, ::-1]


def noise(seed=0):
  return np.random.default_rng(seed)


def test_without_noise_the_first_caption_and_all_captions():
  prepared = examples.prepare(tokenize=tokenize)
  leaves = prepared({"text": CAPTIONS}, None)
  np.testing.assert_array_equal(leaves["text"], tokenize(CAPTIONS[0]))
  np.testing.assert_array_equal(
      leaves["captions"], np.stack([tokenize(c) for c in CAPTIONS])
  )
  assert leaves["captions"].dtype == np.int32


def test_one_caption_is_a_tuple_of_one():
  prepared = examples.prepare(tokenize=tokenize)
  single = prepared({"text": CAPTIONS[0]}, None)
  double = prepared({"text": CAPTIONS[:1]}, None)
  assert single["captions"].shape == (1, 12)
  np.testing.assert_array_equal(single["captions"], double["captions"])


def test_with_noise_every_caption_is_drawn_and_no_other():
  prepared = examples.prepare(tokenize=tokenize)
  drawn = {
      prepared({"text": CAPTIONS}, noise(i))["text"].tobytes() for i in range(40)
  }
  assert drawn == {tokenize(c).tobytes() for c in CAPTIONS}
  assert "captions" not in prepared({"text": CAPTIONS}, noise())


def test_noise_does_not_depend_on_the_order_of_the_leaves():
  prepared = examples.prepare(tokenize=tokenize, augment=flip)
  image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
  for seed in range(10):
    one = prepared({"image": image, "text": CAPTIONS}, noise(seed))
    two = prepared({"text": CAPTIONS, "image": image}, noise(seed))
    np.testing.assert_array_equal(one["image"], two["image"])
    np.testing.assert_array_equal(one["text"], two["text"])


def test_image_is_augmented_only_with_noise():
  prepared = examples.prepare(tokenize=None, augment=flip)
  image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
  np.testing.assert_array_equal(prepared({"image": image}, None)["image"], image)
  seen = {
      prepared({"image": image}, noise(i))["image"].tobytes() for i in range(20)
  }
  assert len(seen) == 2


def test_other_leaves_pass_in_widths_of_an_accelerator():
  leaves = examples.prepare(tokenize=None)(
      {
          "label": 3, "id": np.int64(-7), "weight": 0.5, "kept": True,
          "box": np.zeros((4,)), "half": np.float16(1), "key": "a/b.jpg",
          "image": np.zeros((2, 2, 3), np.uint8),
      },
      None,
  )
  kinds = {name: str(leaf.dtype) for name, leaf in leaves.items()}
  assert kinds == {
      "label": "int32", "id": "int32", "weight": "float32", "kept": "bool",
      "box": "float32", "half": "float16", "key": "<U7", "image": "uint8",
  }
  assert leaves["id"] == -7 and leaves["key"] == "a/b.jpg"


def test_no_tokenizer_leaves_text_out():
  leaves = examples.prepare(tokenize=None)({"text": "a", "label": 1}, None)
  assert set(leaves) == {"label"}


def test_too_wide_a_number_says_so():
  with pytest.raises(ValueError, match=r"'id' holds 2147483648, beyond int32"):
    examples.prepare(tokenize=None)({"id": 2**31}, None)


@pytest.mark.parametrize("leaf", [None, {"a": 1}, object()])
def test_what_no_batch_can_hold_says_so(leaf):
  with pytest.raises(ValueError, match=r"'extra' is a .*no batch can hold"):
    examples.prepare(tokenize=None)({"extra": leaf}, None)


@pytest.mark.parametrize("text, reason", [
    ((), "no caption"), (b"cat", "caption is not text"),
    (("cat", 3), "caption is not text"),
])
def test_bad_captions_are_unreadable(text, reason):
  with pytest.raises(types.Unreadable) as caught:
    examples.prepare(tokenize=tokenize)({"text": text}, None)
  assert caught.value.reason == reason


def test_prepare_can_be_pickled():
  model = tokenizer.train(CAPTIONS, vocab=40)
  prepared = examples.prepare(
      tokenize=tokenizer.Tokenizer(model, 8), augment=flip
  )
  again = pickle.loads(pickle.dumps(prepared))
  example = {"text": CAPTIONS, "image": np.ones((2, 2, 3), np.uint8)}
  np.testing.assert_array_equal(
      prepared(example, noise())["text"], again(example, noise())["text"]
  )


def test_other_errors_name_the_example():
  source = [{"label": 0}, {"label": None}]
  with pytest.raises(ValueError) as caught:
    examples.read(source, examples.prepare(tokenize=None), 1, None)
  assert "while reading example 1 of 2" in caught.value.__notes__


def test_substitutes_differ_and_stay_within_the_source():
  tried = [examples.substitute(5, attempt, 1000) for attempt in range(1, 17)]
  assert len(set(tried)) > 12
  assert all(0 <= index < 1000 for index in tried)
  assert tried == [examples.substitute(5, a, 1000) for a in range(1, 17)]
  assert tried[0] != examples.substitute(6, 1, 1000)


def rows(*leaves):
  return [examples.Row(i, leaf) for i, leaf in enumerate(leaves)]


def collate(found):
  block = batches.Block(len(found))
  for place, row in enumerate(found):
    block.put(place, row)
  return block.finish()


def test_text_leaves_keep_their_whole_length():
  names = ["a", "b" * 5000, "c" * 20]
  found = rows(*({"key": np.asarray(name)} for name in names))
  batch, failures = collate(found)
  assert batch["key"].tolist() == names and failures == ()


def test_odd_shape_names_the_example():
  image = np.zeros((2, 2, 3), np.uint8)
  with pytest.raises(ValueError, match=r"'image' of example 1 is uint8 \[3, 2"):
    collate(rows({"image": image}, {"image": np.zeros((3, 2, 3), np.uint8)}))
  with pytest.raises(ValueError, match=r"example 1 is float32 .* example 0 is uint8"):
    collate(rows({"image": image}, {"image": image.astype(np.float32)}))


def test_odd_leaves_name_the_example():
  one = np.int32(1) + np.zeros((), np.int32)
  sentence = r"example 1 has the fields \['b'\], but example 0"
  with pytest.raises(ValueError, match=sentence):
    collate(rows({"a": np.asarray(one)}, {"b": np.asarray(one)}))

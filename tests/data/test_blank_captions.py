"""A caption that says nothing is never trained on."""

import collections

import numpy as np
import pytest

from basic import types
from basic.data import examples


def tokenize(text):
  row = np.zeros(8, np.int32)
  row[: len(text)] = [ord(c) for c in text]
  return row


PREPARE = examples.prepare(tokenize=tokenize)


def drawn(example, draws=400):
  found = collections.Counter()
  for seed in range(draws):
    ids = PREPARE(example, np.random.default_rng(seed))["text"]
    found["".join(map(chr, ids[ids > 0]))] += 1
  return found


@pytest.mark.parametrize("text", [
    "", " \t\n", "\u3000\xa0", (), ("", " "), None, (None,), [None, ""],
])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_no_caption_is_a_reason(text, rng):
  with pytest.raises(types.Unreadable) as error:
    PREPARE({"text": text}, rng)
  assert error.value.reason == "no caption"


@pytest.mark.parametrize("text", [7, b"bytes", ("a", 7), (b"a",), np.zeros(2)])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_what_is_not_text_is_a_reason(text, rng):
  with pytest.raises(types.Unreadable, match="expected str") as error:
    PREPARE({"text": text}, rng)
  assert error.value.reason == "caption is not text"


def test_blank_captions_are_left_out_of_several():
  assert drawn({"text": ("", "a", None, "b", " ")}).keys() == {"a", "b"}
  arrays = PREPARE({"text": (" ", "a", None, "b")}, None)
  assert arrays["captions"].shape == (2, 8)
  np.testing.assert_array_equal(arrays["text"], tokenize("a"))


def test_weights_stay_with_their_captions():
  found = drawn(
      {"text": ("", "a", "b", None), "text_weights": (9.0, 1.0, 3.0, 9.0)}
  )
  assert found.keys() == {"a", "b"}
  # Of 400 draws 100 are "a"; five standard deviations of 8.7.
  assert abs(found["a"] - 100) < 44
  with pytest.raises(types.Unreadable, match="weight 0"):
    PREPARE(
        {"text": ("", "a"), "text_weights": (1.0, 0.0)}, np.random.default_rng(0)
    )


def test_captions_that_are_not_blank_are_drawn_as_before():
  rng = np.random.default_rng(5)
  expected = [int(rng.integers(3)) for _ in range(8)]
  rng = np.random.default_rng(5)
  found = [PREPARE({"text": ("0", "1", "2")}, rng)["text"][0] for _ in range(8)]
  assert [chr(i) for i in found] == [str(n) for n in expected]

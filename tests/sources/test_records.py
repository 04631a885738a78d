"""Captions, labels and images of records, and the reason where one is bad."""

import io

import numpy as np
import pytest
from PIL import Image

from basic import types
from basic.sources import _records


def reason(read, *arguments):
  with pytest.raises(types.Unreadable) as raised:
    read(*arguments)
  return raised.value.reason


@pytest.mark.parametrize(("found", "expected"), [
    ("a cat", ("a cat",)),
    (" a cat\n", ("a cat",)),
    ("träume".encode(), ("träume",)),
    (["one", None, " ", b"two"], ("one", "two")),
    (np.array(["one", "two"], object), ("one", "two")),
])
def test_captions_are_text_without_blank_ones(found, expected):
  assert _records.captions(found) == expected


@pytest.mark.parametrize(("found", "expected"), [
    (None, "no caption"),
    ([], "no caption"),
    (["", None], "no caption"),
    (3, "caption is not text"),
    ([1.5], "caption is not text"),
    ([{"a": 1}], "caption is not text"),
    (["fine", 3], "caption is not text"),
    (b"\xff\xfe", "caption is not text"),
    ("cut \ud83d", "caption is not text"),
    ("x" * 1_000_000, "caption too long"),
])
def test_bad_captions_have_a_reason(found, expected):
  assert reason(_records.captions, found) == expected


@pytest.mark.parametrize("found", [7, np.int64(7), "7", b"7", " 7\n", b"7\r\n"])
def test_a_label_is_an_integer_however_it_is_written(found):
  label = _records.label(found)
  assert label == 7 and label.dtype == np.int32


@pytest.mark.parametrize(("found", "expected"), [
    ("cat", "label is not an integer"),
    ("", "label is not an integer"),
    ("-1", "label is not an integer"),
    (None, "label is not an integer"),
    (True, "label is not an integer"),
    (1.0, "label is not an integer"),
    (-1, "label out of range"),
    (2**31, "label out of range"),
    ("9" * 30, "label out of range"),
])
def test_bad_labels_have_a_reason(found, expected):
  assert reason(_records.label, found) == expected


@pytest.mark.parametrize(("found", "expected"), [
    (None, "no image"),
    (b"", "empty image"),
    ("file.jpg", "image is not bytes"),
])
def test_a_record_without_an_image_says_so(found, expected):
  assert reason(_records.image, found, 3, 100) == expected


def test_an_image_is_decoded_when_it_is_needed():
  data = io.BytesIO()
  Image.new("RGB", (5, 4), (1, 2, 3)).save(data, "PNG")
  image = _records.image(data.getvalue(), 3, 20)
  assert np.asarray(image).shape == (4, 5, 3)
  assert np.asarray(_records.image(data.getvalue(), 1, 20)).shape == (4, 5, 1)
  too_large = _records.image(data.getvalue(), 3, 19)
  assert reason(too_large.decode) == "image too large"


def test_names_of_classes_are_given_or_the_lines_of_a_file(tmp_path):
  path = tmp_path / "classes.txt"
  path.write_text("Bär\ncat face\n", encoding="utf-8")
  assert _records.class_names(str(path)) == ("Bär", "cat face")
  assert _records.class_names(["Bär"]) == ("Bär",)
  path.write_bytes(b"B\xe4r\n")
  with pytest.raises(ValueError, match="not UTF-8"):
    _records.class_names(str(path))
  with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
    _records.class_names(str(tmp_path / "absent.txt"))

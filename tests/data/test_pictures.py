"""Pictures of every kind are the pixels that a source reads from a file."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from basic import types
from basic.data import decoding, pictures

DRAW = np.random.default_rng(0)


def content(image, kind="PNG", **how):
  file = io.BytesIO()
  image.save(file, kind, **how)
  return file.getvalue()


def noise(*shape):
  return DRAW.integers(0, 256, shape).astype(np.uint8)


def read(picture, **how):
  return np.asarray(pictures.read(picture, **how))


IMAGES = {
    "RGB": Image.fromarray(noise(5, 7, 3)),
    "L": Image.fromarray(noise(5, 7)),
    "RGBA": Image.fromarray(noise(5, 7, 4)),
    "LA": Image.fromarray(noise(5, 7, 4)).convert("LA"),
    "P": Image.fromarray(noise(5, 7, 3)).convert("P"),
    "1": Image.fromarray(noise(5, 7)).convert("1"),
    "I;16": Image.fromarray(noise(5, 7).astype(np.uint16) << 8),
}


@pytest.mark.parametrize("mode", IMAGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_what_is_decoded_from_its_file(mode, channels, tmp_path):
  image = IMAGES[mode]
  assert image.mode == mode
  data = content(image)
  (tmp_path / "a.png").write_bytes(data)
  expected = decoding.decode(data, channels=channels)
  for given in (image, data, tmp_path / "a.png", str(tmp_path / "a.png")):
    np.testing.assert_array_equal(read(given, channels=channels), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_is_the_picture_that_pil_makes_of_it(mode, channels):
  image = IMAGES[mode]
  expected = decoding.decode(content(image), channels=channels)
  array = np.asarray(image)
  np.testing.assert_array_equal(read(array, channels=channels), expected)
  if mode == "L":
    np.testing.assert_array_equal(read(array[..., None], channels=channels), expected)


def test_a_turned_picture_is_upright_and_cmyk_is_rgb():
  exif = Image.Exif()
  exif[0x0112] = 6  # The first row is the right edge.
  data = content(IMAGES["RGB"], "TIFF", exif=exif)
  upright = np.rot90(np.asarray(IMAGES["RGB"]), -1)
  np.testing.assert_array_equal(read(Image.open(io.BytesIO(data))), upright)
  assert read(IMAGES["RGB"].convert("CMYK")).shape == (5, 7, 3)


@pytest.mark.parametrize(("given", "count"), [
    (IMAGES["L"], 1), (b"x", 1), ("x", 1), (noise(5, 7), 1), (noise(5, 7, 3), 1),
    (noise(4, 5, 7, 3), 4), ([noise(5, 7)] * 3, 3), ((x for x in "ab"), 2), ([], 0),
])
def test_one_picture_and_many_are_told_apart(given, count):
  assert len(list(pictures.several(given))) == count


@pytest.mark.parametrize(("given", "words"), [
    (np.zeros((4, 4, 3)), "255 \\* array"), (noise(3, 8, 8), "transpose"),
    (noise(4, 4, 2), "expected the path"), (noise(3), "expected the path"),
    (7, "found a int"), (None, "found a NoneType"),
    ("https://example.com/a.png", "download"), (os.sep, "is a folder"),
])
def test_what_is_no_picture_gets_a_sentence(given, words):
  with pytest.raises(ValueError, match=words):
    pictures.read(given)


def test_several_refuses_what_is_neither():
  with pytest.raises(ValueError, match="found a int"):
    list(pictures.several(3))


def test_a_path_of_no_file_gets_a_sentence():
  with pytest.raises(FileNotFoundError, match="no file 'a cat'"):
    pictures.read("a cat")


@pytest.mark.parametrize(("given", "reason"), [
    (np.zeros((0, 4, 3), np.uint8), "empty image"), (b"", "empty image"),
    (b"GIF8", "broken image header"), (b"hello", "unknown image format"),
    (content(IMAGES["RGB"])[:-30], "truncated image"),
    (Image.new("1", (7000, 7000)), "image too large"),
    (content(Image.new("1", (7000, 7000))), "image too large"),
])
def test_what_cannot_be_decoded_is_unreadable(given, reason):
  with pytest.raises(types.Unreadable) as raised:
    read(given)
  assert raised.value.reason == reason


def test_a_pipe_is_not_read(tmp_path):
  os.mkfifo(tmp_path / "a.png")
  with pytest.raises(types.Unreadable, match="not a file"):
    pictures.read(tmp_path / "a.png")


def test_a_text_that_is_a_file_is_noticed(tmp_path):
  (tmp_path / "a.png").write_bytes(b"x")
  assert pictures.is_file(str(tmp_path / "a.png"))
  assert not any(map(pictures.is_file, ("a cat", "", str(tmp_path), "\0.png", 3)))

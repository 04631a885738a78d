"""Drawn scenes show what they say, and never what is held out."""

import re

import numpy as np
import pytest
from scipy import ndimage

from basic.sources import _drawing, shapes
from basic.sources import _shape_scenes as scenes

COLOURS = np.array(list(scenes.COLOURS.values()), np.float64)
NAMES = list(scenes.COLOURS)


def held_out(shape, colour):
  s, c = scenes.SHAPES.index(shape), NAMES.index(colour)
  return (c - s) % 8 in (2, 5)


def saturation(image):
  """How far a pixel is from gray; noise is gray, so it does not count."""
  image = image.astype(int)
  return image.max(axis=2) - image.min(axis=2)


def colour_of(pixels):
  """The name of the colour whose hue the brightest pixels have."""
  pixels = pixels.reshape(-1, 3).astype(np.float64)
  best = pixels[np.argsort(np.ptp(pixels, axis=1))[-5:]].mean(axis=0)
  unit = COLOURS / np.linalg.norm(COLOURS, axis=1, keepdims=True)
  return NAMES[int(np.argmax(unit @ best))]


def told(words):
  """(colour, shape) pairs in the order in which a caption names them."""
  pattern = rf"({'|'.join(NAMES)}) ({'|'.join(scenes.SHAPES)})"
  return re.findall(pattern, words)


def training(count, **settings):
  source = shapes.shapes(length=count, **settings)
  return [source[i] for i in range(count)]


def test_held_out_compositions_leave_every_shape_and_colour_its_share():
  assert len(scenes.HELD_OUT) == 16 and len(scenes.SEEN) == 48
  for shape in scenes.SHAPES:
    assert sum(s == shape for s, _ in scenes.HELD_OUT) == 2
  for colour in NAMES:
    assert sum(c == colour for _, c in scenes.HELD_OUT) == 2


@pytest.mark.parametrize("kind", ["scenes", "single"])
def test_no_training_example_shows_or_names_a_held_out_composition(kind):
  for example in training(400, kind=kind):
    for caption in example["text"]:
      for colour, shape in told(caption):
        assert not held_out(shape, colour), caption


def test_compositions_are_the_held_out_ones_and_carry_their_class():
  source = shapes.shapes(split="test", kind="compositions", length=32)
  found = set()
  for index in range(32):
    example = source[index]
    name = source.classes[example["label"]]
    ((colour, shape),) = told(name)
    assert held_out(shape, colour)
    assert f"{colour} {shape}" in example["text"][0]
    found.add(name)
  assert len(found) == 16 and len(source.classes) == 64


def test_one_thing_has_the_colour_and_the_place_that_are_named():
  rows = {"top": 0, "bottom": 2}
  columns = {"left": 0, "right": 2}
  for example in training(150, kind="single"):
    words = example["text"][0].split()
    seen = saturation(example["image"]) > 12
    colour = told(example["text"][0])[0][0]
    assert colour_of(example["image"]) == colour
    y, x = (3 * (lo + hi + 1) / 2 / 48 for lo, hi in (
        np.flatnonzero(seen.any(axis))[[0, -1]] for axis in (1, 0)
    ))
    row = next((rows[w] for w in words if w in rows), 1)
    column = next((columns[w] for w in words if w in columns), 1)
    # A pixel and the uneven outline of a triangle or a heart.
    assert row - 0.2 < y < row + 1.2 and column - 0.2 < x < column + 1.2


@pytest.mark.parametrize(("label", "axis"), [(1, 1), (2, 0)])
def test_the_first_named_stands_left_or_above(label, axis):
  checked = 0
  for example in training(400):
    if example["label"] != label:
      continue
    (first, _), (second, _) = told(example["text"][0])
    halves = np.split(example["image"], 2, axis)
    assert [colour_of(half) for half in halves] == [first, second]
    checked += 1
  assert checked > 50


def test_as_many_things_are_drawn_as_are_counted():
  checked = 0
  for example in training(400):
    if example["label"] == 3:
      count = ("two", "three", "four").index(example["text"][0].split()[0]) + 2
      seen = saturation(example["image"]) > 12
      _, found = ndimage.label(seen, np.ones((3, 3)))
      assert found == count, example["text"]
      checked += 1
  assert checked > 50


def test_large_things_are_larger_than_small_ones():
  sides = {"small": [], "large": []}
  for example in training(100, kind="single"):
    seen = saturation(example["image"]) > 12
    rows = np.flatnonzero(seen.any(1))
    sides[example["text"][0].split()[1]].append(rows[-1] - rows[0] + 1)
  assert max(sides["small"]) < min(sides["large"])


def test_no_two_test_scenes_share_a_caption():
  source = shapes.shapes(split="test")
  captions = [c for i in range(len(source)) for c in source[i]["text"]]
  assert len(source) == 1_000 and len(set(captions)) == len(captions)


def test_articles_fit():
  for example in training(300):
    for caption in example["text"]:
      assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption), caption


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_a_mask_is_a_share_and_keeps_its_size(shape):
  small, large = _drawing.mask(shape, 12), _drawing.mask(shape, 24)
  assert small.min() >= 0 and small.max() == 1
  # An outline that passes through a sample may count it on one side only.
  np.testing.assert_allclose(small, small[:, ::-1], atol=1 / 16)
  # The same share of the square at any size, up to a row of 48 samples.
  assert abs(small.mean() - large.mean()) < 0.05


def test_no_two_shapes_and_no_two_textures_look_alike():
  masks = [_drawing.mask(shape, 12) for shape in scenes.SHAPES]
  masks += [_drawing.texture(name, 12) for name in scenes.TEXTURES]
  for i, one in enumerate(masks):
    for two in masks[:i]:
      assert np.abs(one - two).mean() > 0.04


def test_a_circle_covers_what_a_circle_covers():
  area = np.pi * 0.95**2 / 4
  assert abs(_drawing.mask("circle", 40).mean() - area) < 2e-3  # 160 samples


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split": "val"}, "'train' or 'test'"),
        ({"kind": "pairs"}, "one of scenes, single"),
        ({"kind": "compositions"}, "never in the training split"),
        ({"canvas": 31}, "32 to 128"),
        ({"length": 0}, "at least 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_a_sentence(settings, said):
  with pytest.raises(ValueError, match=said):
    shapes.shapes(**settings)

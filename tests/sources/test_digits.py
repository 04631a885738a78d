"""Scenes of digits show what they say, and never what is held out."""

import itertools
import re

import numpy as np
import pytest
from sklearn import datasets

from basic.sources import _digit_scenes as scenes
from basic.sources import _handwriting, digits

WORDS = (
    "zero", "one", "two", "three", "four",
    "five", "six", "seven", "eight", "nine",
)
DIGIT = "|".join(WORDS)
PLURAL = {
    "zeroes": 0, "ones": 1, "twos": 2, "threes": 3, "fours": 4, "fives": 5,
    "sixes": 6, "sevens": 7, "eights": 8, "nines": 9,
}
ALL = [scene for n in (1, 2, 3, 4) for scene in scenes.compositions(n)]


def read(caption):
  """Digits in reading order, from the words alone."""
  caption = re.sub(r"^.*digits?: ", "", caption)
  sides = re.split(r" (?:to the right of|right of|below|under) ", caption)
  found = []
  for word in " ".join(reversed(sides)).replace(",", "").split():
    if word in PLURAL:  # the number before it says how many
      found += [PLURAL[word]] * (found.pop() if found else 1)
    elif word in WORDS:
      found.append(WORDS.index(word))
  return tuple(found)


def held_out(a, b):
  return (b - a) % 10 in (3, 5)


def test_exact_captions_name_the_digits_in_order():
  for scene in ALL:
    for caption in scenes.exact(scene):
      assert read(caption) == scene.digits, caption


def test_loose_captions_name_the_same_digits():
  for scene in ALL:
    for caption in scenes.loose(scene):
      assert sorted(read(caption)) == sorted(scene.digits), caption


def test_exact_captions_of_two_compositions_differ():
  captions = [caption for scene in ALL for caption in scenes.exact(scene)]
  assert len(captions) == 4 * len(ALL) - sum(
      # "a two left of a two" and "a two right of a two" are two captions of
      # one composition, so nothing is lost where both digits are equal
      4 - len(set(scenes.exact(scene))) for scene in ALL
  )
  assert len(set(captions)) == len(captions)


def test_articles_fit():
  captions = {
      c for scene in ALL for c in scenes.exact(scene) + scenes.loose(scene)
  }
  wrong = re.compile(r"\ba eight|\ban (?!eight)")
  assert not [c for c in captions if wrong.search(c)]


def test_held_out_pairs_leave_every_digit_its_share():
  assert len(scenes.HELD_OUT) == 20
  assert all(held_out(a, b) for a, b in scenes.HELD_OUT)
  assert sorted(scenes.HELD_OUT + scenes.SEEN) == list(
      itertools.product(range(10), repeat=2)
  )
  for digit in range(10):
    assert sum(a == digit for a, _ in scenes.HELD_OUT) == 2
    assert sum(b == digit for _, b in scenes.HELD_OUT) == 2


def test_no_training_composition_shows_a_held_out_pair():
  for scene in ALL:
    neighbours = list(itertools.pairwise(scene.digits))
    if scene.layout == "square":
      a, b, c, d = scene.digits
      neighbours += [(a, c), (b, d)]
    assert not [pair for pair in neighbours if held_out(*pair)], scene


def test_no_training_caption_names_a_held_out_pair():
  for scene in ALL:
    for caption in scenes.exact(scene) + scenes.loose(scene):
      told = read(caption)
      assert not [p for p in itertools.pairwise(told) if held_out(*p)], caption


def test_the_handwritten_images_are_split_evenly_and_apart():
  train, test = (_handwriting.handwritten(s) for s in ("train", "test"))
  assert sorted([*train.ids, *test.ids]) == list(range(1797))
  for digit in range(10):
    members = sum(train.digits == digit) + sum(test.digits == digit)
    assert sum(test.digits == digit) == members // 5


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", ["scenes", "single", "seen_pairs"])
def test_a_source_asks_for_its_own_images_only(monkeypatch, split, kind):
  asked, real = set(), _handwriting.handwritten

  def handwritten(split):
    asked.add(split)
    return real(split)

  monkeypatch.setattr(_handwriting, "handwritten", handwritten)
  source = digits.digits(split=split, kind=kind, length=20)
  for index in range(20):
    source[index]
  assert asked == {split}


def test_enlarging_keeps_a_flat_image_flat_and_size_eight_as_it_is():
  image = np.random.default_rng(0).random((8, 8), np.float32)
  np.testing.assert_allclose(_handwriting.enlarge(image, 8), image, rtol=1e-6)
  flat = np.full((8, 8), 0.5, np.float32)
  np.testing.assert_allclose(  # weights of four taps in float32
      _handwriting.enlarge(flat, 13), np.full((13, 13), 0.5), rtol=1e-6
  )


@pytest.mark.parametrize("canvas", [24, 32, 64])
@pytest.mark.parametrize("layout", scenes.LAYOUTS)
def test_digits_stand_where_the_layout_says(layout, canvas):
  rng = np.random.default_rng(0)
  for _ in range(50):
    boxes = digits._place(layout, canvas, rng.random)
    for top, left, size in boxes:
      assert size >= 7
      assert 0 <= top <= canvas - size and 0 <= left <= canvas - size
    (y0, x0, s0), (y1, x1, _) = boxes[0], boxes[-1]
    match layout:
      case "pair" | "row":
        assert all(b[1] >= a[1] + a[2] for a, b in itertools.pairwise(boxes))
      case "stack" | "column":
        assert all(b[0] >= a[0] + a[2] for a, b in itertools.pairwise(boxes))
      case "square":
        assert y1 >= y0 + s0 and x1 >= x0 + s0
        assert boxes[1][0] + boxes[1][2] <= y1
        assert boxes[2][1] + boxes[2][2] <= x1
      case _:
        row, column = divmod(list(scenes.LAYOUTS).index(layout), 3)
        for cell, corner in ((row, y0), (column, x0)):
          centre = 3 * (corner + s0 / 2) / canvas
          # Half a pixel each way is rounding.
          assert cell - 2 / canvas <= centre <= cell + 1 + 2 / canvas


def glyph(half):
  """The ink of half a canvas, cut out and made 8 by 8."""
  ink = np.clip(half.astype(np.float32) - np.median(half) - 40, 0, None)
  rows, columns = np.flatnonzero(ink.max(1)), np.flatnonzero(ink.max(0))
  ink = ink[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
  y = np.linspace(0, ink.shape[0] - 1, 8).round().astype(int)
  x = np.linspace(0, ink.shape[1] - 1, 8).round().astype(int)
  ink = ink[np.ix_(y, x)]
  return (ink / np.linalg.norm(ink)).ravel()


def test_a_nearest_neighbour_reads_held_out_pairs_from_left_to_right():
  single = digits.digits(kind="single", canvas=32, length=1400)
  known = [single[i] for i in range(1400)]
  gallery = np.stack([glyph(e["image"][..., 0]) for e in known])
  labels = np.array([e["label"] for e in known])
  source = digits.digits(split="test", kind="pairs")
  right = 0
  for index in range(100):
    example = source[index]
    image = example["image"][..., 0]
    # A pair 16 pixels apart in halves: no box crosses the middle.
    halves = np.split(image, 2, axis=1)
    left, other = (labels[np.argmax(gallery @ glyph(h))] for h in halves)
    right += 10 * left + other == example["label"]
  assert right > 60  # chance reads 1 of 100


@pytest.mark.parametrize("kind", ["pairs", "seen_pairs"])
def test_pairs_carry_their_class_as_a_caption(kind):
  source = digits.digits(split="test", kind=kind, length=100)
  assert len(source.classes) == 100
  found = set()
  for index in range(100):
    example = source[index]
    label = int(example["label"])
    assert source.classes[label] == example["text"][0]
    assert held_out(*divmod(label, 10)) == (kind == "pairs")
    found.add(label)
  assert len(found) == (20 if kind == "pairs" else 80)


def test_single_shows_every_test_digit_once_with_its_label():
  source = digits.digits(split="test", kind="single")
  target = datasets.load_digits().target
  examples = [source[i] for i in range(len(source))]
  ids = [int(e["id"]) for e in examples]
  assert sorted(ids) == sorted(_handwriting.handwritten("test").ids)
  assert [int(e["label"]) for e in examples] == [target[i] for i in ids]
  assert source.classes == WORDS


def test_no_two_test_scenes_share_a_caption():
  source = digits.digits(split="test")
  assert len(source) == 1_000
  captions = [c for i in range(1_000) for c in source[i]["text"]]
  assert len(set(captions)) == len(captions)


def test_scenes_count_their_digits_and_follow_the_mix():
  source = digits.digits(mix=(0.0, 1.0, 0.0, 3.0), length=400)
  labels = [int(source[i]["label"]) for i in range(400)]
  assert set(labels) == {1, 3}
  # Six standard deviations of a binomial around 100.
  assert abs(labels.count(1) - 100) < 52
  for index in range(20):
    example = source[index]
    assert len(read(example["text"][0])) == example["label"] + 1


def test_a_longer_test_split_begins_like_a_shorter_one():
  short, long = (digits.digits(split="test", length=n) for n in (20, 40))
  for index in range(20):
    assert short[index]["text"] == long[index]["text"]


def test_another_seed_draws_other_scenes_of_the_same_kind():
  one, two = (digits.digits(seed=seed, length=20) for seed in (0, 1))
  assert [one[i]["text"] for i in range(20)] != [
      two[i]["text"] for i in range(20)
  ]


def test_three_channels_are_one_three_times():
  gray, rgb = (digits.digits(channels=c, length=4) for c in (1, 3))
  for index in range(4):
    np.testing.assert_array_equal(
        np.repeat(gray[index]["image"], 3, axis=2), rgb[index]["image"]
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split": "val"}, "'train' or 'test'"),
        ({"kind": "triples"}, "one of scenes, single"),
        ({"kind": "pairs"}, "held-out pairs are never in the training split"),
        ({"canvas": 23}, "24 to 64"),
        ({"canvas": 65}, "24 to 64"),
        ({"channels": 2}, "1 or 3"),
        ({"mix": (0.0, 0.0, 0.0, 0.0)}, "not all zero"),
        ({"mix": (-1.0, 1.0, 1.0, 1.0)}, "not all zero"),
        ({"length": 0}, "at least 1"),
        ({"kind": "single", "split": "test", "length": 400}, "single digits"),
        ({"split": "test", "length": 91, "mix": (1.0, 0.0, 0.0, 0.0)},
         "only 90 were found"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_a_sentence(settings, said):
  with pytest.raises(ValueError, match=said):
    digits.digits(**settings)

"""Crops are drawn as their settings say, and from nothing but their generator."""

import io
import math
import pickle

import numpy as np
import pytest
from PIL import Image

from basic.augmentations import _photometric, _randaugment, crop
from basic.data import decoding, examples, images

DRAWS = 2_000
# Dvoretzky, Kiefer and Wolfowitz: P(sup |F_n - F| > d) <= 2 exp(-2 n d^2),
# here 2e-8; and five standard deviations of a share. Seeds are fixed.
FAR = 0.068
FULL = dict(
    size=6, copies=2, randaugment=(2, 9), jitter=(0.8, 0.8, 0.8, 0.2), gray=0.5,
    blur=0.5, solarize=0.5, erase=0.5, boxes=True,
)


def places(height=60, width=80):
  """An image that says in each pixel where it is."""
  y, x = np.mgrid[:height, :width]
  return np.stack([y * 4, x * 3, 0 * x], -1).astype(np.uint8)


def draws(change, image, count=DRAWS):
  rng = np.random.default_rng(0)
  return [change({"image": image}, rng, None) for _ in range(count)]


def distance(values, low, high):
  """Kolmogorov's distance of a sample from the uniform distribution."""
  cdf = (np.sort(values) - low) / (high - low)
  steps = np.arange(len(cdf) + 1) / len(cdf)
  return max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max())


def share_is(found, expected):
  spread = math.sqrt(expected * (1 - expected) / len(found))
  return abs(np.mean(found) - expected) < 5 * spread


@pytest.mark.parametrize("copies", [1, 3])
def test_shapes_are_those_promised(copies):
  made = crop.crop(**{**FULL, "copies": copies})
  found = made({"image": places()}, np.random.default_rng(0), None)
  lead = () if copies == 1 else (copies,)
  assert found[""].shape == (*lead, 6, 6, 3) and found[""].dtype == np.uint8
  assert found["box"].shape == (*lead, 4) and found["box"].dtype == np.float32
  assert found["mirrored"].shape == lead and found["mirrored"].dtype == bool
  assert set(crop.crop(size=6)({"image": places()}, None, None)) == {""}


def test_a_crop_is_a_function_of_its_generator_alone():
  made = crop.crop(**FULL)
  again = pickle.loads(pickle.dumps(made))
  example = {"image": places()}
  one = made(example, np.random.default_rng(3), None)
  two = again(example, np.random.default_rng(3), {"image": 255 - places()})
  other = made(example, np.random.default_rng(4), None)
  for name in one:
    np.testing.assert_array_equal(one[name], two[name])
  assert not np.array_equal(one[""], other[""])
  assert not np.array_equal(one[""][0], one[""][1])  # copies differ
  np.testing.assert_array_equal(example["image"], places())


def test_without_a_generator_all_copies_are_the_center():
  found = crop.crop(**FULL)({"image": places()}, None, None)
  expected = images.resize(places(), 6)
  for copy in found[""]:
    np.testing.assert_array_equal(copy, expected)
  np.testing.assert_allclose(found["box"][0], [0, 1 / 8, 1, 7 / 8])
  assert not found["mirrored"].any()


def test_boxes_say_where_crops_lie():
  made = crop.crop(size=16, copies=4, scale=(0.2, 0.5), boxes=True)
  image = places()
  for found in draws(made, image, 20):
    for pixels, box, mirrored in zip(
        found[""], found["box"], found["mirrored"], strict=True):
      pixels = pixels[:, ::-1] if mirrored else pixels
      top, left, bottom, right = box * [60, 80, 60, 80]
      # The middle of the first row of pixels, a sixteenth of the crop wide.
      y = pixels[..., 0].mean(1) / 4
      x = pixels[..., 1].mean(0) / 3
      np.testing.assert_allclose(y.mean(), (top + bottom - 1) / 2, atol=0.5)
      np.testing.assert_allclose(x.mean(), (left + right - 1) / 2, atol=0.5)
      np.testing.assert_allclose(np.ptp(x), (right - left) * 15 / 16, rtol=0.15)


def test_the_area_and_the_mirror_of_crops_have_their_distribution():
  made = crop.crop(size=4, scale=(0.2, 0.4), boxes=True)
  flat = np.broadcast_to(np.uint8(0), (300, 300, 1))
  found = draws(made, flat)
  boxes = np.array([each["box"] for each in found])
  area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
  assert distance(area, 0.2, 0.4) < FAR
  aspect = np.log((boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0]))
  assert distance(aspect, -math.log(4 / 3), math.log(4 / 3)) < FAR
  assert share_is([each["mirrored"] for each in found], 0.5)
  never = draws(crop.crop(size=4, mirror=False, boxes=True), flat, 50)
  assert not any(each["mirrored"] for each in never)


@pytest.mark.parametrize("setting", ["gray", "blur", "solarize", "erase"])
def test_a_change_happens_as_often_as_its_probability(setting, monkeypatch):
  called = []
  name = {"gray": "grayscale"}.get(setting, setting)
  monkeypatch.setattr(
      _photometric, name, lambda image, *rest: (called.append(rest), image)[1])
  draws(crop.crop(size=4, **{setting: 0.3}), places(8, 8))
  assert share_is(np.arange(DRAWS) < len(called), 0.3)
  if setting == "blur":
    sigmas = np.array(called)[:, 0]
    assert distance(sigmas, 0.1, 2.0) < FAR * 2 and 0.1 <= sigmas.min() < 0.12
  if setting == "erase":
    assert {len(box) for box, in called} == {4}


def test_a_jitter_draws_each_strength_and_every_order(monkeypatch):
  orders, values = [], {n: [] for n in range(4)}
  names = ("brightness", "contrast", "saturation", "hue")
  for n, name in enumerate(names):
    def note(image, amount, n=n):
      orders[-1].append(n)
      values[n].append(amount)
      return image
    monkeypatch.setattr(_photometric, name, note)
  made = crop.crop(size=4, jitter=(0.8, 0.6, 1.5, 0.2))
  rng = np.random.default_rng(0)
  for _ in range(DRAWS):
    orders.append([])
    made({"image": places(8, 8)}, rng, None)
  assert share_is([bool(order) for order in orders], 0.8)
  drawn = [tuple(order) for order in orders if order]
  counts = np.array([drawn.count(order) for order in set(drawn)])
  assert len(counts) == 24 and all(
      share_is(np.arange(len(drawn)) < count, 1 / 24) for count in counts)
  ranges = ((0.2, 1.8), (0.4, 1.6), (0.0, 2.5), (-0.2, 0.2))
  for n, (low, high) in enumerate(ranges):
    assert distance(np.array(values[n]), low, high) < FAR * 1.2


def test_an_erasing_covers_its_share():
  made = crop.crop(size=40, erase=1.0, mirror=False, scale=(1.0, 1.0))
  white = np.full((40, 40, 3), 255, np.uint8)
  covered = np.array([
      (each[""][..., 0] == 128).mean() for each in draws(made, white, 500)])
  assert covered.max() <= 0.35 and covered.min() < 0.03
  # Long rectangles of a large area do not fit and are drawn again.
  assert 0.12 < covered.mean() < 0.19


def test_randaugment_draws_every_operation(monkeypatch):
  called = []
  table = {
      name: (
          lambda image, amount, name=name: (
              called.append((name, amount)), image)[1], lambda share: share, signed)
      for name, (_, _, signed) in _randaugment.OPERATIONS.items()
  }
  monkeypatch.setattr(_randaugment, "OPERATIONS", table)
  draws(crop.crop(size=4, randaugment=(2, 12)), places(8, 8))
  assert len(called) == 2 * DRAWS
  names = [name for name, _ in called]
  for name, (_, _, signed) in table.items():
    assert share_is([each == name for each in names], 1 / len(table))
    amounts = [amount for each, amount in called if each == name]
    assert set(amounts) == ({-0.4, 0.4} if signed else {0.4})
    if signed:
      assert share_is(np.array(amounts) < 0, 0.5)


def jpeg(image):
  data = io.BytesIO()
  Image.fromarray(image).save(data, "JPEG", quality=95, subsampling=0)
  return decoding.Encoded(data.getvalue())


def test_a_large_file_is_decoded_at_a_fraction_that_suffices(monkeypatch):
  reductions = []
  decode = decoding.Encoded.decode

  def note(self, reduce=1):
    reductions.append(reduce)
    return decode(self, reduce)

  monkeypatch.setattr(decoding.Encoded, "decode", note)
  y, x = np.mgrid[:400, :640]
  image = np.stack([y / 2, x / 3, 0 * x], -1).astype(np.uint8)
  for side, expected in ((400, 1), (300, 1), (200, 2), (100, 4), (50, 8), (20, 8)):
    made = crop.crop(size=side, scale=(1.0, 1.0), ratio=(1.0, 1.0), mirror=False)
    found = made({"image": jpeg(image)}, np.random.default_rng(0), None)[""]
    assert reductions.pop() == expected
    want = made({"image": image}, np.random.default_rng(0), None)[""]
    assert np.abs(found.astype(int) - want).mean() < 2
  # With crops of a sixteenth of the image, those need more pixels.
  made = crop.crop(size=50, scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0))
  made({"image": jpeg(image)}, np.random.default_rng(0), None)
  assert reductions.pop() == 2
  # The smallest part decides, and its shorter side.
  for boxes in ([(0, 0, 400, 400), (9, 9, 60, 60)], [(0, 0, 60, 400)]):
    images.cuts(jpeg(image), boxes, 50)
    assert reductions.pop() == 1
  # Without a generator, and for a whole example, pixels stay what they are.
  images.augment(size=50, crop="random")(jpeg(image), None)
  assert reductions.pop() == 1


def test_augment_cuts_the_same_part_from_file_and_pixels():
  y, x = np.mgrid[:400, :640]
  image = np.stack([y / 2, x / 3, 0 * x], -1).astype(np.uint8)
  change = images.augment(size=32, crop="random", mirror=True)
  for seed in range(20):
    one = change(jpeg(image), np.random.default_rng(seed))
    two = change(image, np.random.default_rng(seed))
    assert np.abs(one.astype(int) - two).max() < 12  # a pixel of eight, and JPEG


@pytest.mark.parametrize(("settings", "said"), [
    (dict(size=0), "size is 0; it takes at least 1"),
    (dict(copies=0), "copies is 0"),
    (dict(scale=(0.5, 0.2)), "scale is"),
    (dict(scale=(0.5, 1.2)), "scale is"),
    (dict(ratio=(0.0, 1.0)), "ratio is"),
    (dict(gray=1.5), "gray is 1.5; it takes a probability"),
    (dict(erase=-0.1), "erase is"),
    (dict(jitter=(0.4, 0.4, 0.4, 0.6)), "hue at most 0.5"),
    (dict(jitter=(-0.4, 0.4, 0.4, 0.1)), "jitter is"),
    (dict(blur_sigma=(2.0, 1.0)), "blur_sigma is"),
    (dict(randaugment=(2, 31)), "magnitude from 0 to 30"),
])
def test_a_setting_out_of_its_range_is_refused(settings, said):
  with pytest.raises(ValueError, match=said):
    crop.crop(**{"size": 4, **settings})


def test_an_example_without_the_image_is_refused_in_words():
  with pytest.raises(ValueError, match="set `of` to a field"):
    crop.crop(size=4)({"photo": places()}, None, None)
  with pytest.raises(ValueError, match="a crop takes uint8"):
    crop.crop(size=4)({"image": np.zeros((4, 4, 3))}, None, None)


def test_looks_replace_the_image_in_training_alone():
  looks = {
      "small": crop.crop(size=2, copies=3),
      "pair": crop.crop(size=4, copies=2, boxes=True),
  }
  prepared = examples.prepare(
      tokenize=None, augment=images.augment(size=5), looks=looks)
  example = {"image": jpeg(places()), "label": 3}
  trained = prepared(example, np.random.default_rng(0))
  assert {name: field.shape for name, field in trained.items()} == {
      "label": (), "pair": (2, 4, 4, 3), "pair_box": (2, 4),
      "pair_mirrored": (2,), "small": (3, 2, 2, 3)}
  # In alphabetical order, whatever their order in the settings.
  turned = examples.prepare(tokenize=None, looks=dict(reversed(looks.items())))
  again = turned(example, np.random.default_rng(0))
  for name, field in trained.items():
    np.testing.assert_array_equal(again[name], field)
  evaluated = prepared(example, None)
  assert {name: field.shape for name, field in evaluated.items()} == {
      "image": (5, 5, 3), "label": ()}


def tinted(example, rng, companion):
  """What a batch shares: the level of its companion; and captions."""
  return {"": companion["image"][:1, :1], "text": ("a", "b"), "one": "c"}


def test_a_look_sees_the_companion_and_its_captions_become_ids():
  source = [{"image": np.full((2, 2, 3), n, np.uint8)} for n in range(8)]
  prepared = examples.prepare(
      tokenize=lambda text: np.array([ord(text), 0], np.int32),
      looks={"tint": tinted})
  rng = np.random.default_rng(0)
  row = examples.read_or_substitute(source, prepared, 2, rng, companion=5)
  assert (row.arrays["tint"] == 5).all()
  assert row.arrays["tint_text"].tolist() == [[97, 0], [98, 0]]
  assert row.arrays["tint_one"].tolist() == [99, 0]


def test_companions_are_drawn_from_the_whole_source():
  count = 50
  found = np.array([examples.companion(7, n, count) for n in range(DRAWS)])
  assert distance(found + 0.5, 0, count) < FAR
  assert examples.companion(7, 3, count) == found[3]
  other = np.array([examples.companion(8, n, count) for n in range(DRAWS)])
  assert share_is(found == other, 1 / count)

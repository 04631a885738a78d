"""Recall both ways on 4 images and 20 captions, whose scores are written out."""

import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from basic import types
from basic.data import examples, pipeline
from basic.evals import retrieval as module
from basic.evals import zeroshot

# The cosine of image i and caption j, in hundredths. Captions 5 i to 5 i + 4
# belong to image i: its row is cut into the captions of images 0, 1, 2, 3.
HUNDREDTHS = np.array([
    # own first: rank 0
    [61, 20, 12, 3, 0, 41, 2, 1, 7, 9, 33, 5, 6, 8, 4, 10, 11, 13, 14, 15],
    # one caption of image 0 and one of image 3 before its best, 50: rank 2
    [62, 19, 18, 17, 16, 50, 49, 3, 42, 2, 4, 5, 6, 7, 8, 55, 9, 10, 11, 12],
    # its own are the worst, 1 at best: rank 15
    [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 1, 0, -1, -2, -3, 15, 16, 17, 18, 19],
    # every other image has one caption before its best, 30: rank 3
    [31, 2, 3, 4, 5, 32, 6, 7, 8, 10, 44, 11, 12, 13, 14, 30, 29, 28, 27, 26],
])
OWNER = np.repeat(np.arange(4), 5)


def embeddings(scores):
  """Unit rows whose inner products are `scores`, on one axis an image."""
  images = np.eye(len(scores), len(scores) + 1)
  rest = np.sqrt(1 - np.sum(scores**2, axis=0))
  return images, np.concatenate([scores.T, rest[:, None]], axis=1)


class Encode:
  """Looks images and captions up by the number that they hold."""

  def __init__(self, images, captions):
    padding = np.full((1, captions.shape[1]), np.nan)
    self.tables = {
        "image": images, "text": np.concatenate([padding, captions]),
    }
    self.calls = []

  def __call__(self, batch):
    self.calls += [(view, leaf.shape) for view, leaf in batch.items()]
    views = {
        view: jnp.asarray(self.tables[view][np.asarray(leaf).max(axis=-1)])
        for view, leaf in batch.items()
    }
    # Not unit vectors, and in no order of length.
    scale = {"image": 3.0, "text": 0.5}
    return types.Embedded(
        {v: types.Features(jnp.float32(scale[v]) * x) for v, x in views.items()},
        {},
    )


def hand_made():
  """The 4 x 20 set: an encoder for it, its images, its captions [4 5 2]."""
  encode = Encode(*embeddings(HUNDREDTHS / 100))
  tokens = np.arange(1, 21).reshape(4, 5)
  return encode, np.arange(4)[:, None], np.stack([tokens, 0 * tokens], axis=-1)


def whole(images, captions):
  batch = {"image": images, "captions": captions}
  return [(batch, np.ones(len(images), bool))]


def recalls(name, ranks, at):
  return {f"{name}@{k}": pytest.approx(np.mean(ranks < k)) for k in at}


def direction(name, scores, matches, at):
  """Every metric of a direction from the equations; scores [query, item]."""
  best, ndcg = [], []
  for row, own in zip(scores, matches, strict=True):
    order = sorted(range(len(row)), key=lambda j, r=row: (-r[j], j))
    ranks = [order.index(j) for j in own]
    best.append(1 + min(ranks))
    ndcg.append(
        sum(1 / math.log2(2 + r) for r in ranks)
        / sum(1 / math.log2(2 + p) for p in range(len(own))))
  return {
      **recalls(name, np.array(best) - 1, at),
      f"{name}_median_rank": statistics.median(best),
      f"{name}_mean_rank": pytest.approx(statistics.fmean(best)),
      f"{name}_ndcg": pytest.approx(statistics.fmean(ndcg), rel=1e-12),
  }


def protocol(scores, owner, at, language=""):
  """Both directions, for the images that have captions."""
  owner = np.asarray(owner)
  asking = np.unique(owner)
  own = [np.flatnonzero(owner == i) for i in asking]
  end = f"/{language}" if language else ""
  return {
      **direction(f"/image_to_text{end}", scores[asking], own, at),
      **direction(f"/text_to_image{end}", scores.T, owner[:, None], at),
  }


@pytest.mark.parametrize("block", [3, 1024])
def test_recall_of_the_hand_made_set(block):
  encode, images, captions = hand_made()
  evaluate = module.retrieval(at=(1, 3, 5, 20, 21), block=block)
  metrics = evaluate(encode, whole(images, captions))
  expected = protocol(HUNDREDTHS, OWNER, (1, 3, 5, 20))
  # There are 4 images, so 5 and more say nothing.
  del expected["/text_to_image@5"], expected["/text_to_image@20"]
  assert metrics == {
      **expected, "/count": 4.0, "/captions": 20.0, "/distractors": 0.0,
      "/image_to_text@1": 1 / 4, "/image_to_text@3": 2 / 4,
      "/image_to_text@5": 3 / 4, "/image_to_text@20": 1,
      "/image_to_text_median_rank": 3.5,  # of 1, 3, 16, 4
      "/image_to_text_mean_rank": 6.0,
  }


@pytest.mark.parametrize("batch_size", [1, 7, 20, 64])
def test_captions_travel_in_batches_of_one_shape(batch_size):
  encode, images, captions = hand_made()
  batches = whole(images, captions)
  expected = module.retrieval()(encode, batches)
  encode.calls.clear()
  assert module.retrieval(batch_size=batch_size)(encode, batches) == expected
  texts = [shape for view, shape in encode.calls if view == "text"]
  assert texts == [(batch_size, 2)] * -(-20 // batch_size)


def test_masked_rows_and_the_cut_into_batches_change_nothing():
  encode, images, captions = hand_made()
  expected = module.retrieval()(encode, whole(images, captions))
  batches = [
      ({"image": images[:3], "captions": captions[:3]}, np.ones(3, bool)),
      ({
          "image": images[[0, 3, 1]], "captions": captions[[2, 3, 1]],
      }, jnp.array([False, True, False])),
  ]
  assert module.retrieval()(encode, batches) == expected


class Ragged:
  """Image i has 1 + (5 i mod 13) captions, so many more than most sets have."""

  COUNTS = (1, 6, 11, 3, 8, 13, 5)

  def __len__(self):
    return len(self.COUNTS)

  def __getitem__(self, index):
    before = sum(self.COUNTS[:index])
    numbers = range(before, before + self.COUNTS[index])
    return {
        "image": np.array([index], np.uint8), "label": index % 2,
        "text": tuple(str(1 + n) for n in numbers),
    }


def read_number(text):
  return np.array([int(text), 0], np.int32)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_images_may_have_any_number_of_captions(batch_size):
  owner = np.repeat(np.arange(7), Ragged.COUNTS)
  assert max(Ragged.COUNTS) > 10
  scores = np.random.default_rng(0).uniform(-0.3, 0.3, (7, len(owner)))
  ready = examples.prepare(tokenize=read_number)
  metrics = module.retrieval(at=(1, 5))(
      Encode(*embeddings(scores)),
      pipeline.once(
          Ragged(), prepare=ready, batch_size=batch_size, threads=0))
  assert metrics == {
      **protocol(scores, owner, (1, 5)), "/count": 7.0,
      "/captions": float(len(owner)), "/distractors": 0.0,
  }


class Spoken(Ragged):
  """The captions of an image are in three languages, in turn."""

  def __getitem__(self, index):
    example = super().__getitem__(index)
    spoken = [("de", "en", "")[int(n) % 3] for n in example["text"]]
    return {**example, "text_languages": tuple(spoken)}


@pytest.mark.parametrize("batch_size", [2, 8])
def test_languages_of_a_source_reach_the_metrics(batch_size):
  owner = np.repeat(np.arange(7), Ragged.COUNTS)
  scores = np.random.default_rng(0).uniform(-0.3, 0.3, (7, len(owner)))
  ready = examples.prepare(tokenize=read_number)
  metrics = module.retrieval(at=(1, 5))(
      Encode(*embeddings(scores)),
      pipeline.once(Spoken(), prepare=ready, batch_size=batch_size, threads=0))
  expected = protocol(scores, owner, (1, 5))
  for language, remainder in ("de", 0), ("en", 1):
    chosen = np.flatnonzero((1 + np.arange(len(owner))) % 3 == remainder)
    expected |= protocol(scores[:, chosen], owner[chosen], (1, 5), language)
    expected[f"/captions/{language}"] = float(len(chosen))
  assert metrics == {
      **expected, "/count": 7.0, "/captions": float(len(owner)),
      "/distractors": 0.0,
  }


def test_zero_shot_does_not_mind_how_many_captions_there_are():
  evaluate = zeroshot.zeroshot(
      tokenize=lambda names: np.stack([read_number(x) for x in names]),
      classes=("1", "2"))
  encode = Encode(np.eye(2)[np.arange(7) % 2], np.eye(2))
  ready = examples.prepare(tokenize=read_number)
  batches = pipeline.once(Ragged(), prepare=ready, batch_size=4, threads=0)
  assert evaluate(encode, batches)["@1"] == 1.0


def test_absent_captions_and_images_without_any_are_no_question():
  encode, images, captions = hand_made()
  captions[0, 1:] = 0
  captions[2] = 0
  present = np.array([0, *range(5, 10), *range(15, 20)])
  metrics = module.retrieval(at=(1, 2, 3))(encode, whole(images, captions))
  assert metrics == {
      **protocol(HUNDREDTHS[:, present], OWNER[present], (1, 2, 3)),
      "/count": 3.0, "/captions": 11.0, "/distractors": 1.0,
  }


def test_only_the_first_captions_of_an_image_count_if_so_many_are_asked_for():
  encode, images, captions = hand_made()
  captions[3, 1:] = 0  # One caption is fewer than two.
  metrics = module.retrieval(at=(1, 3), most_captions=2)(
      encode, whole(images, captions))
  present = np.array([0, 1, 5, 6, 10, 11, 15])
  assert metrics.items() >= protocol(
      HUNDREDTHS[:, present], OWNER[present], (1, 3)).items()
  assert metrics["/captions"] == 7.0


def test_captions_of_each_language_are_judged_among_themselves():
  encode, images, captions = hand_made()
  # Image 2 has none in "en", and one of image 3 has no language.
  languages = np.array([
      ["de", "en", "en", "de", "sw"], ["en", "de", "de", "en", "sw"],
      ["de", "de", "sw", "sw", "sw"], ["", "en", "de", "en", "sw"],
  ])
  batch = {"image": images, "captions": captions, "caption_languages": languages}
  metrics = module.retrieval(at=(1, 3), block=3)(
      encode, [(batch, np.ones(4, bool))])
  expected = protocol(HUNDREDTHS, OWNER, (1, 3))
  for language, count in ("de", 7), ("en", 6), ("sw", 6):
    chosen = np.flatnonzero(languages.reshape(-1) == language)
    assert len(chosen) == count
    expected |= protocol(
        HUNDREDTHS[:, chosen], OWNER[chosen], (1, 3), language)
    expected[f"/captions/{language}"] = float(count)
  assert metrics == {
      **expected, "/count": 4.0, "/captions": 20.0, "/distractors": 0.0,
  }


def test_ties_are_ranked_by_index_and_equal_the_double_loop():
  rng = np.random.default_rng(1)
  images, texts = np.eye(8)[rng.integers(0, 3, 9)], np.eye(8)[rng.integers(0, 3, 27)]
  owner = np.repeat(np.arange(9), 3)
  metrics = module.retrieval(at=(1, 3, 5), block=4)(
      Encode(images, texts),
      whole(np.arange(9)[:, None], np.arange(1, 28).reshape(9, 3, 1)))
  assert metrics.items() >= protocol(images @ texts.T, owner, (1, 3, 5)).items()


def test_four_devices_give_the_metrics_of_one():
  encode, images, captions = hand_made()
  evaluate = module.retrieval(at=(1, 3), block=2)
  expected = evaluate(encode, whole(images, captions))
  mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,),
                       devices=jax.devices()[:4])
  with jax.set_mesh(mesh):
    assert evaluate(encode, whole(images, captions)) == expected


def test_random_set_equals_the_protocol_written_out():
  rng = np.random.default_rng(0)
  images, captions = rng.normal(size=(9, 4)), rng.normal(size=(27, 4))
  cosines = images @ captions.T
  cosines /= np.linalg.norm(images, axis=1)[:, None]
  cosines /= np.linalg.norm(captions, axis=1)[None, :]
  batches = whole(np.arange(9)[:, None], np.arange(1, 28).reshape(9, 3, 1))
  metrics = module.retrieval(at=(1, 3), block=4)(Encode(images, captions), batches)
  assert metrics.items() >= protocol(
      cosines, np.repeat(np.arange(9), 3), (1, 3)).items()


def test_a_collapsed_encoder_scores_at_chance():
  encode = Encode(np.ones((4, 2)), np.ones((20, 2)))
  _, images, captions = hand_made()
  metrics = module.retrieval(at=(1,))(encode, whole(images, captions))
  assert metrics["/image_to_text@1"] == metrics["/text_to_image@1"] == 1 / 4


def test_not_a_number_is_a_miss():
  encode = Encode(np.full((4, 2), np.nan), np.ones((20, 2)))
  _, images, captions = hand_made()
  metrics = module.retrieval(at=(1, 4))(encode, whole(images, captions))
  assert metrics["/image_to_text@4"] == metrics["/text_to_image@4"] == 0
  assert metrics["/image_to_text_ndcg"] == metrics["/text_to_image_ndcg"] == 0
  assert metrics["/image_to_text_mean_rank"] == 21
  assert metrics["/text_to_image_mean_rank"] == 5


@pytest.mark.parametrize("changes", [
    {"at": (0, 1)}, {"block": 0}, {"batch_size": 0}, {"most_captions": 0},
])
def test_what_cannot_be_meant_is_refused_at_once(changes):
  with pytest.raises(ValueError, match="whole numbers from 1"):
    module.retrieval(**changes)


@pytest.mark.parametrize("batches, sentence", [
    ([], "0 images and no caption"),
    (whole(np.zeros((2, 1), int), np.zeros((2, 1, 1), int)), "2 images and no"),
    (whole(np.zeros((2, 1), int), np.ones((2, 3), int)), r"\[2, 3\] .* \[b k t\]"),
    ([({"image": np.zeros((2, 1), int)}, np.ones(2, bool))],
     r"needs \['captions'\]"),
    ([({"image": np.zeros((2, 1), int), "captions": np.ones((2, 3, 1), int),
        "caption_languages": np.array(["de", "en"])}, np.ones(2, bool))],
     r"'caption_languages' <U2\[2\] and needs text \[2, 3\]"),
])
def test_what_cannot_be_judged_is_said(batches, sentence):
  encode, _, _ = hand_made()
  with pytest.raises(ValueError, match=sentence):
    module.retrieval()(encode, batches)

"""Recall both ways on 4 images and 20 captions, whose scores are written out."""

import jax.numpy as jnp
import numpy as np
import pytest

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


def oracle(scores, owner):
  """Ranks of the best own caption and of the own image, by counting."""
  to_text, to_image = [], []
  for i, row in enumerate(scores):
    own = [j for j in range(len(row)) if owner[j] == i]
    if not own:
      continue
    best = max(own, key=lambda j, r=row: (r[j], -j))
    before = [(s, -j) > (row[best], -best) for j, s in enumerate(row)]
    to_text.append(sum(before))
  for j, column in enumerate(scores.T):
    own = owner[j]
    before = [(s, -i) > (column[own], -own) for i, s in enumerate(column)]
    to_image.append(sum(before))
  return np.array(to_text), np.array(to_image)


def recalls(name, ranks, at):
  return {f"{name}@{k}": pytest.approx(np.mean(ranks < k)) for k in at}


def test_hand_made_ranks_are_the_counted_ones():
  to_text, to_image = oracle(HUNDREDTHS, OWNER)
  np.testing.assert_array_equal(to_text, [0, 2, 15, 3])
  assert set(to_image) == {0, 1, 2, 3}


@pytest.mark.parametrize("block", [3, 1024])
def test_recall_of_the_hand_made_set(block):
  encode, images, captions = hand_made()
  evaluate = module.retrieval(at=(1, 3, 5, 20, 21), block=block)
  metrics = evaluate(encode, whole(images, captions))
  _, to_image = oracle(HUNDREDTHS, OWNER)
  assert metrics == {
      "/image_to_text@1": 1 / 4, "/image_to_text@3": 2 / 4,
      "/image_to_text@5": 3 / 4, "/image_to_text@20": 1,
      "/image_to_text_median_rank": 3.5,  # of 1, 3, 16, 4
      # there are 4 images, so 5 and more say nothing
      **recalls("/text_to_image", to_image, [1, 3]),
      "/text_to_image_median_rank": np.median(to_image + 1),
      "/count": 4.0, "/captions": 20.0, "/distractors": 0.0,
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
  to_text, to_image = oracle(scores, owner)
  assert metrics == {
      **recalls("/image_to_text", to_text, (1, 5)),
      **recalls("/text_to_image", to_image, (1, 5)),
      "/image_to_text_median_rank": np.median(to_text + 1),
      "/text_to_image_median_rank": np.median(to_image + 1),
      "/count": 7.0, "/captions": float(len(owner)), "/distractors": 0.0,
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
  to_text, to_image = oracle(HUNDREDTHS[:, present], OWNER[present])
  assert metrics.items() >= {
      **recalls("/image_to_text", to_text, (1, 2, 3)),
      **recalls("/text_to_image", to_image, (1, 2, 3)),
      "/count": 3.0, "/captions": 11.0, "/distractors": 1.0,
  }.items()


def test_random_set_equals_the_protocol_written_out():
  rng = np.random.default_rng(0)
  images, captions = rng.normal(size=(9, 4)), rng.normal(size=(27, 4))
  cosines = images @ captions.T
  cosines /= np.linalg.norm(images, axis=1)[:, None]
  cosines /= np.linalg.norm(captions, axis=1)[None, :]
  to_text, to_image = oracle(cosines, np.repeat(np.arange(9), 3))
  batches = whole(np.arange(9)[:, None], np.arange(1, 28).reshape(9, 3, 1))
  metrics = module.retrieval(at=(1, 3), block=4)(Encode(images, captions), batches)
  assert metrics.items() >= {
      **recalls("/image_to_text", to_text, (1, 3)),
      **recalls("/text_to_image", to_image, (1, 3)),
  }.items()


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


@pytest.mark.parametrize("changes", [{"at": (0, 1)}, {"block": 0}, {"batch_size": 0}])
def test_what_cannot_be_meant_is_refused_at_once(changes):
  with pytest.raises(ValueError, match="whole numbers from 1"):
    module.retrieval(**changes)


@pytest.mark.parametrize("batches, sentence", [
    ([], "0 images and no caption"),
    (whole(np.zeros((2, 1), int), np.zeros((2, 1, 1), int)), "2 images and no"),
    (whole(np.zeros((2, 1), int), np.ones((2, 3), int)), r"\[2, 3\] .* \[b k t\]"),
    ([({"image": np.zeros((2, 1), int)}, np.ones(2, bool))],
     r"needs \['captions'\]"),
])
def test_what_cannot_be_judged_is_said(batches, sentence):
  encode, _, _ = hand_made()
  with pytest.raises(ValueError, match=sentence):
    module.retrieval()(encode, batches)

"""Zero-shot accuracy on images and prompts small enough to work by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from basic import types
from basic.evals import zeroshot as module

CLASSES = ("ant", "bee", "cat")
TEMPLATES = ("a {}", "the {}!")

# One vector a prompt. The two of a class differ in length and direction, so
# that both normalisations of the protocol decide which class is nearest.
VECTORS = {
    "a ant": (9.0, 0.0, 0.0), "the ant!": (0.6, 0.8, 0.0),
    "a bee": (0.0, 1.0, 0.0), "the bee!": (-4.0, -3.0, 0.0),
    "a cat": (0.0, 0.0, 1.0), "the cat!": (0.0, 0.0, 5.0),
}
PROMPTS = list(VECTORS)
TABLE = np.array([(7.0, 7.0, 7.0), *VECTORS.values()])  # row 0 is padding


def tokenize(prompts):
  return np.array([[PROMPTS.index(prompt) + 1, 0] for prompt in prompts])


class Encode:
  """Images are their own embeddings; prompts are looked up."""

  def __init__(self):
    self.calls = []

  def __call__(self, batch):
    self.calls += [(view, leaf.shape, leaf.dtype) for view, leaf in batch.items()]
    views = {
        "image": lambda x: jnp.asarray(x, jnp.float32),
        "text": lambda ids: jnp.asarray(TABLE[np.asarray(ids)[:, 0]]),
    }
    return types.Embedded(
        {view: types.Features(views[view](x)) for view, x in batch.items()}, {}
    )


def evaluator(**changes):
  return module.zeroshot(**{
      "tokenize": tokenize, "classes": CLASSES, "templates": TEMPLATES,
      "batch_size": 4, "top": (1, 2), **changes,
  })


def whole(images, labels):
  batch = {"image": np.float32(images), "label": np.array(labels)}
  return [(batch, np.ones(len(labels), bool))]


def oracle(images, labels, candidates):
  """The position of the true class among the candidates, one image a time."""
  directions = []
  for candidate in candidates:
    total = np.zeros(3)
    for template in TEMPLATES:
      vector = np.array(VECTORS[template.replace("{}", CLASSES[candidate])])
      total += vector / np.linalg.norm(vector)
    directions.append(total / np.linalg.norm(total))
  ranks = []
  for image, label in zip(images, labels, strict=True):
    scores = [np.dot(image / np.linalg.norm(image), w) for w in directions]
    order = sorted(range(len(scores)), key=lambda c, s=scores: (-s[c], c))
    ranks.append([candidates[c] for c in order].index(label))
  return np.array(ranks)


def test_accuracy_of_a_tiny_set_is_known():
  # w is (0.894, 0.447, 0), (-0.894, 0.447, 0), (0, 0, 1)
  images = [(2, 1, 0), (0, 0, 3), (-1, 4, 0), (5, 0, 1), (-1, 1, 0)]
  labels = [0, 2, 0, 1, 1]  # first, first, second, third, first
  metrics = evaluator()(Encode(), whole(images, labels))
  assert metrics == {
      "@1": pytest.approx(3 / 5), "@2": pytest.approx(4 / 5),
      "/per_class@1": pytest.approx((1 / 2 + 1 / 2 + 1) / 3), "/count": 5.0,
  }


def test_each_prompt_counts_alike_whatever_its_length():
  # <x, w> is 1.34 for ant and 1.1 for cat; were the prompts of ant averaged
  # as they are, the long one would turn w to (0.997, 0.083, 0) and 1.08.
  assert evaluator()(Encode(), whole([(1, 1, 1.1)], [0]))["@1"] == 1


def test_classes_whose_prompts_disagree_are_not_short():
  # <x, w> is 0.40 for ant and 0.49 for bee; the plain means, of lengths 0.89
  # and 0.45, would give 0.36 and 0.22.
  assert evaluator()(Encode(), whole([(-0.05, 1, 0)], [1]))["@1"] == 1


@pytest.mark.parametrize("subset", [None, (2, 0), (1,)])
def test_metrics_equal_the_protocol_written_out(subset):
  rng = np.random.default_rng(1)
  candidates = (0, 1, 2) if subset is None else subset
  images, labels = rng.normal(size=(40, 3)), rng.choice(candidates, 40)
  metrics = evaluator(subset=subset)(Encode(), whole(images, labels))
  ranks = oracle(images, labels, candidates)
  assert metrics["@1"] == pytest.approx(np.mean(ranks < 1))
  assert ("@2" in metrics) == (len(candidates) >= 2)
  assert metrics["/per_class@1"] == pytest.approx(
      np.mean([np.mean(ranks[labels == c] < 1) for c in set(labels)])
  )


def test_subset_removes_the_wrong_answers():
  images, labels = [(-1, 1, 0.5)], [2]
  assert evaluator()(Encode(), whole(images, labels))["@1"] == 0
  assert evaluator(subset=(0, 2))(Encode(), whole(images, labels))["@1"] == 1


@pytest.mark.parametrize("batch_size", [1, 5, 6, 64])
def test_prompt_batches_change_nothing_but_their_shape(batch_size):
  rng = np.random.default_rng(2)
  batches = whole(rng.normal(size=(20, 3)), rng.integers(0, 3, 20))
  encode = Encode()
  metrics = evaluator(batch_size=batch_size)(encode, batches)
  assert metrics == evaluator()(Encode(), batches)
  shapes = {call[1:] for call in encode.calls if call[0] == "text"}
  assert shapes == {((batch_size, 2), np.dtype("int32"))}


def test_masked_rows_and_the_cut_into_batches_change_nothing():
  rng = np.random.default_rng(3)
  images, labels = rng.normal(size=(7, 3)), rng.integers(0, 3, 7)
  filler = np.full((1, 3), np.nan)
  batches = [
      ({"image": images[:4], "label": labels[:4]}, np.ones(4, bool)),
      ({
          "image": np.concatenate([images[4:6], filler, images[6:]]),
          "label": np.array([*labels[4:6], -1, labels[6]]),
      }, jnp.array([True, True, False, True])),
  ]
  expected = evaluator()(Encode(), whole(images, labels))
  assert evaluator()(Encode(), batches) == expected
  assert expected["/count"] == 7


def test_only_the_image_is_encoded():
  encode = Encode()
  batch, mask = whole([(1, 0, 0)], [0])[0]
  evaluator()(encode, [({**batch, "text": np.zeros((1, 2), int)}, mask)])
  assert [shape for view, shape, _ in encode.calls if view == "text"] == [(4, 2)] * 2


def test_tied_classes_stand_in_order_and_nan_is_a_miss():
  tied = evaluator()(Encode(), whole([(0, 0, 0)] * 3, [0, 1, 2]))
  assert tied["@1"] == pytest.approx(1 / 3)
  assert tied["@2"] == pytest.approx(2 / 3)
  assert evaluator(subset=(2, 0))(Encode(), whole([(0, 0, 0)], [2]))["@1"] == 1
  assert evaluator(subset=(0, 2))(Encode(), whole([(0, 0, 0)], [2]))["@1"] == 0
  assert evaluator()(Encode(), whole([(np.nan, 0, 0)], [0]))["@1"] == 0


@pytest.mark.parametrize("changes, sentence", [
    ({"classes": ()}, "0 classes"),
    ({"templates": ()}, "0 templates"),
    ({"templates": ("a {}", "a photo")}, "'a photo' without '{}'"),
    ({"subset": (0, 3)}, r"\[3\] do not exist"),
    ({"subset": (0, 0)}, "1 different"),
    ({"subset": ()}, "subset of 0"),
    ({"top": (0,)}, "whole numbers from 1"),
    ({"batch_size": 0}, "whole numbers from 1"),
])
def test_what_cannot_be_meant_is_refused_at_once(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    evaluator(**changes)


@pytest.mark.parametrize("batches, sentence", [
    (whole([(1, 0, 0)], [3]), r"labels \[3\]"),
    (whole([(1, 0, 0)], [-1]), r"labels \[-1\]"),
    (whole([(1, 0, 0)], [0.0]), "one integer a row"),
    ([({"image": np.ones((1, 3))}, np.ones(1, bool))], r"needs \['label'\]"),
    ([({"image": np.ones((1, 3)), "label": np.array([0])}, np.zeros(1, bool))],
     "no image to classify"),
    ([], "no image to classify"),
])
def test_what_cannot_be_judged_is_said(batches, sentence):
  with pytest.raises(ValueError, match=sentence):
    evaluator()(Encode(), batches)

"""Zero-shot on images with several labels, names of classes, and resamples."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from test_zeroshot import CLASSES, TABLE, TEMPLATES, Encode, evaluator, whole

from basic.ops import bootstrap


def directions():
  """The unit mean of the unit prompts of each class."""
  prompts = TABLE[1:] / np.linalg.norm(TABLE[1:], axis=1)[:, None]
  means = prompts.reshape(len(CLASSES), len(TEMPLATES), 3).sum(1)
  return means / np.linalg.norm(means, axis=1)[:, None]


def drawn(rows, seed=0):
  """Images, and labels [rows 3] padded with -1, none twice in a row."""
  rng = np.random.default_rng(seed)
  labels = np.full((rows, 3), -1)
  for row in labels:
    several = rng.permutation(3)[: rng.integers(0, 3)]
    row[: len(several)] = several
  labels[0, 0] = 2
  return rng.normal(size=(rows, 3)), labels


def eleven_points(scores, positive):
  """The mean over eleven recalls of the best precision there, cut by cut."""
  order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
  hits = np.cumsum([positive[i] for i in order])
  cuts = [(10 * h, h / n) for n, h in enumerate(hits, 1)]
  return np.mean([
      max(p for tenfold, p in cuts if tenfold >= t * hits[-1]) for t in range(11)
  ])


def test_mean_average_precision_is_that_of_the_protocol_written_out():
  images, labels = drawn(60)
  found = evaluator()(Encode(), whole(images, labels))
  scores = images / np.linalg.norm(images, axis=1)[:, None] @ directions().T
  positive = [[c in row for c in range(3)] for row in labels]
  eleven = [
      eleven_points(scores[:, c].tolist(), [row[c] for row in positive])
      for c in range(3)
  ]
  exact = [
      sklearn_metrics.average_precision_score(
          [row[c] for row in positive], scores[:, c])
      for c in range(3)
  ]
  assert found == {
      "/map_11_point": pytest.approx(np.mean(eleven), abs=1e-6),
      "/map": pytest.approx(np.mean(exact), abs=1e-6), "/count": 60.0,
  }


def test_a_class_that_no_image_has_does_not_count():
  images, labels = drawn(20)
  labels = np.where(labels == 1, -1, labels)
  found = evaluator()(Encode(), whole(images, labels))
  assert found == evaluator(subset=(0, 2))(Encode(), whole(images, labels))


def test_several_labels_in_other_batches_with_masked_rows():
  images, labels = drawn(9)
  expected = evaluator()(Encode(), whole(images, labels))
  filler = np.full((1, 3), 99)
  batches = [
      ({"image": images[:5], "label": labels[:5]}, np.ones(5, bool)),
      (
          {
              "image": np.concatenate([filler * np.nan, images[5:]]),
              "label": np.concatenate([filler, labels[5:]]),
          }, jnp.array([False, True, True, True, True]),
      ),
  ]
  assert evaluator()(Encode(), batches) == expected


@pytest.mark.parametrize("labels, sentence", [
    ([[0, 3]], r"labels \[3\]"),
    ([[0, -2]], r"labels \[-2\]"),
    ([[-1, -1]], "none has a label"),
    ([[[0]]], "one integer a row, or several padded with -1"),
])
def test_labels_that_cannot_be_are_said(labels, sentence):
  with pytest.raises(ValueError, match=sentence):
    evaluator()(Encode(), whole([(1, 0, 0)], labels))


@pytest.mark.parametrize("several", [False, True])
def test_a_resample_gives_the_metrics_of_its_examples(several):
  images, labels = drawn(30)
  labels = labels if several else np.maximum(labels[:, 0], 0)
  found = evaluator()(Encode(), whole(images, labels))
  assert isinstance(found, bootstrap.Measured) and found.examples == 30
  rows = np.random.default_rng(1).integers(30, size=30)
  again = evaluator()(Encode(), whole(images[rows], labels[rows]))
  assert found.again(rows) == pytest.approx(
      {k: x for k, x in again.items() if k != "/count"}
  )
  assert found.again(rows) != found.again(np.arange(30))


def test_the_rank_of_each_example_comes_out():
  images, labels = [(2, 1, 0), (0, 0, 3), (-1, 4, 0)], [0, 2, 0]
  found = evaluator()(Encode(), whole(images, labels))
  np.testing.assert_array_equal(found.per_example["label"], labels)
  np.testing.assert_array_equal(found.per_example["rank"], [0, 0, 1])


NUMBERS = {"n00000001": "ant", "n00000002": "bee", "n00000003": "cat"}


def test_prompts_say_names_and_subsets_may_be_of_classes():
  images, labels = [(2, 1, 0), (0, 0, 3), (-1, 1, 0.5)], [0, 2, 2]
  expected = evaluator(subset=(0, 2))(Encode(), whole(images, labels))
  found = evaluator(
      classes=tuple(NUMBERS), names=NUMBERS, subset=("n00000001", "n00000003")
  )(Encode(), whole(images, labels))
  assert found == expected
  assert found != evaluator()(Encode(), whole(images, labels))


@pytest.mark.parametrize("changes, sentence", [
    ({"subset": ("ant", "dog")}, r"\['dog'\] do not exist.*such as 'ant'"),
    ({"subset": ("ant", 0)}, "1 different"),
    ({"names": {"ant": "an ant"}}, "no name for 2 of 3 classes.*'bee'"),
    ({"classes": tuple(NUMBERS)}, "WordNet numbers, such as 'n00000001'"),
])
def test_names_that_cannot_be_meant_are_refused_at_once(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    evaluator(**changes)


def test_names_are_asked_for_candidates_only():
  evaluator(names={"ant": "an ant"}, subset=("ant",))


def test_equal_names_are_warned_of_by_name(caplog):
  evaluator()
  assert not caplog.records
  names = {"ant": "Crane", "bee": "crane ", "cat": "cat"}
  evaluator(names=names)
  (record,) = caplog.records
  assert "'Crane' x 2" in record.getMessage() and "cat" not in record.getMessage()
  caplog.clear()
  evaluator(names=names, subset=(0, 2))  # nobody can be mistaken for the bee
  assert not caplog.records

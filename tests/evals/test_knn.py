"""Neighbours' votes against sorting in plain Python, with ties."""

import math

import frozen
import numpy as np
import pytest

from basic.evals import knn as module


def unit(x):
  return x / np.linalg.norm(x)


def oracle(asked, labels, known, known_labels, k, temperature):
  """The class order of each example: votes one neighbour at a time."""
  order = []
  for x in asked:
    cosines = [float(unit(x) @ unit(z)) for z in known]
    nearest = sorted(range(len(known)), key=lambda j: (-cosines[j], j))[:k]
    votes = {}
    for j in nearest:
      weight = 1.0 if temperature is None else math.exp(cosines[j] / temperature)
      votes[known_labels[j]] = votes.get(known_labels[j], 0.0) + weight
    order.append(sorted(votes, key=lambda c: (-votes[c], c)))
  hits = {
      m: np.array([y in each[:m] for y, each in zip(labels, order, strict=True)])
      for m in (1, 2)
  }
  return {
      "@1": hits[1].mean(), "@2": hits[2].mean(),
      "/per_class@1": np.mean([
          hits[1][labels == c].mean() for c in sorted(set(labels))]),
  }


def run(asked, labels, known, known_labels, rows=None, **settings):
  return module.knn(top=(1, 2), **settings)(
      frozen.encode, frozen.batches(rows, image=asked, label=labels),
      frozen.batches(rows, image=known, label=known_labels),
  )


@pytest.mark.parametrize("k", [1, 4, 50])
@pytest.mark.parametrize("temperature", [None, 0.07, 1.0])
def test_votes_equal_brute_force_with_ties(k, temperature):
  rng = np.random.default_rng(k)
  # On a grid, so that many cosines are equal to the bit, as are sums of votes.
  known = rng.integers(-1, 2, (40, 2)) @ np.float32([[3, 0], [0, 4]]) + (0, 12)
  asked = rng.integers(-1, 2, (30, 2)) @ np.float32([[3, 0], [0, 4]]) + (0, 12)
  known, asked = np.float32(known), np.float32(asked)
  known_labels, labels = rng.integers(3, 7, 40), rng.integers(2, 7, 30)
  found = run(asked, labels, known, known_labels, 7, neighbours=k,
              temperature=temperature, block=16)
  expected = oracle(asked, labels, known, known_labels, k, temperature)
  assert {name: found[name] for name in expected} == pytest.approx(expected)
  assert (found["/count"], found["/reference_count"], found["/classes"]) == (30, 40, 4)


def test_equal_neighbours_are_taken_in_order_and_equal_votes_by_class():
  same = np.float32([[1, 0]] * 4)
  one = np.float32([[2, 0]])
  assert run(one, [5], same, [5, 3, 3, 3], neighbours=1)["@1"] == 1
  assert run(one, [3], same, [5, 3, 3, 5], neighbours=4, temperature=None)["@1"] == 1
  assert run(one, [5], same, [5, 3, 3, 5], neighbours=4, temperature=None)["@1"] == 0


def test_near_neighbours_count_more_the_colder_it_is():
  known = np.float32([[1, 0], [1, 0.6], [1, 0.7]])
  one = np.float32([[1, 0]])
  votes = {"known": known, "known_labels": [0, 1, 1], "neighbours": 3}
  assert run(one, [0], **votes, temperature=0.01)["@1"] == 1
  assert run(one, [0], **votes, temperature=10.0)["@1"] == 0
  assert run(one, [0], **votes, temperature=1e-4)["@1"] == 1  # No weight overflows.


def test_a_class_without_a_vote_is_no_hit_however_few_there_are():
  known = np.float32([[1, 0], [0, 1]])
  found = run(np.float32([[1, 0]]), [1], known, [0, 1], neighbours=1)
  assert found["@2"] == 0


def test_a_broken_embedding_is_a_miss():
  known = np.float32([[1, 0], [0, 1]])
  for temperature in (None, 0.1):
    found = run(np.float32([[np.nan, 0]]), [0], known, [0, 1], neighbours=2,
                temperature=temperature)
    assert found["@1"] == 0 and found["@2"] == 0


@pytest.mark.parametrize("changes, sentence", [
    (dict(neighbours=0), "neighbours=0"), (dict(top=(0,)), "top="),
    (dict(block=0), "block=0"), (dict(temperature=0.0), "temperature=0"),
])
def test_what_cannot_be_meant_is_refused_at_once(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    module.knn(**changes)


@pytest.mark.parametrize("fields, sentence", [
    (dict(image=np.ones((2, 2))), r"needs \['label'\]"),
    (dict(image=np.ones((2, 2)), label=np.ones(2)), "one integer a row"),
    (dict(image=np.ones((2, 2)), label=np.ones((2, 3), int)), "one integer a row"),
])
def test_what_cannot_be_judged_is_said(fields, sentence):
  with pytest.raises(ValueError, match=sentence):
    module.knn()(frozen.encode, frozen.batches(**fields), frozen.batches(**fields))


def test_no_example_is_said():
  one = frozen.batches(image=np.ones((1, 2)), label=[0])
  with pytest.raises(ValueError, match="no example"):
    module.knn()(frozen.encode, [], one)

"""Few-shot least squares against the normal equations in NumPy."""

import frozen
import numpy as np
import pytest

from basic.evals import fewshot as module


def oracle(x, y, x_asked, y_asked, k, l2, seed):
  """The weights from the normal equations, and the fraction of hits."""
  rng = np.random.default_rng(seed)
  rows = []
  for c in sorted(set(y)):
    rows += list(rng.permutation([i for i in range(len(y)) if y[i] == c])[:k])
  few, names = np.float64(x[rows]), sorted(set(y))
  mean, deviation = few.mean(0), few.std(0) + 1e-5

  def features(z):
    z = (np.float64(z) - mean) / deviation
    return np.concatenate([z, np.full((len(z), 1), 100.0)], 1)

  targets = np.array([[1.0 if y[i] == c else -1.0 for c in names] for i in rows])
  a = features(few)
  w = np.linalg.solve(a.T @ a + l2 * np.eye(a.shape[1]), a.T @ targets)
  guessed = [names[c] for c in (features(x_asked) @ w).argmax(1)]
  return np.mean(np.array(guessed) == y_asked)


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(4, 12))
  y, y_asked = rng.integers(0, 4, 80), rng.integers(0, 4, 60)

  def draw(labels):
    return np.float32(centres[labels] * 2 + 2 * rng.normal(size=(len(labels), 12)) + 1)

  return draw(y), y + 2, draw(y_asked), y_asked + 2


def run(x, y, x_asked, y_asked, rows=None, **settings):
  return module.fewshot(**settings)(
      frozen.encode, frozen.batches(rows, image=x_asked, label=y_asked),
      frozen.batches(rows, image=x, label=y),
  )


@pytest.mark.parametrize("k", [1, 2, 10])  # 4 and 8 rows are fewer than features.
def test_accuracy_is_that_of_the_normal_equations(data, k):
  strengths = (0.5, 1024.0)
  found = run(*data, 7, shots=(k,), l2=strengths, seeds=2)
  for l2 in strengths:
    expected = [oracle(*data, k, l2, seed) for seed in range(2)]
    assert found[f"/l2={l2:g}/{k}_shot@1"] == pytest.approx(np.mean(expected))
    assert found[f"/l2={l2:g}/{k}_shot_std@1"] == pytest.approx(np.std(expected))


def test_draws_are_fixed_and_of_a_small_class_all_are_taken(data):
  x, y, *asked = data
  found = run(x, y, *asked, shots=(2, 1000), seeds=3)
  assert found == run(x, y, *asked, shots=(2, 1000), seeds=3)
  assert found["/2_shot_std@1"] > 0
  assert found["/1000_shot_std@1"] == 0
  assert found["/1000_shot@1"] == pytest.approx(oracle(*data, 1000, 1024.0, 0))
  assert (found["/classes"], found["/reference_count"]) == (4, 80)


def test_a_class_that_the_reference_lacks_is_a_miss(data):
  x, y, x_asked, y_asked = data
  found = run(x, y, x_asked, np.full_like(y_asked, 99), shots=(5,))
  assert found["/5_shot@1"] == 0


@pytest.mark.parametrize("changes, sentence", [
    (dict(shots=()), r"shots=\(\)"), (dict(shots=(0,)), r"shots=\(0,\)"),
    (dict(l2=()), r"l2=\(\)"), (dict(l2=(0.0,)), "l2="), (dict(seeds=0), "seeds=0"),
])
def test_what_cannot_be_meant_is_refused_at_once(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    module.fewshot(**changes)

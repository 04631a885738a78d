"""Average precision, counted image by image from its definitions."""

import numpy as np
import pytest
from sklearn import metrics

from basic.ops import average_precision as module


def counted(scores, positive):
  """(eleven point, exact) of one class: for each cut of the ranking, by counting."""
  order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
  total = sum(positive)
  points = []  # (found, precision) after each image
  for cut in range(1, len(order) + 1):
    found = sum(bool(positive[i]) for i in order[:cut])
    points.append((found, found / cut))
  eleven = 0.0
  for tenth in range(11):
    eleven += max(p for found, p in points if 10 * found >= tenth * total) / 11
  exact = [
      points[cut][1] for cut, i in enumerate(order) if positive[i]
  ]
  return eleven, sum(exact) / total


@pytest.mark.parametrize("levels", [1000, 4])  # few levels: many ties
@pytest.mark.parametrize("seed", range(3))
def test_both_equal_their_definitions(seed, levels):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, levels, (30, 5)) / levels
  positive = rng.random((30, 5)) < [0.03, 0.1, 0.3, 0.5, 0.9]
  positive[0] = True
  eleven, exact = module.average_precision(scores, positive)
  for c in range(5):
    want = counted(scores[:, c].tolist(), positive[:, c].tolist())
    assert (eleven[c], exact[c]) == pytest.approx(want, abs=1e-12)


def test_three_of_ten_reach_a_recall_of_three_tenths():
  # In floating point 3 / 10 < 0.1 * 3, and the point would be lost.
  scores = -np.arange(20.0)[:, None]
  positive = np.zeros((20, 1), bool)
  positive[[0, 1, 2, 10, 11, 12, 13, 14, 15, 16]] = True
  eleven, _ = module.average_precision(scores, positive)
  # Recalls 0 to 0.3 with precision 1, and above at best 10 / 17.
  assert eleven[0] == pytest.approx((4 + 7 * 10 / 17) / 11)


def test_without_ties_the_exact_one_is_that_of_scikit_learn():
  rng = np.random.default_rng(0)
  scores, positive = rng.normal(size=(200, 4)), rng.random((200, 4)) < 0.2
  _, exact = module.average_precision(scores, positive)
  want = [
      metrics.average_precision_score(positive[:, c], scores[:, c])
      for c in range(4)
  ]
  np.testing.assert_allclose(exact, want, rtol=1e-12)


def test_a_class_without_positives_has_none_and_harms_no_other():
  scores = np.array([[0.3, 0.9], [0.2, 0.1]])
  positive = np.array([[False, True], [False, False]])
  eleven, exact = module.average_precision(scores, positive)
  assert np.isnan(eleven[0]) and np.isnan(exact[0])
  assert eleven[1] == exact[1] == 1


def test_not_a_number_ranks_as_badly_as_it_can():
  scores = np.array([[np.nan], [0.5], [np.nan], [0.1]])
  positive = np.array([[True], [True], [False], [False]])
  _, exact = module.average_precision(scores, positive)
  assert exact[0] == pytest.approx((1 / 2 + 2 / 4) / 2)  # third, first, ..., last

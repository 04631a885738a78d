"""Effective robustness: nothing on the line, the distance from it elsewhere."""

import math

import numpy as np
import pytest

from basic.ops import robustness


def on_line(before, slope, intercept):
  z = slope * math.log(before / (1 - before)) + intercept
  return 1 / (1 + math.exp(-z))


def test_a_planted_line_is_found_and_its_models_are_not_robust():
  before = np.array([0.2, 0.5, 0.63, 0.9])
  after = np.array([on_line(x, 1.3, -0.8) for x in before])
  line = robustness.fit(before, after)
  assert line == pytest.approx((1.3, -0.8))
  for x, y in zip(before, after, strict=True):
    assert robustness.effective(x, y, line) == pytest.approx(0, abs=1e-12)
    assert robustness.effective(x, y + 0.05, line) == pytest.approx(0.05)


def test_the_line_is_straight_in_logits_and_not_in_accuracies():
  line = robustness.Fit(1.0, -1.0)
  assert robustness.effective(0.5, 0.5, line) == pytest.approx(
      0.5 - 1 / (1 + math.e)
  )
  assert robustness.effective(0.9, 0.9, line) < robustness.effective(0.5, 0.5, line)


def test_perfect_and_hopeless_models_have_finite_robustness():
  line = robustness.fit(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0]))
  assert robustness.effective(1.0, 1.0, line) == pytest.approx(0, abs=1e-5)


def test_one_accuracy_makes_no_line():
  with pytest.raises(ValueError, match=r"two or more different models.*\[0.5\]"):
    robustness.fit(np.array([0.5, 0.5]), np.array([0.4, 0.3]))

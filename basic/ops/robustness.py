"""Effective robustness: accuracy beyond what accuracy elsewhere predicts."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_EDGE = 1e-6  # Accuracies of 0 and 1 have no logit.


class Fit(NamedTuple):
  """logit(accuracy after the shift) = slope logit(accuracy before) + intercept."""

  slope: float
  intercept: float


def fit(
    before: Float[np.ndarray, "m"], after: Float[np.ndarray, "m"]
) -> Fit:
  """The line through models' accuracies, by least squares of their logits.

  Args:
    before: accuracy of each model on the usual test set, in [0, 1].
    after: accuracy of the same models on the shifted set, in [0, 1].

  Returns:
    The line.

  Raises:
    ValueError: if fewer than two different accuracies are in `before`.

  Example:
    >>> line = fit(np.array([0.5, 0.7, 0.9]), np.array([0.5, 0.7, 0.9]))
    >>> round(line.slope, 6), abs(round(line.intercept, 6))
    (1.0, 0.0)
  """
  x, y = _logit(before), _logit(after)
  if len(np.unique(x)) < 2:
    raise ValueError(
        f"a line needs the accuracies of two or more different models, and found "
        f"{np.unique(before).tolist()}: give more models, or the line itself."
    )
  slope, intercept = np.polyfit(x, y, 1)
  return Fit(float(slope), float(intercept))


def effective(before: float, after: float, line: Fit) -> float:
  """Accuracy after the shift, minus the accuracy that the line predicts.

  Args:
    before: accuracy on the usual test set, in [0, 1].
    after: accuracy on the shifted set, in [0, 1].
    line: of models that were not made robust.

  Returns:
    The difference, in [-1, 1]; above 0 for a model that is more robust.

  References:
    Taori et al., Measuring Robustness to Natural Distribution Shifts in Image
    Classification, 2020, section 2. https://arxiv.org/abs/2007.00644

  Example:
    >>> round(effective(0.7, 0.6, Fit(slope=1.0, intercept=0.0)), 6)
    -0.1
  """
  z = line.slope * _logit(before) + line.intercept
  return float(after - 1 / (1 + np.exp(-z)))


def _logit(accuracy):
  """log(p / (1 - p)) of accuracies, which are kept off 0 and 1."""
  p = np.clip(np.asarray(accuracy, float), _EDGE, 1 - _EDGE)
  return np.log(p / (1 - p))

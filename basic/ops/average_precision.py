"""Average precision: how well scores rank the positives of a class first.

On the host and in float64, since results are a few numbers a data set and are
resampled many times.
"""

import numpy as np
from jaxtyping import Bool, Float

_RECALLS = np.arange(11)  # tenths


def average_precision(
    scores: Float[np.ndarray, "n c"], positive: Bool[np.ndarray, "n c"]
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
  """Average precision of each class, by its two usual definitions.

  The examples in the order of falling scores of a class; of equal scores the
  earlier example first. With p_k the precision among the first k, r_k the fraction
  of the positives that is among them, and P the positions of the positives,

      eleven point:    mean over t in {0, 0.1, ..., 1} of max {p_k: r_k >= t}
      exact:           mean over k in P of p_k

  A score of NaN ranks a positive last and another example first, so that a broken
  encoder cannot look good.

  Args:
    scores: higher for what is more likely to be positive.
    positive: which examples have the class.

  Returns:
    (eleven point, exact), fractions; NaN for a class without a positive.

  References:
    Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, 2010,
    section 4.2, which defines the first, and says of the second that later
    challenges use it.

  Example:
    >>> scores = np.array([[0.9], [0.8], [0.7]])
    >>> eleven, exact = average_precision(scores, np.array([[1], [0], [1]], bool))
    >>> print(eleven.round(4), exact.round(4))
    [0.8485] [0.8333]
  """
  worst = np.where(positive, -np.inf, np.inf)
  order = np.argsort(-np.where(np.isnan(scores), worst, scores), 0, "stable")
  ranked = np.take_along_axis(positive, order, 0)
  found = np.cumsum(ranked, 0)
  precision = found / np.arange(1, len(ranked) + 1)[:, None]
  # The highest precision at this recall or a higher one.
  best = np.maximum.accumulate(precision[::-1], 0)[::-1]
  total = found[-1]
  with np.errstate(invalid="ignore"):  # No positives: 0 / 0 is the NaN we want.
    exact = np.sum(precision * ranked, 0) / total
  eleven = np.full(len(total), np.nan)
  for c in np.flatnonzero(total):
    # In whole numbers, for 3 / 10 is below 0.1 * 3 in floating point.
    first = np.searchsorted(10 * found[:, c], _RECALLS * total[c])
    eleven[c] = np.mean(best[first, c])
  return eleven, exact

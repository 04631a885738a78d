"""Bootstrap intervals: how much a result depends on which examples were drawn."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from basic import types


class Measured(dict[str, Any]):
  """Metrics that can be computed again on a resample of their examples.

  It is the dict of the metrics over all examples, so an evaluator may return one
  where `types.Metrics` are expected, and whoever wants an interval can resample.

  Attributes:
    again: int [m], numbers of examples from 0, repeats allowed -> metrics over
      these examples, under the same names.
    examples: how many there are.
    per_example: by name, what was found for each example: arrays [examples, ...].
      For metrics that are means, their means.

  Example:
    >>> hits = np.array([1.0, 0.0, 1.0, 1.0])
    >>> found = Measured(lambda i: {"@1": float(hits[i].mean())}, {"@1": hits})
    >>> found["@1"], found.again(np.array([0, 1]))["@1"]
    (0.75, 0.5)
  """

  def __init__(
      self,
      again: Callable[[np.ndarray], types.Metrics],
      per_example: Mapping[str, Any],
      also: types.Metrics | None = None,
  ):
    """Measures all examples.

    Args:
      again: as the attribute.
      per_example: as the attribute; at least one array, all of one length.
      also: metrics that are not of examples, such as counts.
    """
    self.again = again
    self.per_example = per_example
    self.examples = len(next(iter(per_example.values())))
    super().__init__({**again(np.arange(self.examples)), **(also or {})})


def extended(metrics: types.Metrics, more: types.Metrics) -> types.Metrics:
  """Metrics and more of them; what can be resampled still can be.

  Example:
    >>> hits = np.array([1.0, 0.0])
    >>> found = Measured(lambda i: {"@1": float(hits[i].mean())}, {"@1": hits})
    >>> extended(found, {"/count": 2.0}).again(np.array([0, 0]))
    {'@1': 1.0}
  """
  if isinstance(metrics, Measured):
    return Measured(metrics.again, metrics.per_example, {**metrics, **more})
  return {**metrics, **more}


def intervals(
    again: Callable[[np.ndarray], Mapping[str, float]],
    examples: int,
    *,
    level: float = 0.95,
    resamples: int = 1_000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
  """Percentile intervals of statistics of a set of examples.

  Draws as many examples as there are, with replacement, and computes the
  statistics again; the interval is between the (1 - level) / 2 and the
  (1 + level) / 2 quantile of the results. The draws depend on `seed` and
  `examples` alone, so two models are resampled alike.

  Args:
    again: numbers of examples, int64 [examples] -> statistics by name. A NaN
      (a statistic that the resample leaves undefined) is left out.
    examples: how many there are; at least 1.
    level: the fraction of resamples that the interval holds, in (0, 1).
    resamples: how many are drawn.
    seed: of the draws.

  Returns:
    By name, (lower, upper); NaN for both where no resample was defined.

  References:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

  Example:
    >>> hits = np.array([1.0] * 80 + [0.0] * 20)
    >>> found = intervals(lambda i: {"hit": hits[i].mean()}, 100)
    >>> lower, upper = found["hit"]  # the normal approximation: 0.72, 0.88
    >>> bool(0.70 < lower < 0.74 and 0.86 < upper < 0.90)
    True
  """
  generator = np.random.default_rng(seed)
  drawn: dict[str, list[float]] = {}
  for _ in range(resamples):
    for name, value in again(generator.integers(examples, size=examples)).items():
      drawn.setdefault(name, []).append(value)
  return {name: _middle(np.array(values), level) for name, values in drawn.items()}


def _middle(values, level):
  """The interval that leaves equally many values on both sides."""
  values = values[~np.isnan(values)]
  if not len(values):
    return (float("nan"), float("nan"))
  lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
  return float(lower), float(upper)

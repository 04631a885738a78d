"""Linear models of frozen embeddings: logistic regression, and ridge regression."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from basic.evals import _frozen
from basic.ops import logistic, ridge
from basic.optim import lbfgs


class Model(NamedTuple):
  """What is predicted, how it is fitted, and how predictions are judged.

  Attributes:
    y: what to fit on, a number a row of the reference [m].
    groups: classes of these rows, of which a fraction each is held out [m].
    fit: (x, y) -> (l2 -> (kernel [d c], bias [c])).
    quality: (predicted [n c], y [n]) -> what is larger for better ones.
    metrics: predictions of the rows to judge -> metrics.
  """

  y: np.ndarray
  groups: np.ndarray
  fit: Callable[[np.ndarray, np.ndarray], Callable[[float], Any]]
  quality: Callable[[np.ndarray, np.ndarray], Any]
  metrics: Callable[[np.ndarray], Mapping[str, float]]


def fitted(
    model: Model, x: np.ndarray, y: np.ndarray, standardize: bool
) -> Callable[[float, np.ndarray], np.ndarray]:
  """Prepares a fit on some rows.

  Args:
    model: what to fit.
    x: features [m d].
    y: of the same rows [m].
    standardize: whether to shift and scale features to mean 0 and deviation 1.

  Returns:
    (l2, rows [n d]) -> predictions [n c] of the model that is fitted with it.
  """
  shift, scale = np.zeros(x.shape[1], x.dtype), np.ones(x.shape[1], x.dtype)
  if standardize:
    shift, deviation = x.mean(0), x.std(0)
    scale = np.where(deviation > 0, deviation, 1).astype(x.dtype)
  solve = model.fit((x - shift) / scale, y)

  def predict(l2, rows):
    weights = solve(l2)
    return _frozen.by_rows(
        functools.partial(logistic.scores, weights), (rows - shift) / scale
    )

  return predict


def of_classes(
    labels: np.ndarray,
    asked: np.ndarray,
    *,
    top: Sequence[int],
    steps: int,
    tolerance: float,
) -> Model:
  """Multinomial logistic regression of the classes of the reference.

  Args:
    labels: of the reference, integers [m].
    asked: of the rows to judge [n].
    top: each k of the accuracy among the k best.
    steps: of L-BFGS at most.
    tolerance: of the gradient of the mean loss.

  Raises:
    ValueError: if labels are not one integer a row.
  """
  classes = _frozen.classes("probe", labels, asked)
  count = len(classes.labels)

  def fit(x, y):
    x, y = jnp.asarray(x), jnp.asarray(y)
    return lambda l2: _logistic(x, y, l2, count, steps, tolerance)

  def ranks(scores, numbers):
    return _frozen.by_rows(_frozen.ranks, scores, numbers)

  def quality(scores, numbers):
    hits = np.mean(ranks(scores, numbers) < 1)
    loss = np.mean(_frozen.by_rows(_cross_entropy, scores, numbers))
    return float(hits), -float(loss)

  def metrics(scores):
    return _frozen.accuracy(
        ranks(scores, classes.rows), asked, [k for k in top if k <= count]
    )

  return Model(classes.reference, classes.reference, fit, quality, metrics)


@functools.partial(jax.jit, static_argnames=("classes", "steps", "tolerance"))
def _logistic(x, y, l2, classes, steps, tolerance):
  """(kernel, bias) of logistic regression; NaN if features are not finite."""
  dtype = x.dtype
  start = jnp.zeros((x.shape[1], classes), dtype), jnp.zeros(classes, dtype)
  found = lbfgs.minimize(
      lambda weights: logistic.objective(weights, x, y, l2), start,
      steps=steps, tolerance=tolerance,
  )
  # Zeros would say that all rows are of the first class, and so be right for some.
  return jax.tree.map(
      lambda a: jnp.where(jnp.isfinite(found.value), a, jnp.nan), found.params
  )


@jax.jit
def _cross_entropy(scores, numbers):
  own = jnp.take_along_axis(scores, numbers[:, None], axis=1)[:, 0]
  return jax.nn.logsumexp(scores, axis=1) - own


def of_numbers(y: np.ndarray, asked: np.ndarray) -> Model:
  """Ridge regression with an intercept that is not penalised.

  Args:
    y: numbers of the reference [m].
    asked: of the rows to judge [n].

  Raises:
    ValueError: if they are not one number a row.
  """
  for each in (y, asked):
    if each.ndim != 1 or each.dtype.kind not in "iuf":
      raise ValueError(
          f"probe found numbers {each.dtype}{list(each.shape)} and needs one a row."
      )

  def quality(predicted, numbers):
    return -float(np.mean((predicted[:, 0] - numbers) ** 2))

  return Model(
      y, np.zeros(len(y), int), _ridge, quality,
      lambda predicted: _of_numbers(np.float64(predicted[:, 0]), np.float64(asked)),
  )


def _ridge(x, y):
  """l2 -> (kernel, bias) of ridge regression; features are decomposed once."""
  shift, mean = x.mean(0), y.mean()
  targets = jnp.asarray((y - mean)[:, None].astype(x.dtype))
  decomposed = ridge.decompose(jnp.asarray(x - shift), targets)

  def solve(l2):
    kernel = ridge.solve(decomposed, l2)
    bias = np.float64(mean) - np.float64(shift) @ np.float64(kernel)
    return kernel, jnp.asarray(bias, kernel.dtype)

  return solve


def _of_numbers(predicted, y):
  """Mean absolute error, coefficient of determination, rank correlation."""
  error, spread = y - predicted, y - y.mean()
  ranks = [stats.rankdata(each) - (len(y) + 1) / 2 for each in (predicted, y)]
  lengths = np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1])
  rest, total = np.sum(error**2), np.sum(spread**2)
  return {
      "/mae": float(np.mean(np.abs(error))),
      "/r2": float(1 - rest / total) if total else float("nan"),
      "/spearman": float(ranks[0] @ ranks[1] / lengths) if lengths else float("nan"),
  }

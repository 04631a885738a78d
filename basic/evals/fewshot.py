"""Few-shot classification in closed form: least squares on a few examples a class."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from basic import types
from basic.evals import _frozen
from basic.ops import logistic, ridge

_BIAS = 100.0  # so large that the penalty hardly holds for its weight


def fewshot(
    *,
    shots: tuple[int, ...] = (1, 5, 10, 25),
    l2: tuple[float, ...] = (1024.0,),
    seeds: int = 3,
    image: str = "image",
    label: str = "label",
) -> types.ReferenceEvaluator:
  """Classifies by least squares on k examples of each class of the reference.

  Features are shifted and scaled to mean 0 and deviation 1 on the few examples,
  and extended by a constant of 100. With y_ic = 1 for the class of example i and
  -1 for all others,

      W = argmin |X W - Y|^2 + l2 |W|^2,      class of x:  argmax_c (x W)_c

  which is the few-shot evaluation of big_vision, and as cheap at any size of the
  reference. The k examples of a class are the first k of a permutation of its
  examples, drawn for each seed; of a class with fewer, all.

  Args:
    shots: each k.
    l2: each strength of the penalty; positive.
    seeds: draws, numbered from 0, whose accuracies are averaged.
    image: the view to classify, and the field of a batch that it reads.
    label: the field with the classes, integers.

  Returns:
    An evaluator over batches with `image` and `label`, of the source and of its
    reference. Metrics: "/5_shot@1", the mean over draws of the fraction of hits,
    where a class that the reference lacks is a miss; "/5_shot_std@1", its
    deviation over draws; with several strengths "/l2=1024/5_shot@1". "/count",
    "/reference_count" and "/classes".

  Raises:
    ValueError: if a setting is out of its range; when called, if there is no
      example, a field is missing, or labels are not one integer a row.

  References:
    Kolesnikov et al., Big Transfer, 2020; big_vision, evaluators/fewshot_lsr.py.
    https://arxiv.org/abs/1912.11370

  Example:
    >>> def encode(batch):  # a tower that returns what it sees
    ...   return types.Embedded(
    ...       {"image": types.Features(np.asarray(batch["image"]))}, {})
    >>> batch = {"image": np.float32([[1], [2], [8]]), "label": np.array([0, 0, 1])}
    >>> data = [(batch, np.array([True] * 3))]
    >>> round(fewshot(shots=(1,), l2=(1.0,))(encode, data, data)["/1_shot@1"], 3)
    1.0
  """
  if not shots or not l2 or min(seeds, *shots) < 1 or not min(l2) > 0:
    raise ValueError(
        f"fewshot found shots={tuple(shots)}, seeds={seeds} and l2={tuple(l2)} and "
        "needs whole numbers from 1, and strengths above 0."
    )

  def evaluate(
      encode: Callable[[types.Batch], types.Embedded],
      batches: Iterable[tuple[types.Batch, Any]],
      reference: Iterable[tuple[types.Batch, Any]],
  ) -> types.Metrics:
    known = _frozen.embed("fewshot", encode, reference, (image,), (label,))
    asked = _frozen.embed("fewshot", encode, batches, (image,), (label,))
    classes = _frozen.classes("fewshot", known.fields[label], asked.fields[label])
    metrics = {}
    for k in shots:
      hits = np.array([
          _accuracies(
              known.views[image], asked.views[image], classes,
              _drawn(classes.reference, k, seed), l2,
          )
          for seed in range(seeds)
      ])
      for strength, each in zip(l2, hits.T, strict=True):
        start = f"/l2={strength:g}" if len(l2) > 1 else ""
        metrics[f"{start}/{k}_shot@1"] = float(np.mean(each))
        metrics[f"{start}/{k}_shot_std@1"] = float(np.std(each))
    return {
        **metrics, "/count": float(len(classes.rows)),
        "/reference_count": float(len(classes.reference)),
        "/classes": float(len(classes.labels)),
    }

  return evaluate


def _drawn(numbers, k, seed):
  """The rows of k examples of each class, ascending by class."""
  rng = np.random.default_rng(seed)
  return np.concatenate([
      rng.permutation(np.flatnonzero(numbers == each))[:k]
      for each in range(numbers.max() + 1)
  ])


def _accuracies(known, asked, classes, rows, l2):
  """The fraction of hits for each strength of the penalty."""
  x = known[rows]
  shift, scale = x.mean(0), x.std(0) + 1e-5

  def features(z):
    z = (z - shift) / scale
    return np.pad(z, ((0, 0), (0, 1)), constant_values=_BIAS).astype(known.dtype)

  numbers = jnp.asarray(classes.reference[rows])
  targets = 2 * jax.nn.one_hot(numbers, len(classes.labels), dtype=known.dtype) - 1
  decomposed = ridge.decompose(jnp.asarray(features(x)), targets)
  wanted, none = features(asked), jnp.zeros(len(classes.labels), known.dtype)

  def accuracy(strength):
    weights = ridge.solve(decomposed, strength), none
    ranks = _frozen.by_rows(
        lambda z, own: _frozen.ranks(logistic.scores(weights, z), own),
        wanted, classes.rows,
    )
    return np.mean(ranks < 1)

  return [accuracy(strength) for strength in l2]

"""Classification by the labels of the nearest examples of a training split."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from basic import types
from basic.evals import _frozen
from basic.ops import nearest, normalize


def knn(
    *,
    neighbours: int = 20,
    temperature: float | None = 0.07,
    image: str = "image",
    label: str = "label",
    top: tuple[int, ...] = (1, 5),
    block: int | None = None,
) -> types.ReferenceEvaluator:
  """Classifies examples by the classes of their nearest neighbours.

  With s_ij the cosine of example i and example j of the reference, and N_i the
  k nearest of these, of which equals are taken in their order,

      vote_ic = sum over j in N_i of class c:  exp(s_ij / T), or 1 by majority
      hit@m of i:  its class has a vote, and fewer than m classes come before it

  Of classes with equal votes the lower number comes first. A class that the
  reference lacks, and an embedding that is NaN, is a miss.

  Args:
    neighbours: k; the whole reference, if that is smaller.
    temperature: T, positive; None: the majority decides.
    image: the view to classify, and the field of a batch that it reads.
    label: the field with the classes, integers.
    top: each m of hit@m. One above the number of classes is left out.
    block: rows and columns of the cosines in memory; None: by backend.

  Returns:
    An evaluator over batches with `image` and `label`, of the source and of its
    reference. Metrics: "@1", "@5", ... as fractions; "/per_class@1", the mean
    over classes of the fraction of each; "/count", the examples classified;
    "/reference_count" and "/classes", the examples and classes of the reference.

  Raises:
    ValueError: if `neighbours`, `block` or an m is below 1, or `temperature` is
      not positive; when called, if there is no example, a field is missing, or
      labels are not one integer a row.

  References:
    Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination, 2018, section 3.4. https://arxiv.org/abs/1805.01978
    Caron et al., Emerging Properties in Self-Supervised Vision Transformers,
    2021, appendix. https://arxiv.org/abs/2104.14294

  Example:
    >>> def encode(batch):  # a tower that returns what it sees
    ...   return types.Embedded(
    ...       {"image": types.Features(jnp.asarray(batch["image"]))}, {})
    >>> known = {"image": np.eye(2, dtype="float32"), "label": np.array([4, 7])}
    >>> asked = {"image": np.float32([[2, 1], [1, 3]]), "label": np.array([4, 4])}
    >>> seen = np.array([True, True])
    >>> evaluate = knn(neighbours=1)
    >>> evaluate(encode, [(asked, seen)], [(known, seen)])["@1"]
    0.5
  """
  if min(neighbours, 1 if block is None else block, *top) < 1:
    raise ValueError(
        f"knn found neighbours={neighbours}, top={tuple(top)} and block={block} and "
        "needs whole numbers from 1."
    )
  if temperature is not None and not temperature > 0:
    raise ValueError(
        f"knn found temperature={temperature} and needs a positive number, or None "
        "for the majority."
    )

  def evaluate(
      encode: Callable[[types.Batch], types.Embedded],
      batches: Iterable[tuple[types.Batch, Any]],
      reference: Iterable[tuple[types.Batch, Any]],
  ) -> types.Metrics:
    known = _frozen.embed("knn", encode, reference, (image,), (label,))
    asked = _frozen.embed("knn", encode, batches, (image,), (label,))
    classes = _frozen.classes("knn", known.fields[label], asked.fields[label])
    scores, index = nearest.top_k(
        _unit(asked.views[image]), _unit(known.views[image]),
        min(neighbours, len(classes.reference)), block=block,
    )
    vote = functools.partial(
        _ranks, temperature=temperature, classes=len(classes.labels)
    )
    labels = classes.reference[np.asarray(index)]
    ranks = _frozen.by_rows(vote, np.asarray(scores), labels, classes.rows)
    return {
        **_frozen.accuracy(
            ranks, asked.fields[label],
            [m for m in top if m <= len(classes.labels)],
        ),
        "/count": float(len(ranks)),
        "/reference_count": float(len(classes.reference)),
        "/classes": float(len(classes.labels)),
    }

  return evaluate


def _unit(x):
  return np.asarray(normalize.unit(jnp.asarray(x)))


@functools.partial(jax.jit, static_argnames=("temperature", "classes"))
def _ranks(
    scores: Float[Array, "n k"],
    labels: Int[Array, "n k"],
    own: Int[Array, "n"],
    *,
    temperature: float | None,
    classes: int,
) -> Int[Array, "n"]:
  """How many classes come before the true one; all of them, without a vote."""
  if temperature is None:
    weights = jnp.where(jnp.isnan(scores), jnp.nan, 1.0)
  else:  # Relative to the nearest, so that no weight overflows.
    weights = jnp.exp((scores - scores[:, :1]) / temperature)
  rows = jnp.arange(len(own))

  def vote(k, votes):  # One neighbour at a time, so that sums have an order.
    return votes.at[rows, labels[:, k]].add(weights[:, k])

  votes = jnp.zeros((len(own), classes), weights.dtype)
  votes = jax.lax.fori_loop(0, scores.shape[1], vote, votes)
  mine = jnp.take_along_axis(votes, jnp.maximum(own, 0)[:, None], axis=1)[:, 0]
  return jnp.where(mine > 0, _frozen.ranks(votes, own), classes)

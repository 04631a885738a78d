"""How embeddings lie on the sphere: alignment, uniformity, rank, gap, margins."""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from basic import types
from basic.evals import _frozen
from basic.ops import geometry, normalize

_FIRST = "first caption"


def health(
    *,
    views: tuple[str, ...] = ("image", "text"),
    label: str = "label",
    captions: str = "captions",
    alpha: float = 2.0,
    t: float = 2.0,
    block: int = 1024,
) -> types.Evaluator:
  """Measures embeddings themselves; no task is needed.

  The equations are those of ops/geometry.py. Alignment, gap and margins compare
  the first two views, and examples with the same first caption are no negatives
  of each other. Time grows with the square of the examples, which
  `limit` of the evaluation bounds.

  Args:
    views: the views to measure, each of the field of a batch that has its name;
      those without such a field are left out.
    label: a field with one class a row, for tolerance; left out if absent.
    captions: a field of token ids [b k t], of which the first of each example is
      compared; without it, all examples are negatives.
    alpha: exponent of alignment.
    t: of uniformity.
    block: rows and columns of the cosines in memory.

  Returns:
    An evaluator. Metrics of each view: "/image/uniformity", 0 is collapse and
    lower is more even; "/image/effective_rank"; "/image/norm_mean" and
    "/image/norm_std", of embeddings before normalisation; "/image/tolerance", if
    some class has two examples. Of the first two: "/alignment", "/modality_gap",
    "/image_to_text_margin" and "/text_to_image_margin", means over rows with a
    negative. Of the objective, if it has one: "/temperature". "/count".

  Raises:
    ValueError: if `views` is empty, or `alpha`, `t` or `block` is not positive;
      when called, if there is no example, or no field of a view.

  Example:
    >>> def encode(batch):  # towers that return what they see
    ...   return types.Embedded(
    ...       {k: types.Features(jnp.asarray(v)) for k, v in batch.items()}, {})
    >>> z = np.eye(2, dtype="float32")
    >>> metrics = health()(encode, [({"image": z, "text": -z}, np.array([True] * 2))])
    >>> metrics["/alignment"], metrics["/image_to_text_margin"]
    (4.0, -1.0)
  """
  if not views or not min(alpha, t, block) > 0:
    raise ValueError(
        f"health found views={tuple(views)}, alpha={alpha}, t={t} and block={block} "
        "and needs a view and positive numbers."
    )

  def evaluate(
      encode: Callable[[types.Batch], types.Embedded],
      batches: Iterable[tuple[types.Batch, Any]],
      logits: types.Logits | None = None,
  ) -> types.Metrics:
    frozen = _frozen.embed(
        "health", encode, _with_first(batches, captions), views, (label, _FIRST),
        where_present=True,
    )
    there = [view for view in views if view in frozen.views]
    metrics = {} if logits is None else {"/temperature": 1.0 / logits.scale}
    for view in there:
      z = frozen.views[view]
      metrics.update(_of_view(view, z, frozen.fields.get(label), t, block))
    if len(there) > 1:
      metrics.update(_of_pair(*there[:2], frozen, alpha, block))
    metrics["/count"] = len(frozen.views[there[0]])
    return {name: float(value) for name, value in metrics.items()}

  return evaluate


def _of_view(view, z, labels, t, block):
  """What one view shows."""
  x = normalize.unit(jnp.asarray(z))
  mean, deviation = geometry.norms(jnp.asarray(z))
  metrics = {
      f"/{view}/uniformity": geometry.uniformity(x, t, block=block),
      f"/{view}/effective_rank": geometry.effective_rank(jnp.asarray(z)),
      f"/{view}/norm_mean": mean, f"/{view}/norm_std": deviation,
  }
  if labels is not None and labels.ndim == 1:
    names, numbers = np.unique(labels, return_inverse=True)
    if len(names) < len(labels):
      metrics[f"/{view}/tolerance"] = geometry.tolerance(
          x, jnp.asarray(numbers, jnp.int32), len(names)
      )
  return metrics


def _of_pair(first, second, frozen, alpha, block):
  """What two views of the same examples show."""
  x, y = (normalize.unit(jnp.asarray(frozen.views[v])) for v in (first, second))
  groups = jnp.asarray(_groups(frozen.fields.get(_FIRST), len(x)))
  margins = {
      f"/{first}_to_{second}_margin": geometry.margins(x, y, groups, block=block),
      f"/{second}_to_{first}_margin": geometry.margins(y, x, groups, block=block),
  }
  return {
      "/alignment": geometry.alignment(x, y, alpha),
      "/modality_gap": geometry.modality_gap(x, y),
      **{name: _mean_of_finite(np.asarray(each)) for name, each in margins.items()},
  }


def _with_first(batches, captions):
  """The batches, with the first caption of each example beside them."""
  for batch, mask in batches:
    if captions in batch:
      batch = {**batch, _FIRST: np.asarray(batch[captions])[:, 0]}
    yield batch, mask


def _groups(tokens, rows):
  """Equal numbers for rows with equal tokens; without tokens, all differ."""
  if tokens is None:
    return np.arange(rows, dtype=np.int32)
  _, numbers = np.unique(tokens.reshape(rows, -1), axis=0, return_inverse=True)
  return numbers.reshape(-1).astype(np.int32)


def _mean_of_finite(values):
  """The mean of what is not infinite; NaN if nothing is left."""
  kept = values[~np.isinf(values)]
  return np.mean(kept) if len(kept) else np.nan

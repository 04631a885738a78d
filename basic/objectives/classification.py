"""Supervised classification: a linear classifier on one view."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from basic import types
from basic.ops import precision


def classification(
    *,
    classes: int,
    kind: Literal["softmax", "sigmoid"] = "softmax",
    view: str = "image",
    label: str = "label",
    smoothing: float = 0.0,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> types.Objective:
  """Trains an encoder, with a linear classifier, on labelled examples.

  With logits s_ik = <x_i, w_k> + c_k, one class out of K per row,

      L = (1/b) sum_i (log sum_k exp s_ik - sum_k q_ik s_ik)    (softmax)

  or any number of classes per row, each a binary classification,

      L = (1/b) sum_ik (log(1 + exp s_ik) - q_ik s_ik)          (sigmoid)

  where q_ik is 1 for a row's classes, else 0; with label smoothing e it is mixed
  with the uniform distribution: (1 - e) q + e/K, or (1 - e) q + e/2. Rows do not
  interact: here the pairs are of rows and classes.

  Args:
    classes: K, at least 2 for softmax and 1 for sigmoid.
    kind: one class per row, or any number.
    view: the view that is classified.
    label: the field of the batch with the classes: integers [b] in [0, K); for
      sigmoid also integers [b m], where -1 means no class and repeated classes
      count once, or bool or float [b K] in [0, 1], which is q itself. Any other
      value makes the loss NaN.
    smoothing: e of label smoothing, in [0, 1).
    dtype: of the factors of the product; sums are float32 either way.

  Returns:
    An objective over `Features.pooled`, without normalising it; value in nats
    per row. Learns `kernel` [d K] and `bias` [K], float32; for sigmoid the bias
    is initialised to -log(K), about one class per row. Metric: `accuracy@1`, the
    fraction of rows whose largest logit is that of one of their classes, among
    rows with a class. It has no logits of pairs.

  Raises:
    ValueError: if `classes` or `smoothing` is out of range, or (on use) the
      labels have another shape or dtype, or the batch has no such field.

  References:
    Dai et al., CoAtNet, 2021, appendix A.2, for the sigmoid.
    https://arxiv.org/abs/2106.04803
    Szegedy et al., Rethinking the Inception Architecture, 2015, section 7, for
    the smoothing. https://arxiv.org/abs/1512.00567

  Example:
    >>> objective = classification(classes=3)
    >>> x = types.Features(jnp.ones((2, 4)))
    >>> z = types.Embedded({"image": x}, {"label": jnp.array([0, 2])})
    >>> params, memory = objective.init(jax.random.key(0), z)
    >>> params["kernel"].shape
    (4, 3)
  """
  least = 2 if kind == "softmax" else 1
  if classes < least:
    raise ValueError(
        f"classes is {classes}; classification() by {kind} takes at least "
        f"{least}."
    )
  if not 0 <= smoothing < 1:
    raise ValueError(f"smoothing is {smoothing}; classification() takes [0, 1).")

  def init(rng, shapes):
    width = shapes.views[view].pooled.shape[-1]
    bias = -math.log(classes) if kind == "sigmoid" else 0.0
    kernel = jax.random.normal(rng, (width, classes), jnp.float32)
    return {
        "kernel": kernel * width**-0.5,
        "bias": jnp.full((classes,), bias, jnp.float32),
    }

  def loss(params, embedded, rng):
    del rng  # The loss is deterministic.
    logits = _logits(params, embedded.views[view].pooled, dtype)
    targets = _targets(embedded.field(label), kind, classes)
    targets = targets.astype(logits.dtype)
    match = (1 - smoothing) * jnp.sum(targets * logits, -1)
    if kind == "softmax":
      uniform = smoothing * jnp.mean(logits, -1)
      rows = jax.nn.logsumexp(logits, axis=-1) - match - uniform
    else:
      uniform = smoothing / 2 * jnp.sum(logits, -1)
      rows = jnp.sum(jax.nn.softplus(logits), -1) - match - uniform
    return jnp.mean(rows), {"accuracy@1": _accuracy(logits, targets)}

  # A class is to a row what a token is to a position, and there may be as many.
  axes = (("kernel", ("embed", "vocab")), ("bias", ("vocab",)))
  return types.stateless(init, loss, axes=axes)


def _logits(
    params: types.Params, x: Float[Array, "b d"], dtype: str
) -> Float[Array, "b k"]:
  """<x_i, w_k> + c_k, in float32 (float64 where x is)."""
  exact = precision.accumulator(x.dtype)
  factor = exact if exact == jnp.float64 else jnp.dtype(dtype)
  products = jnp.matmul(
      x.astype(factor), params["kernel"].astype(factor),
      preferred_element_type=exact,
  )
  return products + params["bias"].astype(exact)[None]


def _targets(
    label: Shaped[Array, "b ..."], kind: str, classes: int
) -> Float[Array, "b k"]:
  """q without smoothing; NaN in rows with a value that is no class."""
  rows = label.shape[0]
  if jnp.issubdtype(label.dtype, jnp.integer):
    if label.ndim == 1 or (label.ndim == 2 and kind == "sigmoid"):
      least = 0 if kind == "softmax" else -1
      ids = label.reshape(rows, -1)
      valid = jnp.all((ids >= least) & (ids < classes), -1, keepdims=True)
      # By comparison and not by a scatter, for which the partitioner would
      # gather the rows of all devices.
      each = jnp.arange(classes, dtype=ids.dtype)[None, None]
      targets = jnp.any(ids[..., None] == each, 1).astype(jnp.float32)
      return jnp.where(valid, targets, jnp.nan)
  elif kind == "sigmoid" and label.shape == (rows, classes):
    targets = label.astype(jnp.float32)
    return jnp.where((targets >= 0) & (targets <= 1), targets, jnp.nan)
  more = f", integers [b m] or shares [b {classes}]"
  raise ValueError(
      f"found labels {label.dtype}{list(label.shape)}; classification() by "
      f"{kind} takes integers [b]{more if kind == 'sigmoid' else ''}."
  )


def _accuracy(
    logits: Float[Array, "b k"], targets: Float[Array, "b k"]
) -> Float[Array, ""]:
  """Fraction of the rows with a class whose largest logit is of one of theirs."""
  best = jnp.argmax(logits, -1)[:, None]
  hits = jnp.take_along_axis(targets, best, axis=1) > 0
  labelled = jnp.maximum(jnp.sum(jnp.any(targets > 0, -1)), 1)
  return (jnp.sum(hits) / labelled).astype(jnp.float32)

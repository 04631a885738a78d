"""Embeddings of whole sources and their labels, for evaluators of frozen towers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from basic import types


class Frozen(NamedTuple):
  """The rows of a source that are not masked, in host memory.

  Attributes:
    views: pooled embeddings [n d] by view, not normalised, at least float32.
    fields: fields of the batches [n ...] by name.
  """

  views: Mapping[str, np.ndarray]
  fields: Mapping[str, np.ndarray]


def embed(
    who: str,
    encode: Callable[[types.Batch], types.Embedded],
    batches: Iterable[tuple[types.Batch, Any]],
    views: Sequence[str],
    fields: Sequence[str] = (),
    *,
    where_present: bool = False,
) -> Frozen:
  """Encodes views of a whole source, and keeps some fields beside them.

  Args:
    who: name of the evaluator, for messages.
    encode: batch -> embeddings.
    batches: (batch, mask) pairs.
    views: to encode, each from the field of a batch that has its name.
    fields: to keep.
    where_present: leave out what the batches lack; one view must be there.

  Raises:
    ValueError: if there is no row, or a field is missing.
  """
  found: dict[str, list[np.ndarray]] = {}
  kept: dict[str, list[np.ndarray]] = {}
  for batch, mask in batches:
    rows = np.asarray(mask, bool)
    read = [view for view in views if view in batch]
    missing = sorted({*views, *fields} - set(batch))
    if missing and not (where_present and read):
      raise ValueError(
          f"{who} found the fields {sorted(batch)} and needs {missing} too: give "
          "the eval sources whose examples have them."
      )
    embedded = encode({view: batch[view] for view in read}).views
    for view in read:
      found.setdefault(view, []).append(np.asarray(embedded[view].pooled)[rows])
    for name in fields:
      if name in batch:
        kept.setdefault(name, []).append(np.asarray(batch[name])[rows])
  if not any(len(part) for parts in found.values() for part in parts):
    raise ValueError(
        f"{who} found no example: a source is empty, or every row is masked. Give "
        "the eval sources with examples."
    )
  return Frozen(
      {view: _at_least_float32(parts) for view, parts in found.items()},
      {name: np.concatenate(parts) for name, parts in kept.items()},
  )


def _at_least_float32(parts: Sequence[np.ndarray]) -> np.ndarray:
  x = np.concatenate(parts)
  return x if x.dtype == np.float64 else x.astype(np.float32)


class Classes(NamedTuple):
  """Labels of two sources as numbers of the classes of the reference.

  Attributes:
    labels: the classes of the reference, ascending [c].
    reference: number of the class of each of its rows, int32 [m].
    rows: the same for the rows to classify, int32 [n]; -1 for a class that the
      reference does not have.
  """

  labels: np.ndarray
  reference: np.ndarray
  rows: np.ndarray


def classes(who: str, reference: np.ndarray, rows: np.ndarray) -> Classes:
  """Numbers the classes of the reference.

  Raises:
    ValueError: if labels are not one integer a row.
  """
  for labels in (reference, rows):
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
      raise ValueError(
          f"{who} found labels {labels.dtype}{list(labels.shape)} and needs one "
          "integer a row: the number of a class."
      )
  known, numbers = np.unique(reference, return_inverse=True)
  place = np.clip(np.searchsorted(known, rows), 0, len(known) - 1)
  found = np.where(known[place] == rows, place, -1)
  return Classes(known, numbers.astype(np.int32), found.astype(np.int32))


def by_rows(
    function: Callable[..., Any], *arrays: np.ndarray, rows: int = 1024
) -> np.ndarray:
  """Calls a function on blocks of rows, all of one shape, and joins the results.

  Args:
    function: arrays [rows ...] -> array [rows ...].
    arrays: [n ...]; the last block is filled with zeros.
    rows: of a block.

  Returns:
    The results of the n rows, in host memory.
  """
  n = len(arrays[0])
  found = []
  for start in range(0, n, rows):
    parts = [array[start : start + rows] for array in arrays]
    short = rows - len(parts[0])
    padded = [np.pad(a, [(0, short)] + [(0, 0)] * (a.ndim - 1)) for a in parts]
    found.append(np.asarray(function(*map(jnp.asarray, padded)))[: len(parts[0])])
  return np.concatenate(found)


@jax.jit
def ranks(
    scores: Float[Array, "n c"], labels: Int[Array, "n"]
) -> Int[Array, "n"]:
  """The number of classes that come before the true one, c if that is unknown.

  Of equal scores the lower class comes first. Scores that are not numbers come
  before all others, so they are misses.
  """
  own = jnp.take_along_axis(scores, jnp.maximum(labels, 0)[:, None], axis=1)
  order = jnp.arange(scores.shape[1])[None, :]
  before = ~(scores <= own) | ((scores == own) & (order < labels[:, None]))
  count = jnp.sum(before, axis=1, dtype=jnp.int32)
  return jnp.where(labels < 0, scores.shape[1], count)


def accuracy(
    ranks: np.ndarray, labels: np.ndarray, top: Sequence[int]
) -> dict[str, float]:
  """Fractions of hits at each k, and the mean over classes of those at 1.

  Args:
    ranks: of the true classes, int [n]; below k is a hit at k.
    labels: true classes, integers [n].
    top: each k.

  Returns:
    "@1", ... and "/per_class@1".
  """
  _, place = np.unique(labels, return_inverse=True)
  hits = np.bincount(place, ranks < 1) / np.bincount(place)
  return {
      **{f"@{k}": float(np.mean(ranks < k)) for k in top},
      "/per_class@1": float(np.mean(hits)),
  }

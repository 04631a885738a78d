"""Gradient accumulation in the optimizer state, chunk by chunk.

As `cached`, but the contributions of the chunks are not summed in a buffer as
large as the parameters: the optimizer adds each of them to its moments as it
comes (types.Contributions), and estimates the second moment from how much they
differ between the replicas of the parameters.

References:
  Pham et al., Combined Scaling for Zero-shot Transfer Learning, 2021, section
  4.2. https://arxiv.org/abs/2111.10050
"""

import collections
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from basic import paths, types
from basic.gradient import _passes, _rows
from basic.sharding import row_sharding


def in_slots(
    encode: types.Encode,
    objective: types.Objective,
    *,
    chunks: int | Mapping[str, int],
    frozen: Iterable[str] = (),
) -> types.Gradient:
  """Differentiates chunk by chunk and lets the optimizer accumulate.

  For `adafactorw` with `accumulate="slots"`, whose optimizer state (its "slots")
  takes the contributions: the first moment is exact, the factored second moment
  an estimate (ops/slot_accumulation.py). It saves the buffer in which `cached`
  sums, 4 bytes per parameter, of which a first moment in float32 takes 2 again;
  it costs an all-reduce per chunk instead of one per step.

  Several chunks need several replicas of the parameters with rows of their own:
  a mesh of two devices or more along `data`, and one along other axes.

  Args:
    encode: rows of a batch -> embeddings.
    objective: embeddings -> loss.
    chunks: number of chunks, for all views or by view.
    frozen: patterns of parameter paths that are constants.

  Returns:
    A gradient, as from `direct`, whose `grads` are `types.Contributions`.

  Raises:
    ValueError: if `chunks` names no view, is less than 1, or does not divide
      the rows of every replica; if a tower that trains has no view of the
      batch, or several; and from the optimizer, if there are several chunks, one
      replica and a parameter with a factored second moment.
  """
  frozen = tuple(frozen)
  counts = _rows.counts(chunks, encode.views)

  def gradient(params, memory, batch, rng):
    keys, objective_key = _rows.keys(batch, rng)
    trainable, constant = paths.split(params, frozen)
    views = {n: v for n, v in encode.views.items() if v.field in batch}
    _check_towers(trainable, [v.tower for v in views.values()])
    _check_rows(next(iter(batch.values())).shape[0], max(counts.values()))
    features = {}
    for name, view in views.items():
      rows = (batch[view.field], keys)
      features[name], _ = _passes.encode_view(
          view, counts[name], {}, params[view.tower], rows
      )
    value_and_aux, (objective_grads, cotangents) = _passes.differentiate(
        encode, objective, trainable, constant, memory, batch, features,
        objective_key,
    )

    def fold(add, state):
      state = dict(state)
      if objective_grads:  # Of all pairs at once: one chunk, already summed.
        state |= add(state, types.Contribution(
            {"objective": objective_grads}, lambda x: x, 0, 1, 1
        ))
      for name, view in views.items():
        if view.tower in trainable:
          rows = batch[view.field], keys, cotangents[name]
          add_chunks = _add_chunks(view, counts[name], add)
          tower_state = {
              path: s for path, s in state.items()
              if path.startswith(f"{view.tower}/")
          }
          params = trainable[view.tower], constant.get(view.tower, {})
          state |= row_sharding.reduce_by_replica(add_chunks)(
              (tower_state, *params), rows
          )
      return state

    return value_and_aux, types.Contributions(fold)

  return gradient


def _add_chunks(view, count, add):
  """((optimizer state, params), rows, replicas) -> state after every chunk."""

  def add_chunks(shared, rows, replicas):
    (state, trainable, constant), (inputs, keys, cotangents) = shared, rows
    fetch, chunks = _rows.chunks((inputs, keys), count)

    def add_chunk(state, x):
      number, chunk, cotangent = x
      rows_of_chunk = fetch(chunk)
      _, pullback = jax.vjp(
          lambda t: view.apply(paths.merge(t, constant), *rows_of_chunk),
          trainable,
      )
      part = {view.tower: pullback(cotangent)[0]}
      return add(state, types.Contribution(
          part, replicas.total, number, count, replicas.number
      )), None

    xs = jnp.arange(count), chunks, _rows.chunk(cotangents, count)
    return jax.lax.scan(add_chunk, state, xs)[0]

  return add_chunks


def _check_towers(trainable, towers):
  views = collections.Counter(towers)
  other = {t: views[t] for t in trainable if t != "objective" and views[t] != 1}
  if other:
    raise ValueError(
        "in_slots takes exactly one view of every tower that trains, and found "
        f"{other} views: chunks of several views are not equal in distribution, "
        "and a tower without a view has no gradient. Freeze towers without a "
        "view, or use cached."
    )


def _check_rows(rows, count):
  replicas = row_sharding.replicas()
  if rows % (replicas * count):
    raise ValueError(
        f"a batch of {rows} does not divide into {count} chunks on each of "
        f"{replicas} replicas of the parameters; use a multiple of "
        f"{replicas * count}, or fewer chunks."
    )

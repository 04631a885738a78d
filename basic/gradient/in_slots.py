"""A gradient that goes to the optimizer's slots chunk by chunk.

As `cached`, but what a chunk adds to the gradient is not summed in a buffer as
large as the weights: the optimizer takes it as it comes (types.Contributions),
along with how much the copies of the parameters differ in it.

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
  """Differentiates chunk by chunk and lets the optimizer add the chunks up.

  For `adafactorw` with `accumulate="slots"`: its mean is exact, its mean squares
  are estimates (ops/slot_accumulation.py). Saves the buffer that `cached` sums
  in, 4 bytes a weight, of which a mean in float32 takes 2 again; costs a sum
  over devices for every chunk instead of one for all.

  Several chunks need copies of the parameters that differ in their rows: a mesh
  of two devices or more along `data`, and none along other axes.

  Args:
    encode: rows of a batch -> embeddings.
    objective: embeddings -> loss.
    chunks: into how many chunks a batch is cut, for all views or by view.
    frozen: patterns of parameter paths that are constants.

  Returns:
    A gradient, as `direct`, whose `grads` are `types.Contributions`.

  Raises:
    ValueError: if `chunks` names no view, is less than 1, or does not divide
      the rows of every copy; if a tower that trains has no view of the batch,
      or several; and from the optimizer, if there are several chunks, one copy
      and a weight that is factored.
  """
  frozen = tuple(frozen)
  counts = _rows.counts(chunks, encode.views)

  def gradient(params, memory, batch, rng):
    keys, noise = _rows.keys(batch, rng)
    trainable, constant = paths.split(params, frozen)
    views = {n: v for n, v in encode.views.items() if v.leaf in batch}
    _check_towers(trainable, [v.tower for v in views.values()])
    _check_rows(next(iter(batch.values())).shape[0], max(counts.values()))
    features = {}
    for name, view in views.items():
      rows = (batch[view.leaf], keys)
      features[name], _ = _passes.encode_view(
          view, counts[name], {}, params[view.tower], rows
      )
    found, (of_objective, of_features) = _passes.differentiate(
        encode, objective, trainable, constant, memory, batch, features, noise
    )

    def fold(add, slots):
      slots = dict(slots)
      if of_objective:
        whole = types.Contribution({"objective": of_objective}, lambda x: x, 0, 1, 1)
        slots |= add(slots, whole)
      for name, view in views.items():
        if view.tower in trainable:
          rows = batch[view.leaf], keys, of_features[name]
          walk = _walk(view, counts[name], add)
          mine = {p: s for p, s in slots.items() if _of(view.tower, p)}
          towers = trainable[view.tower], constant.get(view.tower, {})
          slots |= row_sharding.by_copy(walk)((mine, *towers), rows)
      return slots

    return found, types.Contributions(fold)

  return gradient


def _walk(view, count, add):
  """(slots and parameters, rows, copies) -> slots with every chunk in them."""

  def walk(shared, rows, copies):
    (slots, trainable, constant), (inputs, keys, bars) = shared, rows
    fetch, chunks = _rows.chunks((inputs, keys), count)

    def one(slots, given):
      number, chunk, bar = given
      rows = fetch(chunk)
      _, pullback = jax.vjp(
          lambda t: view.apply(paths.merge(t, constant), *rows), trainable
      )
      part = {view.tower: pullback(bar)[0]}
      return add(slots, types.Contribution(
          part, copies.total, number, count, copies.count
      )), None

    given = jnp.arange(count), chunks, _rows.chunk(bars, count)
    return jax.lax.scan(one, slots, given)[0]

  return walk


def _of(tower, path):
  return path.startswith(f"{tower}/")


def _check_towers(trainable, towers):
  seen = collections.Counter(towers)
  other = {t: seen[t] for t in trainable if t != "objective" and seen[t] != 1}
  if other:
    raise ValueError(
        f"in_slots takes one view of every tower that trains, and found {other}: "
        "chunks of several are not alike, and slots of none would stand still. "
        "Freeze what is not seen, or use cached."
    )


def _check_rows(rows, count):
  copies = row_sharding.copies()
  if rows % (copies * count):
    raise ValueError(
        f"a batch of {rows} does not divide into {count} chunks on each of "
        f"{copies} copies of the parameters; use a multiple of "
        f"{copies * count}, or fewer chunks."
    )

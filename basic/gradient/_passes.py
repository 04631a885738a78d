"""The two passes over a batch, view by view, and the objective between them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from basic import paths, types
from basic.gradient import _rows
from basic.sharding import host_rows, row_sharding


def differentiate(
    encode: types.Encode,
    objective: types.Objective,
    trainable: types.Params,
    constant: types.Params,
    memory: types.Memory,
    batch: types.Batch,
    features: Any,
    rng: Any,
) -> tuple[tuple[Any, Any], tuple[types.Params, Any]]:
  """Differentiates the objective alone, once, at the embeddings of all rows.

  Returns:
    ((value, (memory, metrics)), (gradient of the objective's own parameters,
    cotangent of the features)).
  """

  def loss(objective_params, features):
    params = paths.merge(objective_params, constant.get("objective", {}))
    embedded = types.Embedded(features, encode.side(batch))
    return objective.apply(params, memory, embedded, rng)

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(
      trainable.get("objective", {}), features
  )


def encode_view(
    view: types.View,
    count: int,
    trainable: types.Params,
    constant: types.Params,
    rows: tuple[Any, Any],
    keep_bytes: int = 0,
) -> tuple[types.Features, Callable[[types.Features], types.Params] | None]:
  """Encodes all rows of one view, a chunk at a time.

  Args:
    view: to encode.
    count: number of chunks.
    trainable: parameters of its tower to differentiate; {} for none.
    constant: the other parameters of its tower.
    rows: (inputs [b ...], one key per row or None); inputs may be `HostRows`.
    keep_bytes: memory for activations of chunks that are not recomputed, over
      all devices.

  Returns:
    (features of all rows, pullback). The pullback maps their cotangent to the
    gradient of `trainable`, and encodes again the chunks whose activations were
    not kept; None if nothing trains.
  """
  # Counted for the whole batch, because the budget is for all devices: inside
  # `by_replica` a replica sees its own rows only.
  kept = _affordable_chunks(view, (trainable, constant), rows, count, keep_bytes)
  encode = functools.partial(_encode_in_chunks, view, count, kept)
  # Each replica cuts its own rows into `count` chunks. Rows on the host are cut
  # already: their leading axis has b / count entries, one of each chunk.
  on_host = isinstance(rows[0], host_rows.HostRows)
  encode = row_sharding.by_replica(encode, multiple=1 if on_host else count)
  if not trainable:
    return encode(({}, constant), rows), None
  features, pullback = jax.vjp(
      lambda params: encode((params, constant), rows), trainable
  )
  return features, lambda cotangent: pullback(cotangent)[0]


def _encode(view, params, rows):
  """Encodes rows in one piece; params is (trainable, constant)."""
  inputs, keys = rows
  return view.apply(paths.merge(*params), inputs, keys)


def _encode_chunk(view, fetch, params, chunk):
  return _encode(view, params, fetch(chunk))


def _encode_in_chunks(view, count, kept, params, rows):
  """Encodes rows chunk by chunk, so that the last `kept` keep activations."""
  if count == 1:
    return _encode(view, params, rows)
  fetch, chunks = _rows.chunks(rows, count)
  encode_and_keep = functools.partial(_encode_chunk, view, fetch)
  # What reverse mode stores of a `map` is stacked over its iterations. Under
  # `checkpoint` that is the loop's own inputs, a chunk's index and keys: so the
  # inputs are cut inside the loop, by `fetch`, or they would be stored twice.
  encode_again_later = jax.checkpoint(encode_and_keep)
  # The last chunks are kept, since the backward pass begins with them: their
  # activations are freed before the first chunk is encoded again.
  recomputed, stored = _split_at(chunks, count - kept)
  features = [
      jax.lax.map(functools.partial(encode, params), some)
      for encode, some in (
          (encode_again_later, recomputed), (encode_and_keep, stored)
      )
      if jax.tree.leaves(some)[0].shape[0]
  ]
  return _rows.unchunk(jax.tree.map(lambda *a: jnp.concatenate(a), *features))


def _affordable_chunks(view, params, rows, count, keep_bytes) -> int:
  """How many chunks can keep their activations within a budget of bytes."""
  if not keep_bytes or count == 1:
    return 0
  one, two = (
      _residual_bytes(view, params, _shapes_of_chunks(rows, count, times))
      for times in (1, 2)
  )
  # Residuals include the parameters, which a larger chunk does not repeat: the
  # difference between two chunks and one is what each chunk adds.
  return min(count, keep_bytes // max(two - one, 1))


def _residual_bytes(view, params, rows) -> int:
  """Bytes of the residuals that reverse mode stores to encode such rows."""
  trainable, constant = params
  # A pullback is a pytree whose leaves are its residuals.
  pullback = jax.eval_shape(
      lambda t, c, rows: jax.vjp(lambda t: _encode(view, (t, c), rows), t)[1],
      trainable, constant, rows,
  )
  return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(pullback))


def _shapes_of_chunks(rows, count, times):
  """Shapes of the rows of `times` chunks, as if they were one."""
  return jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(
          (times * (a.shape[0] // count), *a.shape[1:]), a.dtype
      ),
      rows, is_leaf=lambda a: isinstance(a, host_rows.HostRows),
  )


def _split_at(tree: Any, index: int) -> tuple[Any, Any]:
  """Splits every array along its first axis: [:index] and [index:]."""
  return (
      jax.tree.map(lambda a: a[:index], tree),
      jax.tree.map(lambda a: a[index:], tree),
  )

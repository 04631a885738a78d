"""The two passes over a batch, view by view, and the objective between them."""

import functools
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
    noise: Any,
) -> tuple[tuple[Any, Any], tuple[types.Params, Any]]:
  """Differentiates the objective alone, once, at the embeddings of all rows.

  Returns:
    ((value, (memory, metrics)), (gradient of the objective's own parameters,
    gradient of the features)).
  """

  def loss(phi, features):
    phi = paths.merge(phi, constant.get("objective", {}))
    z = types.Embedded(features, encode.side(batch))
    return objective.apply(phi, memory, z, noise)

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(
      trainable.get("objective", {}), features
  )


def encode_view(view, count, trainable, constant, rows, budget=0):
  """(features of all rows, cotangent of them -> gradient of the tower)."""

  def embed(params, rows):
    inputs, keys = rows
    return view.apply(paths.merge(*params), inputs, keys)

  def embed_all(params, rows):
    if count == 1:
      return embed(params, rows)
    fetch, chunks = _rows.chunks(rows, count)

    def embed_one(params, chunk):
      return embed(params, fetch(chunk))

    again, last = _cut_at(chunks, count - kept)
    # Differentiating through a map stores what each of its chunks needs: of
    # those that are encoded again, their number and keys alone.
    features = [
        jax.lax.map(functools.partial(way, params), some)
        for way, some in ((jax.checkpoint(embed_one), again), (embed_one, last))
        if jax.tree.leaves(some)[0].shape[0]
    ]
    return _rows.unchunk(jax.tree.map(lambda *a: jnp.concatenate(a), *features))

  # Of all rows, before copies of the parameters share them.
  kept = _affordable(embed, (trainable, constant), rows, count, budget)
  # On the host they lie by chunk already: b/count of them.
  waits = isinstance(rows[0], host_rows.HostRows)
  embed_all = row_sharding.by_replica(embed_all, multiple=1 if waits else count)
  if not trainable:
    return embed_all(({}, constant), rows), None
  features, pullback = jax.vjp(
      lambda t: embed_all((t, constant), rows), trainable
  )
  return features, lambda bar: pullback(bar)[0]


def _affordable(embed, params, rows, count, budget) -> int:
  """How many chunks may keep their activations within a budget of bytes."""
  if not budget or count == 1:
    return 0

  def stored(times):
    """Bytes that the backward pass of so many chunks at once would need."""
    some = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(
            (times * (a.shape[0] // count), *a.shape[1:]), a.dtype
        ),
        rows, is_leaf=lambda a: isinstance(a, host_rows.HostRows),
    )
    pullback = jax.eval_shape(
        lambda p, rows: jax.vjp(lambda t: embed((t, p[1]), rows), p[0])[1],
        params, some,
    )
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(pullback))

  # What grows with the rows are activations; the rest are parameters.
  return min(count, budget // max(stored(2) - stored(1), 1))


def _cut_at(tree: Any, where: int) -> tuple[Any, Any]:
  """The first chunks, and the others."""
  return (
      jax.tree.map(lambda a: a[:where], tree),
      jax.tree.map(lambda a: a[where:], tree),
  )

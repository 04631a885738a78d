"""Two ways to the same gradient of an objective over all pairs of a batch.

`direct` is ordinary reverse mode. `cached` has the same type and the same
numbers and keeps the activations of a chunk at a time:

    Z    = encode(theta, batch)               chunk by chunk, nothing kept
    L, g = value_and_grad(objective)(phi, Z)  once, over all pairs
    dL/dtheta = sum_c (dZ_c/dtheta)^T g_c     chunk by chunk, encoded again

Where devices hold copies of the parameters, each adds up its own chunks, and
their sums are added once a step. The batch is read twice, a chunk at a time, so
it need not lie on the devices: it may wait in the memory of their hosts.

It is exact because rows are independent (types.py) and because noise belongs to
the row: row i draws from the key `fold_in(rng, i)` whichever chunk it is in.

References:
  Pham et al., Combined Scaling for Zero-shot Transfer Learning, 2021,
  section 4. https://arxiv.org/abs/2111.10050
  Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited
  Setup, 2021. https://arxiv.org/abs/2101.06983
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from basic import paths, types
from basic.ops import host_rows, placement


def direct(
    encode: types.Encode,
    objective: types.Objective,
    *,
    frozen: Iterable[str] = (),
) -> types.Gradient:
  """Differentiates the whole batch at once.

  Args:
    encode: rows of a batch -> embeddings.
    objective: embeddings -> loss.
    frozen: patterns of parameter paths that are constants.

  Returns:
    A gradient (params, memory, batch, rng) -> ((value, (memory, metrics)),
    grads); `grads` holds the paths that are not frozen. `rng` None: no noise.
  """
  frozen = tuple(frozen)

  def gradient(params, memory, batch, rng):
    keys, noise = _keys(batch, rng)
    trainable, constant = paths.split(params, frozen)

    def loss(trainable):
      params = paths.merge(trainable, constant)
      z = encode(params, batch, keys)
      return objective.apply(params["objective"], memory, z, noise)

    return jax.value_and_grad(loss, has_aux=True)(trainable)

  return gradient


def cached(
    encode: types.Encode,
    objective: types.Objective,
    *,
    chunks: int | Mapping[str, int],
    keep_bytes: int = 0,
    inputs: Literal["device", "host"] = "device",
    frozen: Iterable[str] = (),
) -> types.Gradient:
  """Differentiates chunk by chunk; the same numbers in a chunk's memory.

  Costs one more forward pass of what is not kept: 4/3 of `direct` at most. A
  view whose tower is frozen has no second pass; a view of one chunk keeps its
  activations and has none either.

  With inputs="host" devices hold a chunk of the inputs, not the batch: of
  65,536 images of 224 x 224 pixels they save 9.9 GB, and as much again for the
  copy in which chunks lie one after the other. They cross to the device twice a
  step in place of once, the second time where a tower trains. That pays where
  the memory allows a larger batch or fewer devices, as long as encoding a chunk
  takes longer than bringing it: an image of 150 kB takes 6 us at 25 GB/s, and a
  forward pass of a ViT-B/16 over it 90 us at 400 TFLOP/s. These are estimates:
  it was not measured on an accelerator.

  Args:
    encode: rows of a batch -> embeddings.
    objective: embeddings -> loss.
    chunks: into how many chunks a batch is cut, for all views or by view.
    keep_bytes: what activations may take beyond the chunk that is worked on,
      over all devices, shared evenly by the views that train. The last chunks
      keep theirs from the first pass as far as this goes.
    inputs: where what is encoded in several chunks waits for its turn: on the
      devices, or, as `HostRows`, in the memory of their hosts. What is encoded
      in one, and what the objective reads, is on the devices in either case.
    frozen: patterns of parameter paths that are constants.

  Returns:
    A gradient, as `direct`.

  Raises:
    ValueError: if `chunks` names no view, is less than 1, or does not divide
      the batch; if `keep_bytes` is negative; if a leaf waits elsewhere than
      `inputs` says, or in other chunks.
  """
  frozen = tuple(frozen)
  counts = _counts(chunks, encode.views)
  if keep_bytes < 0:
    raise ValueError(f"keep_bytes is {keep_bytes}; it takes 0 or more.")

  def gradient(params, memory, batch, rng):
    keys, noise = _keys(batch, rng)
    trainable, constant = paths.split(params, frozen)
    features, pullbacks = {}, {}
    training = [v for v in encode.views.values() if v.tower in trainable]
    budget = keep_bytes // max(len(training), 1)
    for name, view in encode.views.items():
      if view.leaf not in batch:
        continue
      _check_place(view.leaf, batch[view.leaf], inputs, counts[name])
      rows = (batch[view.leaf], keys)
      features[name], pullbacks[name] = _encode_view(
          view, counts[name], trainable.get(view.tower, {}),
          constant.get(view.tower, {}), rows, budget,
      )

    def loss(phi, features):
      phi = paths.merge(phi, constant.get("objective", {}))
      z = types.Embedded(features, encode.side(batch))
      return objective.apply(phi, memory, z, noise)

    (value, aux), (of_objective, of_features) = jax.value_and_grad(
        loss, (0, 1), has_aux=True
    )(trainable.get("objective", {}), features)

    grads = {"objective": of_objective} if of_objective else {}
    for name, view in encode.views.items():
      if name in features and view.tower in trainable:
        part = pullbacks[name](of_features[name])
        if view.tower in grads:  # Two views of one tower: their sum.
          part = jax.tree.map(jnp.add, grads[view.tower], part)
        grads[view.tower] = part
    return (value, aux), dict(sorted(grads.items()))

  return gradient


def _keys(batch, rng):
  """(one key a row, the objective's key); None, None for no noise."""
  if rng is None:
    return None, None
  of_rows, of_objective = jax.random.split(rng)
  return row_keys(of_rows, next(iter(batch.values())).shape[0]), of_objective


def row_keys(rng: Key[Array, ""], rows: int) -> Key[Array, "b"]:
  """One key a row, a function of the key and the global row index alone."""
  return jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(rows))


def _counts(chunks, views):
  if isinstance(chunks, int):
    chunks = dict.fromkeys(views, chunks)
  for name, count in chunks.items():
    if name not in views:
      raise ValueError(f"chunks names {name!r}; the views are {sorted(views)}.")
    if count < 1:
      raise ValueError(f"chunks of {name!r} is {count}; it takes 1 or more.")
  return {name: chunks.get(name, 1) for name in views}


def waiting(
    chunks: int | Mapping[str, int], views: Mapping[str, types.View]
) -> dict[str, int]:
  """Leaves that wait on the host with inputs="host" -> their chunks.

  Args:
    chunks: as `cached` takes them.
    views: by name.

  Returns:
    Those of views that are encoded in more than one chunk.
  """
  counts = _counts(chunks, views)
  return {
      view.leaf: counts[name]
      for name, view in views.items() if counts[name] > 1
  }


def _check_place(leaf, found, inputs, count):
  """Refuses a leaf that waits elsewhere than was said, or in other chunks."""
  chunks = found.chunks if isinstance(found, host_rows.HostRows) else None
  wanted = count if inputs == "host" and count > 1 else None
  if chunks != wanted:

    def said(chunks):
      return f"on the {'device' if chunks is None else f'host in {chunks} chunks'}"

    raise ValueError(
        f"{leaf!r} waits {said(chunks)}, and inputs={inputs!r} with {count} "
        f"chunks expects it {said(wanted)}; `Layout.shard` puts it there."
    )


def _encode_view(view, count, trainable, constant, rows, budget):
  """(features of all rows, cotangent of them -> gradient of the tower)."""

  def embed(params, rows):
    inputs, keys = rows
    return view.apply(paths.merge(*params), inputs, keys)

  def embed_all(params, rows):
    if count == 1:
      return embed(params, rows)
    fetch, chunks = _chunks(rows, count)

    def embed_one(params, chunk):
      return embed(params, fetch(chunk))

    again, last = _cut_at(chunks, count - kept)
    # Differentiating through a map stores what each of its chunks needs: of
    # those that are encoded again, the rows alone.
    features = [
        jax.lax.map(functools.partial(way, params), some)
        for way, some in ((jax.checkpoint(embed_one), again), (embed_one, last))
        if jax.tree.leaves(some)[0].shape[0]
    ]
    return _unchunk(jax.tree.map(lambda *a: jnp.concatenate(a), *features))

  # Of all rows, before copies of the parameters share them.
  kept = _affordable(embed, (trainable, constant), rows, count, budget)
  # On the host they lie by chunk already: b/count of them.
  waits = isinstance(rows[0], host_rows.HostRows)
  embed_all = placement.by_replica(embed_all, multiple=1 if waits else count)
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


def _chunks(rows, count):
  """(chunk as a loop gets it -> its rows on the device, all that it gets)."""
  inputs, keys = rows
  if not isinstance(inputs, host_rows.HostRows):
    return lambda chunk: chunk, _chunk(rows, count)
  return (
      lambda chunk: (inputs.chunk(chunk[0]), chunk[1]),
      (host_rows.numbers(count), _chunk(keys, count)),
  )


def _cut_at(tree: Any, where: int) -> tuple[Any, Any]:
  """The first chunks, and the others."""
  return (
      jax.tree.map(lambda a: a[:where], tree),
      jax.tree.map(lambda a: a[where:], tree),
  )


def _chunk(tree: Any, count: int) -> Any:
  """Every leaf [b ...] as [count b/count ...], chunk c holding rows c::count.

  By stride, not by block: a batch sharded over devices stays where it is.
  """

  def cut(a):
    if a.shape[0] % count:
      raise ValueError(
          f"a batch of {a.shape[0]} does not divide into {count} chunks; use a "
          f"batch that is a multiple of {count}, or fewer chunks."
      )
    return jnp.swapaxes(a.reshape(-1, count, *a.shape[1:]), 0, 1)

  return jax.tree.map(cut, tree)


def _unchunk(tree: Any) -> Any:
  return jax.tree.map(
      lambda a: jnp.swapaxes(a, 0, 1).reshape(-1, *a.shape[2:]), tree
  )

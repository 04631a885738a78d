"""What goes with the rows of a batch: PRNG keys, and how chunks are cut."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from basic import types
from basic.sharding import host_rows


def keys(batch, rng):
  """(one key per row, the objective's key); (None, None) without noise."""
  if rng is None:
    return None, None
  for_rows, for_objective = jax.random.split(rng)
  return row_keys(for_rows, next(iter(batch.values())).shape[0]), for_objective


def row_keys(rng: Key[Array, ""], rows: int) -> Key[Array, "b"]:
  """One key per row, which depends on the key and the global row index only."""
  return jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(rows))


def counts(
    chunks: int | Mapping[str, int], views: Mapping[str, types.View]
) -> dict[str, int]:
  """Number of chunks of each view; 1 for views that `chunks` leaves out."""
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
  """Fields that stay in host memory with inputs="host" -> number of chunks.

  Args:
    chunks: as for `cached`.
    views: by name.

  Returns:
    The fields of views that are encoded in more than one chunk.
  """
  number = counts(chunks, views)
  return {
      view.field: number[name]
      for name, view in views.items() if number[name] > 1
  }


def check_memory(field, value, inputs, count):
  """Refuses a field in another memory, or in other chunks, than configured."""
  chunks = value.chunks if isinstance(value, host_rows.HostRows) else None
  expected = count if inputs == "host" and count > 1 else None
  if chunks != expected:
    raise ValueError(
        f"{field!r} is {_memory(chunks)}, and inputs={inputs!r} with {count} "
        f"chunks expects it {_memory(expected)}; `Layout.shard` puts it there."
    )


def _memory(chunks):
  return "on the device" if chunks is None else f"on the host in {chunks} chunks"


def chunks(rows: tuple[Any, Any], count: int) -> tuple[Any, Any]:
  """Rows in the form that a loop over chunks takes.

  A loop over the inputs themselves, stacked by chunk, would need a copy of the
  batch. It runs over the chunks' indices instead, and cuts each chunk's inputs
  when it uses them.

  Args:
    rows: (inputs [b ...], one key per row or None); inputs may be `HostRows`.
    count: number of chunks.

  Returns:
    (fetch, xs): the loop runs over `xs`, and `fetch(one of xs)` is the (inputs,
    keys) of that chunk.
  """
  inputs, keys_of_rows = rows
  if isinstance(inputs, host_rows.HostRows):
    cut, numbers = inputs.chunk, host_rows.numbers(count)
  else:
    _check_count(inputs, count)
    cut = functools.partial(_cut, inputs, count)
    numbers = jnp.arange(count)
  return lambda one: (cut(one[0]), one[1]), (numbers, chunk(keys_of_rows, count))


def _cut(a, count, number):
  """Rows number::count, as in `chunk`."""
  a = a.reshape(-1, count, *a.shape[1:])
  return jax.lax.dynamic_index_in_dim(a, number, 1, keepdims=False)


def _check_count(a, count):
  if a.shape[0] % count:
    raise ValueError(
        f"a batch of {a.shape[0]} does not divide into {count} chunks; use a "
        f"batch that is a multiple of {count}, or fewer chunks."
    )


def chunk(tree: Any, count: int) -> Any:
  """Every array [b ...] as [count b/count ...]; chunk c has rows c::count.

  By stride and not by block: where a batch is sharded over devices in blocks,
  each chunk has rows of every device, and no row has to move.
  """

  def cut(a):
    _check_count(a, count)
    return jnp.swapaxes(a.reshape(-1, count, *a.shape[1:]), 0, 1)

  return jax.tree.map(cut, tree)


def unchunk(tree: Any) -> Any:
  """The inverse of `chunk`: every array [count b/count ...] as [b ...]."""
  return jax.tree.map(
      lambda a: jnp.swapaxes(a, 0, 1).reshape(-1, *a.shape[2:]), tree
  )

"""What belongs to rows: their keys, and the chunks that they are cut into."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from basic import types
from basic.sharding import host_rows


def keys(batch, rng):
  """(one key a row, the objective's key); None, None for no noise."""
  if rng is None:
    return None, None
  of_rows, of_objective = jax.random.split(rng)
  return row_keys(of_rows, next(iter(batch.values())).shape[0]), of_objective


def row_keys(rng: Key[Array, ""], rows: int) -> Key[Array, "b"]:
  """One key a row, a function of the key and the global row index alone."""
  return jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(rows))


def counts(
    chunks: int | Mapping[str, int], views: Mapping[str, types.View]
) -> dict[str, int]:
  """Into how many chunks each view is cut; 1 where nothing is said."""
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
  found = counts(chunks, views)
  return {
      view.leaf: found[name] for name, view in views.items() if found[name] > 1
  }


def check_place(leaf, found, inputs, count):
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


def chunks(rows: tuple[Any, Any], count: int) -> tuple[Any, Any]:
  """Rows as a loop takes them: a chunk of the inputs is cut when it is used.

  Laid out one after the other, chunks would be a copy of the batch.

  Args:
    rows: (inputs [b ...], one key a row or None); inputs may be `HostRows`.
    count: of chunks.

  Returns:
    (what the loop gets -> (inputs, keys) of a chunk, what it goes over).
  """
  inputs, row_keys = rows
  if isinstance(inputs, host_rows.HostRows):
    cut, numbers = inputs.chunk, host_rows.numbers(count)
  else:
    _check_count(inputs, count)
    cut = functools.partial(_cut, inputs, count)
    numbers = jnp.arange(count)
  return lambda one: (cut(one[0]), one[1]), (numbers, chunk(row_keys, count))


def _cut(a, count, number):
  a = a.reshape(-1, count, *a.shape[1:])
  return jax.lax.dynamic_index_in_dim(a, number, 1, keepdims=False)


def _check_count(a, count):
  if a.shape[0] % count:
    raise ValueError(
        f"a batch of {a.shape[0]} does not divide into {count} chunks; use a "
        f"batch that is a multiple of {count}, or fewer chunks."
    )


def chunk(tree: Any, count: int) -> Any:
  """Every leaf [b ...] as [count b/count ...], chunk c holding rows c::count.

  By stride, not by block: a batch sharded over devices stays where it is.
  """

  def cut(a):
    _check_count(a, count)
    return jnp.swapaxes(a.reshape(-1, count, *a.shape[1:]), 0, 1)

  return jax.tree.map(cut, tree)


def unchunk(tree: Any) -> Any:
  """The inverse of `chunk`: every leaf [count b/count ...] as [b ...]."""
  return jax.tree.map(
      lambda a: jnp.swapaxes(a, 0, 1).reshape(-1, *a.shape[2:]), tree
  )

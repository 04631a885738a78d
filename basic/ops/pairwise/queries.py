"""Queries that meet all items, on all devices of the mesh in context.

A search is a fold: each query has a state, and items are added to it in blocks.
Rows of queries are split over the devices. Without a mesh, or on one device,
nothing is transferred.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Int, Shaped


class Span(NamedTuple):
  """One block of rows.

  Attributes:
    start: its first row, int32.
    new: bool [size]; False for rows that the block before it has too.
  """

  start: Array
  new: Bool[Array, "size"]

  @property
  def numbers(self) -> Int[Array, "size"]:
    """The numbers of its rows."""
    return self.start + jnp.arange(self.new.shape[0], dtype=jnp.int32)

  def cut(self, rows: Shaped[Array, "n ..."]) -> Shaped[Array, "size ..."]:
    """Its part of some rows."""
    return jax.lax.dynamic_slice_in_dim(rows, self.start, self.new.shape[0])

  def put(
      self, rows: Shaped[Array, "n ..."], part: Shaped[Array, "size ..."]
  ) -> Shaped[Array, "n ..."]:
    """The rows with another part in its place."""
    return jax.lax.dynamic_update_slice_in_dim(rows, part, self.start, 0)


def blocks(length: int, block: int) -> tuple[int, int]:
  """(rows of a block, number of blocks) for so many rows, at least one."""
  size = min(block, length)
  return size, -(-length // size)


def span(number: Any, size: int, length: int) -> Span:
  """Block `number` of `size` rows.

  The last one ends with the last row, and so may begin in the block before it:
  to fill it up would copy all rows.
  """
  start = jnp.minimum(number * size, length - size).astype(jnp.int32)
  new = start + jnp.arange(size, dtype=jnp.int32) >= number * size
  return Span(start, new)


# (queries, items, number of the first of these items, state) -> state
Fold = Callable[[Array, Array, Any, Any], Any]


def around(
    fold: Fold,
    start: Callable[[int], Any],
    queries: Shaped[Array, "n ..."],
    items: Shaped[Array, "m ..."],
) -> Any:
  """Folds all items into the states of the queries, around a ring of devices.

  Items are split over the devices too and travel from one to the next, so a
  device never holds more than its share of either side, twice.

  Args:
    fold: (queries, items, number of the first of these items, state) -> state.
      It must leave out items whose number is m or more, which fill the last
      share, and must not depend on the order in which shares come.
    start: number of queries -> their state before any item; arrays [n ...].
    queries: rows.
    items: rows.

  Returns:
    The states [n ...], on every device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return fold(queries, items, 0, start(queries.shape[0]))
  axes, rows = mesh.axis_names, PartitionSpec(mesh.axis_names)
  ring = [(i, (i + 1) % mesh.size) for i in range(mesh.size)]

  def of_device(x, y):
    mine = jax.lax.axis_index(axes)

    def visit(turn, carry):
      y, state = carry
      first = (mine - turn) % mesh.size * y.shape[0]
      # The transfer does not wait for this turn's products.
      following = jax.lax.ppermute(y, axes, ring)
      return following, fold(x, y, first, state)

    _, state = jax.lax.fori_loop(
        0, mesh.size, visit, (y, start(x.shape[0]))
    )
    return jax.tree.map(
        lambda a: jax.lax.all_gather(a, axes, tiled=True), state
    )

  states = jax.shard_map(
      of_device, mesh=mesh, in_specs=(rows, rows), out_specs=PartitionSpec(),
      check_vma=False,
  )(_filled(queries, mesh.size), _filled(items, mesh.size))
  return jax.tree.map(lambda a: a[: queries.shape[0]], states)


def total(
    part: Callable[..., Any], queries: Shaped[Array, "n ..."], *shared: Any
) -> Any:
  """Sums over the devices what each computes for its queries.

  Args:
    part: (queries of a device, number of the first of them, `shared`) -> arrays
      of one shape for all devices. It must leave out queries whose number is n
      or more.
    queries: rows, split over the devices.
    shared: arrays that every device has in full.

  Returns:
    The sums, on every device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return part(queries, 0, *shared)
  axes = mesh.axis_names

  def of_device(x, *shared):
    first = jax.lax.axis_index(axes) * x.shape[0]
    return jax.lax.psum(part(x, first, *shared), axes)

  return jax.shard_map(
      of_device, mesh=mesh,
      in_specs=(PartitionSpec(axes), *(PartitionSpec() for _ in shared)),
      out_specs=PartitionSpec(), check_vma=False,
  )(_filled(queries, mesh.size), *shared)


def _filled(rows: Array, devices: int) -> Array:
  """Rows of zeros are added until the devices divide them."""
  missing = -rows.shape[0] % devices
  if not missing:
    return rows
  return jnp.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))

"""How all rows meet all columns: on one device, gathered, or around a ring.

A method is a forward and a backward pass over the pairs of one device's rows
with all columns, inside `shard_map`. Communication is explicit here, and the
gradient is a `custom_vjp`, because differentiating through the collectives and
loops would store every tile.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from basic.ops import precision
from basic.ops.pairwise import pallas_kernel, tiles

GATHER_LIMIT_BYTES = 2**30
# Rows and columns of a tile. On CPUs a tile fits in the cache; on accelerators
# it is large enough to be worth the launch of its kernels.
TILE_BY_BACKEND = {"cpu": 1024}
TILE_ON_ACCELERATORS = 4096

# Implementations of a tile: modules with a `forward` and a `backward` that loop
# over the tiles of one device.
TILE_KERNELS = {"xla": tiles, "pallas": pallas_kernel}


def tile_rows() -> int:
  """Rows and columns of a tile on these devices, if nobody chooses."""
  return TILE_BY_BACKEND.get(jax.default_backend(), TILE_ON_ACCELERATORS)


class Plan(NamedTuple):
  """The static part of a reduction: everything that is not an array.

  Attributes:
    method: a key of `METHODS`.
    mesh: the mesh in context.
    tile: rows and columns of a tile.
    kernel: a key of `TILE_KERNELS`.
  """

  method: str
  mesh: Any
  tile: int
  kernel: str

  @property
  def axes(self) -> tuple[str, ...]:
    """All mesh axes: rows are split over all of them."""
    return self.mesh.axis_names

  @property
  def devices(self) -> int:
    """Number of devices of the mesh."""
    return self.mesh.size


def plan(
    method: str, tile: int | None, kernel: str, x: Array, y: Array
) -> Plan:
  """Chooses how to reduce the pairs of `x` and `y` on the mesh in context.

  Args:
    method: "auto", "gather" or "ring".
    tile: rows and columns of a tile; None: by backend.
    kernel: a key of `TILE_KERNELS`.
    x: rows [i d].
    y: columns [j d].

  Raises:
    ValueError: if the method or the kernel is unknown, or if the devices do not
      divide the rows or the columns.
  """
  if method not in ("auto", "gather", "ring"):
    raise ValueError(
        f"method is {method!r}; it takes 'auto', 'gather' or 'ring'. (On one "
        "device all of them are local.)"
    )
  if kernel not in TILE_KERNELS:
    raise ValueError(
        f"kernel is {kernel!r}; it takes {' or '.join(map(repr, TILE_KERNELS))}."
    )
  tile = tile or tile_rows()
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return Plan("local", mesh, tile, kernel)
  for name, z in (("rows", x), ("columns", y)):
    if z.shape[0] % mesh.size:
      raise ValueError(
          f"{z.shape[0]} {name} do not divide over the {mesh.size} devices of "
          f"the mesh {dict(mesh.shape)}; use a multiple of {mesh.size}."
      )
  if method == "auto":
    # Each device would hold all columns and the float32 sums of their gradient.
    itemsize = y.dtype.itemsize + precision.accumulator(y.dtype).itemsize
    method = "gather" if y.size * itemsize <= GATHER_LIMIT_BYTES else "ring"
  return Plan(method, mesh, tile, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def reduce_pairs(
    reduction: tiles.Reduction,
    plan: Plan,
    x: tiles.Side,
    y: tiles.Side,
    scale_and_bias: tuple[Array, Array],
) -> tuple[Any, Any]:
  """Reduces the logits t <x_i, y_j> + c over all pairs.

  Args:
    reduction: what is computed of the logits.
    plan: from `plan`.
    x: rows i.
    y: columns j.
    scale_and_bias: (t, c), scalars.

  Returns:
    (values of the rows [i], values of the columns [j]).
  """
  return _forward(reduction, plan, x, y, scale_and_bias)[0]


def _forward(reduction, plan, x, y, scale_and_bias):
  reduce = functools.partial(METHODS[plan.method].forward, reduction, plan)
  rows = PartitionSpec(plan.axes)
  values = _on_mesh(plan, reduce, (rows, rows))(x, y, scale_and_bias)
  return values, (x, y, scale_and_bias, values)


def _backward(reduction, plan, residuals, cotangents):
  x, y, scale_and_bias, values = residuals
  reduce = functools.partial(METHODS[plan.method].backward, reduction, plan)
  rows = PartitionSpec(plan.axes)
  # `_make`, because these hold specs and None where a tile holds arrays.
  specs = tiles.Sums._make((rows, rows, PartitionSpec()))
  row, col = zip(values, cotangents, strict=True)
  sums = _on_mesh(plan, reduce, specs)((x, row), (y, col), scale_and_bias)
  scale, _ = scale_and_bias
  gx, gy = (scale * sums.x).astype(x.z.dtype), (scale * sums.y).astype(y.z.dtype)
  # dL/dt = sum_ij G_ij <x_i, y_j> needs no pass over the pairs (tiles.Sums).
  scale_grad = jnp.sum(x.z * sums.x)
  sides = tiles.Side._make((gx, None)), tiles.Side._make((gy, None))
  return *sides, (scale_grad, sums.bias)


reduce_pairs.defvjp(_forward, _backward)


def _on_mesh(plan, reduce, out_specs):
  """reduce(x, y, scale and bias) on every device's own rows of both sides."""
  if plan.method == "local":
    return reduce
  rows = PartitionSpec(plan.axes)
  return jax.shard_map(
      reduce, mesh=plan.mesh, in_specs=(rows, rows, PartitionSpec()),
      out_specs=out_specs, check_vma=False,
  )


def _zero_sums(x: tiles.Side, y: tiles.Side) -> tiles.Sums:
  dtype = precision.accumulator(x.z.dtype)
  zero = jnp.zeros((), dtype)
  return tiles.Sums(
      jnp.zeros(x.z.shape, dtype), jnp.zeros(y.z.shape, dtype), zero
  )


def _start(reduction, x, y):
  """States of all rows of `x` and `y` before any pair."""
  return reduction.start(
      x.z.shape[0], y.z.shape[0], precision.accumulator(x.z.dtype)
  )


# Local: one device has all pairs.


def _local_forward(reduction, plan, x, y, scale_and_bias):
  states = TILE_KERNELS[plan.kernel].forward(
      reduction, x, y, *scale_and_bias, *_start(reduction, x, y), plan.tile
  )
  return reduction.finish(*states)


def _local_backward(reduction, plan, x, y, scale_and_bias):
  (x, row), (y, col) = x, y
  return TILE_KERNELS[plan.kernel].backward(
      reduction, x, y, *scale_and_bias, row, col, _zero_sums(x, y), plan.tile
  )


# Gather: every device has all columns.


def _all_gather(plan, tree):
  return jax.tree.map(
      lambda a: jax.lax.all_gather(a, plan.axes, tiled=True), tree
  )


def _gather_forward(reduction, plan, x, y, scale_and_bias):
  y = _all_gather(plan, y)
  row_state, col_state = TILE_KERNELS[plan.kernel].forward(
      reduction, x, y, *scale_and_bias, *_start(reduction, x, y), plan.tile
  )

  def by_owner(state):
    """[j] over all columns, from my rows -> [devices, j / devices]: mine."""
    state = jax.lax.all_to_all(state, plan.axes, 0, 0, tiled=True)
    return state.reshape(plan.devices, -1)

  # Each device has seen all columns, but only with its own rows: the device
  # that owns a column merges the states that all devices have of it.
  col_state = reduction.merge(jax.tree.map(by_owner, col_state))
  return reduction.finish(row_state, col_state)


def _gather_backward(reduction, plan, x, y, scale_and_bias):
  (x, row), (y, col) = x, _all_gather(plan, y)
  sums = TILE_KERNELS[plan.kernel].backward(
      reduction, x, y, *scale_and_bias, row, col, _zero_sums(x, y), plan.tile
  )
  gy = jax.lax.psum_scatter(sums.y, plan.axes, tiled=True)
  return _total(plan, sums._replace(y=gy))


def _total(plan, sums):
  return sums._replace(bias=jax.lax.psum(sums.bias, plan.axes))


# Ring: columns and their sums visit every device and are home after one round.


def _send_on(plan, tree):
  """Sends arrays to the next device of the ring; returns the previous one's."""
  ring = [(i, (i + 1) % plan.devices) for i in range(plan.devices)]
  return jax.tree.map(
      lambda a: jax.lax.ppermute(a, plan.axes, ring), tree
  )


def _ring_forward(reduction, plan, x, y, scale_and_bias):
  def visit(_, carry):
    y, row_state, col_state = carry
    # The columns do not depend on this iteration's products, so their transfer
    # can overlap with them; the columns' states do, and follow.
    next_y = _send_on(plan, y)
    row_state, col_state = TILE_KERNELS[plan.kernel].forward(
        reduction, x, y, *scale_and_bias, row_state, col_state, plan.tile
    )
    return next_y, row_state, _send_on(plan, col_state)

  _, *states = jax.lax.fori_loop(
      0, plan.devices, visit, (y, *_start(reduction, x, y))
  )
  return reduction.finish(*states)


def _ring_backward(reduction, plan, x, y, scale_and_bias):
  x, row = x

  def visit(_, carry):
    (y, col), sums = carry
    next_columns = _send_on(plan, (y, col))
    sums = TILE_KERNELS[plan.kernel].backward(
        reduction, x, y, *scale_and_bias, row, col, sums, plan.tile
    )
    return next_columns, sums._replace(y=_send_on(plan, sums.y))

  _, sums = jax.lax.fori_loop(
      0, plan.devices, visit, (y, _zero_sums(x, y[0]))
  )
  return _total(plan, sums)


class _Method(NamedTuple):
  """A forward and a backward pass over the pairs, on one device's rows.

  Attributes:
    forward: (reduction, plan, x, y, (scale, bias)) -> (row values, column
      values).
    backward: (reduction, plan, (x, rows' (values, cotangents)), (y, columns'),
      (scale, bias)) -> tiles.Sums.
  """

  forward: Callable[..., tuple[Any, Any]]
  backward: Callable[..., tiles.Sums]


METHODS = {
    "local": _Method(_local_forward, _local_backward),
    "gather": _Method(_gather_forward, _gather_backward),
    "ring": _Method(_ring_forward, _ring_backward),
}

"""Keeps the rows of activations on the devices that hold the batch.

Rows are split over the mesh axes of `ROWS`, and parameters over some of the
same axes. Left to itself, the SPMD partitioner may move activations to the
parameters rather than parameters to the activations, and then every device
computes all rows. Constraints at the boundaries of blocks prevent that.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

# The mesh axes over which rows of a batch are split.
ROWS = ("data", "fsdp")
# The one of them along which parameters are replicated.
REPLICAS = "data"


def keep_rows(x: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
  """Constrains the rows of `x`, and of its gradient, to the batch's sharding.

  The values do not change. It returns `x` itself where there is nothing to
  constrain: without a mesh in context, where the devices do not divide the rows
  (a last small batch), and along mesh axes that are manual (inside `shard_map`).

  Args:
    x: activations, row by row. The sharding of all other axes is left open.

  Returns:
    `x`.

  Example:
    >>> keep_rows(jnp.ones((4, 3))).shape
    (4, 3)
  """
  mesh = jax.sharding.get_abstract_mesh()
  axes = tuple(name for name in ROWS if name in mesh.auto_axes)
  devices = math.prod(mesh.shape[name] for name in axes)
  if devices == 1 or x.shape[0] % devices:
    return x
  free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *free))


def by_replica(
    f: Callable[[Any, Any], Any], *, multiple: int = 1
) -> Callable[[Any, Any], Any]:
  """Runs a row-wise function on each replica's own rows.

  The result is that of `f`, since rows do not depend on each other; what
  changes is its gradient's communication. The partitioner all-reduces gradients
  wherever they arise, inside a loop in every iteration. Here each replica
  accumulates the gradient of its own rows, and the cotangent of `shared` is
  all-reduced once, at the end. It is `f` where devices hold no replicas: without
  a mesh in context, or on a mesh that splits parameters, which have to be
  gathered for every use anyway.

  Args:
    f: (shared, rows [b ...]) -> rows [b ...], row by row.
    multiple: each replica's rows must be a multiple of this; where the batch
      does not allow it, `f` runs on all rows together.

  Returns:
    A function with the arguments and the value of `f`.
  """

  def replicated(shared, rows):
    count = replicas()
    if count == 1 or _length(rows) % (count * multiple):
      return f(shared, rows)
    split = PartitionSpec(REPLICAS)
    return jax.shard_map(
        f, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False
    )(shared, rows)

  return replicated


class Replicas(NamedTuple):
  """The replicas of the parameters, as one of them sees all.

  Attributes:
    number: how many there are.
    total: tree of arrays -> their sum over all replicas.
  """

  number: int
  total: Callable[[Any], Any]


def reduce_by_replica(
    f: Callable[[Any, Any, Replicas], Any]
) -> Callable[[Any, Any], Any]:
  """Lets each replica reduce its own rows towards one shared result.

  `by_replica` sums gradients after the fact; here `f` itself says what is
  summed over the replicas, and when. There is one replica without a mesh in
  context, and on a mesh that splits parameters.

  Args:
    f: (shared, rows [b ...] of this replica, replicas) -> a result that is the
      same on all replicas: computed from `shared` and from totals.

  Returns:
    (shared, rows of all replicas) -> the result of `f`. It raises ValueError if
    the replicas do not divide the rows.
  """

  def reduced(shared, rows):
    count, length = replicas(), _length(rows)
    if length % count:
      raise ValueError(
          f"a batch of {length} does not divide over {count} replicas of the "
          f"parameters; use a multiple of {count}."
      )
    if count == 1:
      return f(shared, rows, Replicas(1, lambda tree: tree))
    every = Replicas(count, lambda tree: jax.lax.psum(tree, REPLICAS))
    return jax.shard_map(
        lambda shared, rows: f(shared, rows, every),
        in_specs=(PartitionSpec(), PartitionSpec(REPLICAS)),
        out_specs=PartitionSpec(), check_vma=False,
    )(shared, rows)

  return reduced


def replicas() -> int:
  """The number of devices that each hold all parameters and rows of their own.

  At least 1; it is 1 on a mesh that also splits parameters.
  """
  mesh = jax.sharding.get_abstract_mesh()
  count = mesh.shape[REPLICAS] if REPLICAS in mesh.auto_axes else 1
  # Manual along this axis and automatic along others, XLA of jax 0.10.2 aborts.
  return count if count == mesh.size else 1


def _length(tree: Any) -> int:
  return jax.tree.leaves(tree)[0].shape[0]

"""Keeps the rows of activations on the devices that hold the batch.

Rows lie along the mesh axes of `ROWS`, and parameters are split along some of
the same axes. Left to itself, the compiler may rather bring activations to the
parameters than parameters to the activations: every device then works on all
rows. Told at the boundaries of blocks where rows belong, it does not.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

# The axes of a mesh that carry rows of a batch.
ROWS = ("data", "fsdp")
# The one of them along which parameters are copied.
COPIES = "data"


def keep_rows(x: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
  """Leaves the rows of `x`, and of its gradient, where the batch has them.

  Changes no number. It is `x` itself where nothing is to be said: with no mesh
  in context, where the devices do not divide the rows (a last small batch), and
  along axes that the program places by hand (inside `shard_map`).

  Args:
    x: activations, row by row. How the axes of a row are split is left open.

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
  """Lets each copy of the parameters work on its own rows, and sums once.

  The same function, if rows do not feel each other. Left to itself the compiler
  sums gradients over all copies wherever they arise, and in a loop every time
  round; here each copy adds up its own, and the derivative by what is shared is
  summed over the copies at the end. It is `f` where devices hold no copies: with
  no mesh in context, or one that splits parameters, which the compiler must
  gather for every use anyway.

  Args:
    f: (shared, rows [b ...]) -> rows [b ...], row by row.
    multiple: `f` is given a number of rows that this divides; where the copies
      cannot all have one, they work together as they would without this.

  Returns:
    A function as `f`.
  """

  def apart(shared, rows):
    count = copies()
    if count == 1 or _rows(rows) % (count * multiple):
      return f(shared, rows)
    split = PartitionSpec(COPIES)
    return jax.shard_map(
        f, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False
    )(shared, rows)

  return apart


class Copies(NamedTuple):
  """Copies of the parameters, each at work on its own rows.

  Attributes:
    count: how many there are.
    total: tree of arrays -> their sum over all copies.
  """

  count: int
  total: Callable[[Any], Any]


def by_copy(
    f: Callable[[Any, Any, Copies], Any]
) -> Callable[[Any, Any], Any]:
  """Lets each copy of the parameters work on its own rows towards one result.

  Where `by_replica` sums what comes out, here `f` says what is summed and when.
  There is one copy with no mesh in context, and on a mesh that splits
  parameters.

  Args:
    f: (shared, rows [b ...] of this copy, copies) -> what is the same for all
      copies: made of `shared` and of totals.

  Returns:
    (shared, rows of all copies) -> what `f` returns. It raises ValueError if
    the copies do not divide the rows.
  """

  def together(shared, rows):
    count, number = copies(), _rows(rows)
    if number % count:
      raise ValueError(
          f"a batch of {number} does not divide over {count} copies of the "
          f"parameters; use a multiple of {count}."
      )
    if count == 1:
      return f(shared, rows, Copies(1, lambda tree: tree))
    every = Copies(count, lambda tree: jax.lax.psum(tree, COPIES))
    return jax.shard_map(
        lambda shared, rows: f(shared, rows, every),
        in_specs=(PartitionSpec(), PartitionSpec(COPIES)),
        out_specs=PartitionSpec(), check_vma=False,
    )(shared, rows)

  return together


def copies() -> int:
  """How many devices hold all parameters and rows of their own; at least 1."""
  mesh = jax.sharding.get_abstract_mesh()
  count = mesh.shape[COPIES] if COPIES in mesh.auto_axes else 1
  # By hand along this axis and not along others, XLA of jax 0.10.2 aborts.
  return count if count == mesh.size else 1


def _rows(tree: Any) -> int:
  return jax.tree.leaves(tree)[0].shape[0]

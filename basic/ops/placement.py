"""Keeps the rows of activations on the devices that hold the batch.

Rows lie along the mesh axes of `ROWS`, and parameters are split along some of
the same axes. Left to itself, the compiler may rather bring activations to the
parameters than parameters to the activations: every device then works on all
rows. Told at the boundaries of blocks where rows belong, it does not.
"""

import math
from collections.abc import Callable
from typing import Any

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
    mesh = jax.sharding.get_abstract_mesh()
    copies = mesh.shape[COPIES] if COPIES in mesh.auto_axes else 1
    count = jax.tree.leaves(rows)[0].shape[0]
    # By hand along this axis and not along others, XLA of jax 0.10.2 aborts.
    alone = copies == mesh.size > 1
    if not alone or count % (copies * multiple):
      return f(shared, rows)
    split = PartitionSpec(COPIES)
    return jax.shard_map(
        f, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False
    )(shared, rows)

  return apart

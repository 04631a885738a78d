"""The moments of `adafactorw` from a gradient that comes chunk by chunk."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from basic import paths, types
from basic.ops import factored, precision, slot_accumulation
from basic.optim import _chain, _factored


class Slot(NamedTuple):
  """What one weight keeps while chunks come; None where it has no such thing.

  Attributes:
    mean: the first moment, in float32.
    means: (rows, columns) of the second, as far as it is an estimate.
    floors: the same means of the contributions' own squares.
    total: the gradient, of a weight too small to be factored.
  """

  mean: Any
  means: Any = None
  floors: Any = None
  total: Any = None


class Moments(NamedTuple):
  """Both moments of a gradient that comes chunk by chunk.

  Attributes:
    mu: the first, in float32.
    nu: the second, to go on with; rows and columns may be negative.
    floors: what rows and columns of `nu` are lifted to where they are used.
  """

  mu: Any
  nu: _factored.Second
  floors: _factored.Second


def floors(params: Any, least: int) -> _factored.Second:
  """Zeros for the floors of what is factored."""
  return _factored.zeros(params, least)._replace(full={})


def lifted(moments: Moments) -> _factored.Second:
  """The second moment to divide by: positive."""
  return moments.nu._replace(**{
      name: jax.tree.map(
          slot_accumulation.clamp,
          getattr(moments.nu, name), getattr(moments.floors, name),
      )
      for name in ("rows", "columns")
  })


def whole(grads: types.Params) -> types.Contributions:
  """A gradient that was added up before, as the one chunk that it is."""
  contribution = types.Contribution(grads, lambda tree: tree, 0, 1, 1)
  return types.Contributions(lambda add, slots: dict(add(slots, contribution)))


def added(
    contributions: types.Contributions,
    old: Moments,
    *,
    b1: float,
    new: Any,
    eps: float,
    least: int,
) -> Moments:
  """Adds every contribution to both moments as it comes.

  The mean is exact, and so are the mean squares of what is not factored, from
  the sum of its contributions; rows and columns get an estimate, and its floor
  (ops/slot_accumulation.py).

  Args:
    contributions: of the gradient.
    old: the moments before.
    b1: memory of the mean.
    new: 1 - b2_t, the weight of these squares.
    eps: added to squares.
    least: size from which rows and columns are kept in place of V.

  Raises:
    ValueError: if a tower has several chunks, one copy and a weight that is
      factored.
  """
  means, structure = _chain.leaves(old.mu)
  rows, columns, full = map(paths.flatten, old.nu)
  floor_rows, floor_columns, _ = map(paths.flatten, old.floors)

  def start(path, mean):
    mean = precision.at_least_float32(mean)
    if path in full:
      return Slot(mean, total=jnp.zeros_like(mean))
    return Slot(
        mean, (rows[path], columns[path]),
        (floor_rows[path], floor_columns[path]),
    )

  def add(slots, contribution):
    return {
        path: _with(slots[path], part, contribution, path, b1, 1 - new, least)
        for path, part in _chain.leaves(contribution.part)[0].items()
    }

  slots = contributions.fold(add, {p: start(p, m) for p, m in means.items()})
  nu, floors = (_factored.Second({}, {}, {}) for _ in range(2))
  for path, slot in slots.items():
    if slot.means is None:
      nu.full[path] = (1 - new) * full[path] + new * (slot.total**2 + eps)
    else:
      for second, found in ((nu, slot.means), (floors, slot.floors)):
        second.rows[path], second.columns[path] = (x + new * eps for x in found)
  return Moments(
      structure.unflatten([slots[path].mean for path in means]),
      *(_factored.Second(*map(paths.unflatten, v)) for v in (nu, floors)),
  )


def _with(slot, part, contribution, path, b1, b2, least):
  """A slot with one contribution in it."""
  part = part.astype(slot.mean.dtype)
  c, i = contribution.total(part), contribution.number
  mean = slot_accumulation.first_moment(slot.mean, c, i, b1)
  axes = _factored.axes(path, part.shape, least)
  if axes is None:
    return Slot(mean, total=slot.total + c)
  squares = factored.means(c**2, axes)
  parts = contribution.total(factored.means(part**2, axes))
  counts = {"chunks": contribution.chunks, "replicas": contribution.replicas}
  return Slot(
      mean,
      tuple(
          slot_accumulation.second_moment(v, c2, p2, i, b2, **counts)
          for v, c2, p2 in zip(slot.means, squares, parts, strict=True)
      ),
      tuple(
          slot_accumulation.first_moment(v, c2, i, b2)
          for v, c2 in zip(slot.floors, squares, strict=True)
      ),
  )

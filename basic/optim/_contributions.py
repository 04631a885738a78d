"""Updates the moments of `adafactorw` from a gradient that comes in chunks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from basic import paths, types
from basic.ops import factored, precision, slot_accumulation
from basic.optim import _chain, _factored


class Slot(NamedTuple):
  """What is kept for one weight while chunks come; None where it has none.

  Attributes:
    first: the first moment, in float32.
    second: (rows, columns) of the second moment, an estimate of it.
    floors: the same means of the squares of the contributions.
    total: the gradient so far, of a weight that is not factored.
  """

  first: Any
  second: Any = None
  floors: Any = None
  total: Any = None


class Moments(NamedTuple):
  """Both moments of a gradient that comes chunk by chunk.

  Attributes:
    mu: the first, in float32.
    nu: the second, as it is stored; rows and columns may be negative.
    floors: lower bounds of the rows and columns of `nu` where they are used.
  """

  mu: Any
  nu: _factored.SecondMoment
  floors: _factored.SecondMoment


def floors(params: Any, least: int) -> _factored.SecondMoment:
  """Zeros for the lower bounds of what is factored."""
  return _factored.zeros(params, least)._replace(full={})


def clamped(moments: Moments) -> _factored.SecondMoment:
  """The second moment to divide by: positive."""
  return moments.nu._replace(**{
      name: jax.tree.map(
          slot_accumulation.clamp,
          getattr(moments.nu, name), getattr(moments.floors, name),
      )
      for name in ("rows", "columns")
  })


def single(grads: types.Params) -> types.Contributions:
  """A gradient that is already added up, as a single chunk."""
  contribution = types.Contribution(grads, lambda tree: tree, 0, 1, 1)
  return types.Contributions(lambda add, slots: dict(add(slots, contribution)))


def accumulate(
    contributions: types.Contributions,
    old: Moments,
    *,
    b1: float,
    weight: Any,
    eps: float,
    least: int,
) -> Moments:
  """Adds every contribution to both moments as it comes.

  The first moment is exact, and so is the second of what is not factored, from
  the sum of its contributions. Rows and columns are estimates with a lower
  bound (ops/slot_accumulation.py).

  Args:
    contributions: of the gradient.
    old: the moments before this update.
    b1: decay rate of the first moment.
    weight: 1 - b2_t, the weight of the new squares.
    eps: added to squares.
    least: size that both axes must have to be factored.

  Raises:
    ValueError: if a factored weight belongs to a tower with several chunks on a
      single replica.
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
        path: _add(slots[path], part, contribution, path, b1, 1 - weight, least)
        for path, part in _chain.leaves(contribution.part)[0].items()
    }

  slots = contributions.fold(add, {p: start(p, m) for p, m in means.items()})
  nu, floors = (_factored.SecondMoment({}, {}, {}) for _ in range(2))
  for path, slot in slots.items():
    if slot.second is None:
      squares = slot.total**2 + eps
      nu.full[path] = (1 - weight) * full[path] + weight * squares
    else:
      # eps enters every mean of squares once, so once here, after all chunks.
      for moment, pair in ((nu, slot.second), (floors, slot.floors)):
        moment.rows[path], moment.columns[path] = (x + weight * eps for x in pair)
  return Moments(
      structure.unflatten([slots[path].first for path in means]),
      *(_factored.SecondMoment(*map(paths.unflatten, v)) for v in (nu, floors)),
  )


def _add(slot, part, contribution, path, b1, b2, least):
  """Adds one contribution to a slot."""
  part = part.astype(slot.first.dtype)
  c, i = contribution.total(part), contribution.number
  first = slot_accumulation.first_moment(slot.first, c, i, b1)
  axes = _factored.axes(path, part.shape, least)
  if axes is None:
    return Slot(first, total=slot.total + c)
  squares = factored.means(c**2, axes)
  # Squares of the replicas' parts show the variance that c^2 has too much of.
  part_squares = contribution.total(factored.means(part**2, axes))
  counts = {"chunks": contribution.chunks, "replicas": contribution.replicas}
  return Slot(
      first,
      tuple(
          slot_accumulation.second_moment(v, c2, p2, i, b2, **counts)
          for v, c2, p2 in zip(slot.second, squares, part_squares, strict=True)
      ),
      tuple(
          slot_accumulation.first_moment(v, c2, i, b2)
          for v, c2 in zip(slot.floors, squares, strict=True)
      ),
  )

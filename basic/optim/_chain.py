"""The links that optimizers are chains of, and what they do by path."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from basic import paths, types
from basic.optim import _average, schedules

# Gains, offsets, positions and what an objective learns, but for the kernel of a
# classifier: shrinking these does not make a function simpler, only another one.
NO_DECAY = (
    "(.*/)?(bias|scale|mean|variance)", "(.*/)?positions(/.*)?",
    "objective/(?!kernel$).*",
)

# Equal blocks of a tower are one array each, with the layers in front. What an
# optimizer does to a weight as a whole, it does to each layer of a stack.
STACKED = "(.*/)?blocks/.*"


class Optimizer(NamedTuple):
  """A transformation of gradients, and how fast it goes.

  Attributes:
    tx: the optax pair; its `update` needs the parameters.
    rate: step -> learning rate, float32. Step n is the update that `tx` makes
      after n others.
  """

  tx: optax.GradientTransformation
  rate: schedules.Rate


def optimizer(
    rate: schedules.Rate,
    average: float | None,
    *links: optax.GradientTransformation,
) -> Optimizer:
  """Links in a row, and around them the average of weights if there is one."""
  tx = optax.chain(*links)
  if average is not None:
    tx = _average.with_average(tx, average)
  return Optimizer(tx, rate)


def clipped(norm: float | None) -> optax.GradientTransformation:
  """Scales gradients down to a global norm; None leaves them as they are.

  Its `update` raises ValueError for a gradient that comes chunk by chunk, whose
  norm nobody knows and which most optimizers do not take.
  """
  if norm is not None and not norm > 0:
    raise ValueError(f"clip is {norm}; give a positive norm, or None not to clip")
  tx = optax.identity() if norm is None else optax.clip_by_global_norm(norm)

  def update(updates, state, params=None):
    if isinstance(updates, types.Contributions):
      raise ValueError(
          "the gradient comes chunk by chunk (in_slots), which only adafactorw "
          "takes, with accumulate='slots'; set that, or use the gradient cached."
      )
    return tx.update(updates, state, params)

  return optax.GradientTransformation(tx.init, update)


def decayed(
    decay: float, no_decay: Sequence[str]
) -> optax.GradientTransformation:
  """Adds `decay W` to the update of every path that no pattern exempts."""
  if not decay >= 0:
    raise ValueError(f"decay is {decay}; weights do not decay by less than 0")
  exempt = paths.any_of(no_decay)
  given = [pattern for pattern in no_decay if pattern not in NO_DECAY]

  def add(path, update, param):
    return update if exempt(path) else update + decay * param

  return _by_path(add, given, "no_decay")


def trusted(
    no_decay: Sequence[str], coefficient: float = 1.
) -> optax.GradientTransformation:
  """Makes each layer move in proportion to its length.

      u <- coefficient |W| / |u| u

  where both lengths are positive and no pattern exempts the path.
  """
  exempt = paths.any_of(no_decay)

  def scale(path, update, param):
    if exempt(path):
      return update
    axes = layer_axes(path, update.ndim)
    length, step = (
        jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))
        for x in (param, update)
    )
    moves = (length > 0) & (step > 0)
    ratio = coefficient * length / jnp.where(moves, step, 1.)
    return update * jnp.where(moves, ratio, 1.)

  return _by_path(scale, (), "trust")


def multiplied(rates: Sequence[Sequence[Any]]) -> optax.GradientTransformation:
  """Multiplies the update of a path by the first row that matches it."""
  for row in rates:
    if len(row) != 2 or not row[1] > 0:
      raise ValueError(
          f"rates holds {tuple(row)!r}; a row is (pattern, positive multiplier). "
          "To stop a part, freeze it"
      )
  rows = [(re.compile(pattern), multiplier) for pattern, multiplier in rates]

  def scale(path, update, param):
    for pattern, multiplier in rows:
      if pattern.fullmatch(path):
        return update * multiplier
    return update

  return _by_path(scale, [pattern for pattern, _ in rates], "rates")


def layer_axes(path: str, rank: int) -> tuple[int, ...]:
  """The axes of one layer: all of them, but for the first of a stack."""
  return tuple(range(1 if rank and re.fullmatch(STACKED, path) else 0, rank))


def leaves(tree: Any) -> tuple[dict[str, Any], Any]:
  """(leaves by path, structure): its `unflatten` takes them in that order."""
  found, structure = jax.tree_util.tree_flatten_with_path(tree)
  return {
      paths.of_keys(keys): leaf
      for keys, leaf in found
  }, structure


def check_memory(**memories: float) -> None:
  """Refuses moving averages that forget nothing, or more than all."""
  for name, memory in memories.items():
    if not 0 <= memory < 1:
      raise ValueError(f"{name} is {memory}; give at least 0 and less than 1")


def check_positive(**numbers: float | int | None) -> None:
  """Refuses numbers that are not above 0; None stands for none."""
  for name, number in numbers.items():
    if number is not None and not number > 0:
      raise ValueError(f"{name} is {number}; give a number above 0")


def _by_path(
    function: Callable[[str, Any, Any], Any], patterns: Sequence[str], name: str
) -> optax.GradientTransformation:
  """update <- function(path, update, param), without a state of its own.

  `init` refuses patterns that match nothing: a misspelt one is otherwise silent.
  """

  def init(params):
    known = paths.flatten(params)
    for pattern in patterns:
      if not any(map(re.compile(pattern).fullmatch, known)):
        raise ValueError(
            f"the pattern {pattern!r} of {name} matches no trainable parameter; "
            "it must match a whole path, and frozen parameters are not among "
            f"them. Paths are: {', '.join(list(known)[:4])}, ..."
        )
    return optax.EmptyState()

  def update(updates, state, params=None):
    if params is None:
      raise ValueError(f"{name} needs parameters: call update(grads, state, params)")
    found, structure = leaves(updates)
    given, _ = leaves(params)
    return structure.unflatten(
        [function(path, leaf, given[path]) for path, leaf in found.items()]
    ), state

  return optax.GradientTransformation(init, update)

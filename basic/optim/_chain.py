"""What all optimizers share: the links of their chains, chosen by path."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from basic import paths, types
from basic.optim import _ema, schedules

# No weight decay: biases, scales, normalisation statistics, position embeddings
# and the objective's parameters. The kernel of a classifier does decay.
NO_DECAY = (
    "(.*/)?(bias|scale|mean|variance)", "(.*/)?positions(/.*)?",
    "objective/(?!kernel$).*",
)

# Equal blocks of a tower are stacked into one array each, layers first. What an
# optimizer computes per weight (a norm, an RMS), it computes per layer of these.
STACKED = "(.*/)?blocks/.*"


class Optimizer(NamedTuple):
  """An optax transformation, and its learning rate.

  Attributes:
    tx: the transformation; its `update` needs the parameters.
    rate: step -> learning rate, float32. Step n is the update that `tx` makes
      after n others.
  """

  tx: optax.GradientTransformation
  rate: schedules.Rate


def optimizer(
    *direction: optax.GradientTransformation,
    rate: schedules.Rate,
    clip: float | None,
    decay: float,
    no_decay: Sequence[str],
    lr_multipliers: Sequence[Sequence[Any]],
    ema_decay: float | None,
    trust_coefficient: float | None = None,
    last: Sequence[optax.GradientTransformation] = (),
    chunked: bool = False,
) -> Optimizer:
  """Chains what is particular to an optimizer with what all of them share.

  In order: clipping, `direction`, weight decay, trust ratio, learning rate
  multipliers, learning rate, `last`. Around it the EMA of the parameters.

  Args:
    direction: from the clipped gradient to the update of learning rate 1.
    rate: step -> learning rate.
    clip, decay, no_decay, lr_multipliers, ema_decay: the settings, as in
      `adamw`.
    trust_coefficient: of the trust ratio; None leaves that link out.
    last: links after the learning rate.
    chunked: the gradient comes chunk by chunk, so nothing can clip it.
  """
  first = optax.identity() if chunked else clip_by_global_norm(clip)
  links = [first, *direction, add_decayed_weights(decay, no_decay)]
  if trust_coefficient is not None:
    links.append(scale_by_trust_ratio(no_decay, trust_coefficient))
  links.append(scale_by_multipliers(lr_multipliers))
  # Every link has its place in the state, and so in the checkpoints of old runs.
  tx = optax.chain(*links, optax.scale_by_learning_rate(rate), *last)
  if ema_decay is not None:
    tx = _ema.with_ema(tx, ema_decay)
  return Optimizer(tx, rate)


def with_schedule_of(state: Any, other: Any) -> Any:
  """An optimizer state whose learning rate schedule stands where another's does.

  Args:
    state: state of an optimizer.
    other: state of the same optimizer, such as a fresh one.
  """
  def is_schedule(node):
    return isinstance(node, optax.ScaleByScheduleState)

  return jax.tree.map(
      lambda own, its: its if is_schedule(own) else own, state, other,
      is_leaf=is_schedule,
  )


def clip_by_global_norm(norm: float | None) -> optax.GradientTransformation:
  """Scales gradients down to a global norm; None leaves them as they are.

  Its `update` raises ValueError for a gradient that comes chunk by chunk: its
  norm is unknown, and most optimizers cannot use it.
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


def add_decayed_weights(
    decay: float, no_decay: Sequence[str]
) -> optax.GradientTransformation:
  """Adds `decay W` to the update of every path that no pattern exempts."""
  if not decay >= 0:
    raise ValueError(f"decay is {decay}; give a weight decay of at least 0")
  is_exempt = paths.any_of(no_decay)
  own_patterns = [pattern for pattern in no_decay if pattern not in NO_DECAY]

  def add(path, update, param):
    return update if is_exempt(path) else update + decay * param

  return _by_path(add, own_patterns, "no_decay")


def scale_by_trust_ratio(
    no_decay: Sequence[str], coefficient: float = 1.
) -> optax.GradientTransformation:
  """Scales the update of each layer by its trust ratio.

      u <- coefficient |W| / |u| u

  where both norms are positive and no pattern exempts the path.
  """
  is_exempt = paths.any_of(no_decay)

  def scale(path, update, param):
    if is_exempt(path):
      return update
    axes = layer_axes(path, update.ndim)
    weight_norm, update_norm = (
        jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))
        for x in (param, update)
    )
    both_positive = (weight_norm > 0) & (update_norm > 0)
    ratio = coefficient * weight_norm / jnp.where(both_positive, update_norm, 1.)
    return update * jnp.where(both_positive, ratio, 1.)

  return _by_path(scale, (), "the trust ratio")


def scale_by_multipliers(
    lr_multipliers: Sequence[Sequence[Any]],
) -> optax.GradientTransformation:
  """Multiplies the update of a path by the first row that matches it."""
  for row in lr_multipliers:
    if len(row) != 2 or not row[1] > 0:
      raise ValueError(
          f"lr_multipliers holds {tuple(row)!r}; a row is (pattern, positive "
          "multiplier). To keep parameters from training, freeze them"
      )
  rows = [(re.compile(pattern), factor) for pattern, factor in lr_multipliers]

  def scale(path, update, param):
    for pattern, factor in rows:
      if pattern.fullmatch(path):
        return update * factor
    return update

  return _by_path(
      scale, [pattern for pattern, _ in lr_multipliers], "lr_multipliers"
  )


def layer_axes(path: str, rank: int) -> tuple[int, ...]:
  """The axes of one layer: all of them, but for the first of a stack."""
  return tuple(range(1 if rank and re.fullmatch(STACKED, path) else 0, rank))


def leaves(tree: Any) -> tuple[dict[str, Any], Any]:
  """(leaves by path, tree structure): its `unflatten` takes them in order."""
  with_keys, structure = jax.tree_util.tree_flatten_with_path(tree)
  return {
      paths.of_keys(keys): leaf
      for keys, leaf in with_keys
  }, structure


def check_decay_rates(**decay_rates: float) -> None:
  """Refuses decay rates of moving averages outside [0, 1)."""
  for name, decay_rate in decay_rates.items():
    if not 0 <= decay_rate < 1:
      raise ValueError(f"{name} is {decay_rate}; give at least 0 and less than 1")


def check_positive(**numbers: float | int | None) -> None:
  """Refuses numbers that are not above 0; None stands for none."""
  for name, number in numbers.items():
    if number is not None and not number > 0:
      raise ValueError(f"{name} is {number}; give a number above 0")


def _by_path(
    function: Callable[[str, Any, Any], Any], patterns: Sequence[str], name: str
) -> optax.GradientTransformation:
  """update <- function(path, update, param), without a state of its own.

  `init` refuses patterns that match nothing: otherwise a misspelt pattern would
  silently have no effect.
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
    by_path, structure = leaves(updates)
    params_by_path, _ = leaves(params)
    return structure.unflatten([
        function(path, update, params_by_path[path])
        for path, update in by_path.items()
    ]), state

  return optax.GradientTransformation(init, update)

"""Interpolation between the parameters of two checkpoints, as in WiSE-FT."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from basic import paths, types
from basic.ops import learned_positions, precision


def interpolate(
    start: types.Params, end: types.Params, mix: float | Float[Array, ""]
) -> types.Params:
  """Linear interpolation between two sets of parameters.

      theta = (1 - a) theta_start + a theta_end

  Args:
    start: the result at a = 0. Parameters that `end` lacks are left out, and
      learned positions of another size are resized to those of `end`.
    end: the result at a = 1. Parameters that `start` lacks are taken from here
      unchanged, and so are those of an objective in another shape.
    mix: a, usually in [0, 1].

  Returns:
    Parameters with the structure, dtypes and shardings of `end`, computed in
    float32 or wider.

  Raises:
    ValueError: if the towers have parameters of different shapes; the message
      lists them.

  References:
    Wortsman et al., Robust fine-tuning of zero-shot models, 2021, section 3.
    https://arxiv.org/abs/2109.01903

  Example:
    >>> one, two = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    >>> print(interpolate(one, two, 0.25)["w"])
    [0.25 0.25]
  """
  start_by_path, end_by_path = paths.flatten(start), paths.flatten(end)
  _check_shapes(start_by_path, end_by_path)

  def between(path, end_leaf):
    start_leaf = start_by_path.get(path)
    if start_leaf is None:
      return end_leaf
    if start_leaf.shape != end_leaf.shape:
      if not learned_positions.fits(path, start_leaf.shape, end_leaf.shape):
        return end_leaf
      start_leaf = learned_positions.resize(
          path, jnp.asarray(start_leaf), end_leaf
      )
    wide = precision.accumulator(end_leaf.dtype)
    mixed = (1 - mix) * start_leaf.astype(wide) + mix * end_leaf.astype(wide)
    return mixed.astype(end_leaf.dtype)

  return paths.unflatten(
      {path: between(path, leaf) for path, leaf in end_by_path.items()}
  )


def _check_shapes(start, end):
  other = [
      f"{path}: {list(start[path].shape)} at the start, {list(last.shape)} at "
      "the end"
      for path, last in end.items()
      if path in start and start[path].shape != last.shape
      and not learned_positions.fits(path, start[path].shape, last.shape)
      and not path.startswith("objective/")
  ]
  if other:
    more = [f"and {len(other) - 20} more"] if len(other) > 20 else []
    raise ValueError("\n  ".join([
        "parameters of different shapes cannot be interpolated; choose two "
        "checkpoints whose towers have the same size:", *other[:20], *more,
    ]))

"""Linear interpolation of two checkpoints (WiSE-FT)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from basic import paths, types
from basic.ops import learned_positions, precision


def interpolate(
    start: types.Params, end: types.Params, mix: float | Float[Array, ""]
) -> types.Params:
  """Interpolates linearly between two sets of parameters.

      theta = (1 - a) theta_start + a theta_end

  Args:
    start: where a = 0. Parameters that `end` does not have are left out, and
      learned positions of another size are resized to those of `end`.
    end: where a = 1. Parameters that `start` does not have are taken as they
      are, and so are those of an objective in another shape.
    mix: a, usually in [0, 1].

  Returns:
    Parameters with the structure, dtypes and shardings of `end`; interpolated in
    float32 or wider.

  Raises:
    ValueError: if towers have parameters of other shapes, with their list: what
      would be taken of one of the two alone is not on a line between them.

  References:
    Wortsman et al., Robust fine-tuning of zero-shot models, 2021, section 3.
    https://arxiv.org/abs/2109.01903

  Example:
    >>> one, two = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    >>> print(interpolate(one, two, 0.25)["w"])
    [0.25 0.25]
  """
  known, leaves = paths.flatten(start), paths.flatten(end)
  _check_shapes(known, leaves)

  def between(path, last):
    first = known.get(path)
    if first is None:
      return last
    if first.shape != last.shape:
      if not learned_positions.fits(path, first.shape, last.shape):
        return last
      first = learned_positions.resize(path, jnp.asarray(first), last)
    wide = precision.accumulator(last.dtype)
    mixed = (1 - mix) * first.astype(wide) + mix * last.astype(wide)
    return mixed.astype(last.dtype)

  return paths.unflatten(
      {path: between(path, leaf) for path, leaf in leaves.items()}
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
        "there is no line between parameters of other shapes; choose two "
        "checkpoints of towers of the same size:", *other[:20], *more,
    ]))

"""Interpolation between the parameters of two checkpoints, as in WiSE-FT."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from basic import paths, types


def interpolate(
    start: types.Params, end: types.Params, mix: float | Float[Array, ""]
) -> types.Params:
  """Linear interpolation between two sets of parameters.

      theta = (1 - a) theta_start + a theta_end

  Args:
    start: the result at a = 0. Parameters that `end` lacks are left out.
    end: the result at a = 1. Parameters that `start` lacks, or has in another
      shape, are taken from here unchanged.
    mix: a, usually in [0, 1].

  Returns:
    Parameters with the structure, dtypes and shardings of `end`, computed in
    float32 or wider.

  References:
    Wortsman et al., Robust fine-tuning of zero-shot models, 2021, section 3.
    https://arxiv.org/abs/2109.01903

  Example:
    >>> one, two = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    >>> print(interpolate(one, two, 0.25)["w"])
    [0.25 0.25]
  """
  start_by_path = paths.flatten(start)

  def between(path, end_leaf):
    start_leaf = start_by_path.get(path)
    if start_leaf is None or start_leaf.shape != end_leaf.shape:
      return end_leaf
    wide = jnp.promote_types(end_leaf.dtype, jnp.float32)
    mixed = (1 - mix) * start_leaf.astype(wide) + mix * end_leaf.astype(wide)
    return mixed.astype(end_leaf.dtype)

  return paths.unflatten(
      {path: between(path, leaf) for path, leaf in paths.flatten(end).items()}
  )

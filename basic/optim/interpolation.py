"""Weights between two checkpoints, as WiSE-FT ensembles them."""

from jaxtyping import Array, Float

from basic import paths, types
from basic.ops import precision


def interpolate(
    start: types.Params, end: types.Params, mix: float | Float[Array, ""]
) -> types.Params:
  """The weights on the line between two.

      theta = (1 - a) theta_start + a theta_end

  Args:
    start: where a = 0. Parameters that `end` does not have are left out.
    end: where a = 1. Parameters that `start` does not have, or has in another
      shape, are taken as they are.
    mix: a, usually in [0, 1].

  Returns:
    Parameters of the structure, types and places of `end`; mixed in float32 or
    wider.

  References:
    Wortsman et al., Robust fine-tuning of zero-shot models, 2021, section 3.
    https://arxiv.org/abs/2109.01903

  Example:
    >>> one, two = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    >>> print(interpolate(one, two, 0.25)["w"])
    [0.25 0.25]
  """
  known = paths.flatten(start)

  def between(path, there):
    here = known.get(path)
    if here is None or here.shape != there.shape:
      return there
    wide = precision.accumulator(there.dtype)
    found = (1 - mix) * here.astype(wide) + mix * there.astype(wide)
    return found.astype(there.dtype)

  return paths.unflatten(
      {path: between(path, leaf) for path, leaf in paths.flatten(end).items()}
  )

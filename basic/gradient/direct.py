"""The gradient of a whole batch at once: ordinary reverse mode."""

from collections.abc import Iterable

import jax

from basic import paths, types
from basic.gradient import _rows


def direct(
    encode: types.Encode,
    objective: types.Objective,
    *,
    frozen: Iterable[str] = (),
) -> types.Gradient:
  """Differentiates the whole batch at once.

  Args:
    encode: rows of a batch -> embeddings.
    objective: embeddings -> loss.
    frozen: patterns of parameter paths that are constants.

  Returns:
    A gradient (params, memory, batch, rng) -> ((value, (memory, metrics)),
    grads); `grads` holds the paths that are not frozen. `rng` None: no noise.
  """
  frozen = tuple(frozen)

  def gradient(params, memory, batch, rng):
    keys, noise = _rows.keys(batch, rng)
    trainable, constant = paths.split(params, frozen)

    def loss(trainable):
      params = paths.merge(trainable, constant)
      z = encode(params, batch, keys)
      return objective.apply(params["objective"], memory, z, noise)

    return jax.value_and_grad(loss, has_aux=True)(trainable)

  return gradient

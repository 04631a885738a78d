"""The gradient of a whole batch at once, by ordinary reverse mode."""

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
    grads); `grads` has the paths that are not frozen. Without `rng` there is no
    noise.
  """
  frozen = tuple(frozen)

  def gradient(params, memory, batch, rng):
    keys, objective_key = _rows.keys(batch, rng)
    trainable, constant = paths.split(params, frozen)

    def loss(trainable):
      params = paths.merge(trainable, constant)
      embedded = encode(params, batch, keys)
      return objective.apply(
          params["objective"], memory, embedded, objective_key
      )

    return jax.value_and_grad(loss, has_aux=True)(trainable)

  return gradient

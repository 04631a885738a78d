"""Ridge regression in closed form, for any number of regularisations at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_HIGHEST = jax.lax.Precision.HIGHEST


class Decomposed(NamedTuple):
  """Features and targets after a singular value decomposition x = U S V^T.

  Attributes:
    scale: singular values, the diagonal of S [r].
    right: V [d r].
    targets: U^T y [r c].
  """

  scale: Float[Array, "r"]
  right: Float[Array, "d r"]
  targets: Float[Array, "r c"]


@jax.jit
def decompose(x: Float[Array, "n d"], y: Float[Array, "n c"]) -> Decomposed:
  """Prepares features and targets for `solve`, once for every regularisation."""
  left, scale, right = jnp.linalg.svd(x, full_matrices=False)
  return Decomposed(scale, right.T, jnp.matmul(left.T, y, precision=_HIGHEST))


@jax.jit
def solve(
    decomposed: Decomposed, l2: jax.typing.ArrayLike
) -> Float[Array, "d c"]:
  """The weights of least squares with a penalty.

      w = argmin |x w - y|^2 + l2 |w|^2 = V diag(s / (s^2 + l2)) U^T y

  Args:
    decomposed: features and targets.
    l2: the strength of the penalty. Positive.
  """
  s = decomposed.scale
  shrunk = (s / (s * s + l2))[:, None] * decomposed.targets
  return jnp.matmul(decomposed.right, shrunk, precision=_HIGHEST)

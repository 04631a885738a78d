"""Factored second moments (Adafactor): the means of rows and of columns."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def axes(
    shape: tuple[int, ...], least: int, first: int = 0
) -> tuple[int, int] | None:
  """Chooses the axes of a parameter that are treated as rows and columns.

  Args:
    shape: of the parameter.
    least: the minimal size of both. At least 1.
    first: axes before this one index separate matrices and are not chosen.

  Returns:
    (second largest, largest) of the axes, the later of equal ones; None if
    there are no two of that size.

  Example:
    >>> axes((12, 768, 16, 128), 128)
    (3, 1)
    >>> axes((768, 12, 64), 128)
  """
  order = sorted(range(first, len(shape)), key=lambda n: (shape[n], n))
  if len(order) < 2 or shape[order[-2]] < least:
    return None
  return order[-2], order[-1]


def means(
    squares: Float[Array, "..."], axes: tuple[int, int]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
  """Means over the columns, and means over the rows.

      R_i = mean_j S_ij,    C_j = mean_i S_ij

  They are linear in S: the means of a sum are the sums of the means.

  Args:
    squares: S, squares or an estimate of them.
    axes: (rows, columns), from `axes`.

  Returns:
    (R, C), each of the rank of S, with size 1 along the axis that is averaged.
  """
  rows, columns = axes
  return (
      jnp.mean(squares, columns, keepdims=True),
      jnp.mean(squares, rows, keepdims=True),
  )


def inverse_root(
    rows: Float[Array, "..."], columns: Float[Array, "..."], axis: int
) -> Float[Array, "..."]:
  """The inverse square root of the matrix that R and C approximate.

      V_ij = R_i C_j / mean(R),    returns V_ij^(-1/2)

  Of all matrices of rank one, V is the closest to S in generalised
  Kullback-Leibler divergence. It has the same means of rows and columns, and
  equals S if S has rank one.

  Args:
    rows: R. Positive.
    columns: C. Positive.
    axis: of the rows: the axis that R varies along.

  Returns:
    V^(-1/2), in the shape of the parameter.

  References:
    Shazeer and Stern, Adafactor, 2018, section 3.
    https://arxiv.org/abs/1804.04235

  Example:
    >>> squares = jnp.outer(jnp.array([1., 4.]), jnp.array([4., 16., 1.]))
    >>> rows, columns = means(squares, (0, 1))
    >>> print((1 / inverse_root(rows, columns, 0) ** 2).round(3))
    [[ 4. 16.  1.]
     [16. 64.  4.]]
  """
  # Roots before products: R C of small numbers would underflow.
  mean = jnp.mean(rows, axis, keepdims=True)
  return jax.lax.rsqrt(rows) * jnp.sqrt(mean) * jax.lax.rsqrt(columns)

"""Linear layers whose backward pass is fast on CPUs too.

    y = x W + b,    dx = dy W^T,    dW = sum_rows x^T dy,    db = sum_rows dy

The forward pass is an ordinary product. Differentiated by JAX, the backward
pass is slow on CPUs (jax 0.10.2): XLA fuses whatever made dy into all three of
its readers, so that it is computed three times, and writes a transposed copy of
it for dW, whose product then leaves the fast library. Here dy is computed once,
behind a barrier; x is transposed, once for all kernels that read it, and both
products are of two-dimensional factors, rows by columns. Accelerators, which
fuse and tile otherwise, get JAX's own derivative.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear(
    x: Float[Array, "..."],
    kernel: Float[Array, "..."],
    bias: Float[Array, "..."] | None = None,
    contracted: int = 1,
) -> Float[Array, "..."]:
  """x W + b over the last axes, with a backward pass for CPUs.

  The same numbers as `x @ kernel + bias`, to rounding. Reverse mode only:
  `jax.jvp` refuses it.

  Args:
    x: [*b *d], any number of rows.
    kernel: W [*d *e], of the same dtype as `x`.
    bias: b [*e], of the same dtype; None adds nothing.
    contracted: how many axes d stands for, the last of `x` and the first of
      `kernel`: 2 for what heads put out, [heads head].

  Returns:
    `Float[*b *e]` in that dtype.

  Example:
    >>> linear(jnp.ones((4, 2, 3)), jnp.ones((3, 5)), jnp.zeros(5)).shape
    (4, 2, 5)
  """
  return _plain(x, kernel, bias, contracted)


def _plain(x, kernel, bias, contracted):
  last = tuple(range(x.ndim - contracted, x.ndim))
  first = tuple(range(contracted))
  y = jax.lax.dot_general(x, kernel, ((last, first), ((), ())))
  if bias is None:
    return y
  return y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


def _forward(x, kernel, bias, contracted):
  return _plain(x, kernel, bias, contracted), (x, kernel, bias)


def _backward(contracted, saved, cotangent):
  return jax.lax.platform_dependent(
      *saved, cotangent,
      cpu=functools.partial(_backward_on_cpu, contracted),
      default=functools.partial(backward_elsewhere, contracted),
  )


def backward_elsewhere(contracted, x, kernel, bias, cotangent):
  """JAX's own derivative: (dx, dW, db)."""
  plain = functools.partial(_plain, contracted=contracted)
  return jax.vjp(plain, x, kernel, bias)[1](cotangent)


def _backward_on_cpu(contracted, x, kernel, bias, cotangent):
  d = math.prod(kernel.shape[:contracted])
  matrix = kernel.reshape(d, -1)
  # Without the barrier, each of its three readers computes dy for itself.
  dy = jax.lax.optimization_barrier(cotangent.reshape(-1, matrix.shape[1]))
  of_kernel = of_rows(x.reshape(-1, d), dy).reshape(kernel.shape)
  of_x = jax.lax.dot_general(dy, matrix, (((1,), (1,)), ((), ())))
  of_bias = None if bias is None else jnp.sum(dy, 0).reshape(bias.shape)
  return of_x.reshape(x.shape), of_kernel, of_bias


linear.defvjp(_forward, _backward)


def of_rows(
    x: Float[Array, "b d"], y: Float[Array, "b e"]
) -> Float[Array, "d e"]:
  """sum_b x_b y_b^T on a CPU, where it is fast from a transposed copy only."""
  # Without the barrier, XLA takes the transposition back into the product.
  across = jax.lax.optimization_barrier(x.T)
  return jax.lax.dot_general(across, y, (((1,), (0,)), ((), ())))

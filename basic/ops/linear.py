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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def linear(
    x: Float[Array, "*b d"],
    kernel: Float[Array, "d e"],
    bias: Float[Array, "e"] | None = None,
) -> Float[Array, "*b e"]:
  """x W + b over the last axis, with a backward pass for CPUs.

  The same numbers as `x @ kernel + bias`, to rounding. Reverse mode only:
  `jax.jvp` refuses it.

  Args:
    x: any number of rows.
    kernel: W, of the same dtype as `x`.
    bias: b, of the same dtype; None adds nothing.

  Returns:
    `Float[*b e]` in that dtype.

  Example:
    >>> linear(jnp.ones((4, 2, 3)), jnp.ones((3, 5)), jnp.zeros(5)).shape
    (4, 2, 5)
  """
  return _plain(x, kernel, bias)


def _plain(x, kernel, bias):
  y = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
  return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def _forward(x, kernel, bias):
  return _plain(x, kernel, bias), (x, kernel, bias)


def _backward(saved, cotangent):
  return jax.lax.platform_dependent(
      *saved, cotangent, cpu=_backward_on_cpu, default=backward_elsewhere
  )


def backward_elsewhere(x, kernel, bias, cotangent):
  """JAX's own derivative: (dx, dW, db)."""
  return jax.vjp(_plain, x, kernel, bias)[1](cotangent)


def _backward_on_cpu(x, kernel, bias, cotangent):
  # Without the barrier, each of its three readers computes dy for itself.
  dy = jax.lax.optimization_barrier(cotangent.reshape(-1, kernel.shape[1]))
  of_kernel = of_rows(x.reshape(-1, kernel.shape[0]), dy)
  of_x = jax.lax.dot_general(dy, kernel, (((1,), (1,)), ((), ())))
  of_bias = None if bias is None else jnp.sum(dy, 0)
  return of_x.reshape(x.shape), of_kernel, of_bias


def of_rows(
    x: Float[Array, "b d"], y: Float[Array, "b e"]
) -> Float[Array, "d e"]:
  """sum_b x_b y_b^T on a CPU, where it is fast from a transposed copy only."""
  # Without the barrier, XLA takes the transposition back into the product.
  across = jax.lax.optimization_barrier(x.T)
  return jax.lax.dot_general(across, y, (((1,), (0,)), ((), ())))


linear.defvjp(_forward, _backward)

"""The patch embedding: a convolution whose windows do not overlap.

As such it is a linear layer over patches. CPUs are several times faster at that
product than at the convolution, whose derivative by the kernel in a loop over
chunks XLA (jax 0.10.2) leaves to a naive one, 60 times slower. Accelerators
keep the convolution, which needs no copy of the images.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from basic.ops import linear


@jax.custom_vjp
def embed(
    images: Float[Array, "b h w c"], kernel: Float[Array, "p q c d"]
) -> Float[Array, "b i j d"]:
  """One vector a patch of p x q pixels.

      y_ij = sum_pqc x[i P + p, j Q + q, c] W[p, q, c]

  for a kernel of P x Q pixels. Reverse mode only: `jax.jvp` refuses it.

  Args:
    images: whose sides P and Q divide.
    kernel: W, of the same dtype.

  Returns:
    `Float[b h/P w/Q d]` in that dtype.

  References:
    Dosovitskiy et al., An Image is Worth 16x16 Words, 2020, eq. 1.
    https://arxiv.org/abs/2010.11929

  Example:
    >>> embed(jnp.ones((2, 32, 48, 3)), jnp.ones((16, 16, 3, 8))).shape
    (2, 2, 3, 8)
  """
  return jax.lax.platform_dependent(
      images, kernel, cpu=_product, default=_convolution
  )


def _convolution(images, kernel):
  return jax.lax.conv_general_dilated(
      images, kernel, kernel.shape[:2], "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _product(images, kernel):
  b, height, width, _ = images.shape
  p, q, _, d = kernel.shape
  y = jnp.matmul(_patches(images, p, q), kernel.reshape(-1, d))
  return y.reshape(b, height // p, width // q, d)


def _patches(images, p, q):
  """[b h w c] -> one row of p q c numbers a patch."""
  b, height, width, c = images.shape
  grid = images.reshape(b, height // p, p, width // q, q, c)
  return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, p * q * c)


def _forward(images, kernel):
  return embed(images, kernel), (images, kernel)


def _backward(saved, cotangent):
  return jax.lax.platform_dependent(
      *saved, cotangent, cpu=_backward_on_cpu, default=backward_elsewhere
  )


def backward_elsewhere(images, kernel, cotangent):
  """JAX's own derivative: (of the images, of the kernel)."""
  return jax.vjp(_convolution, images, kernel)[1](cotangent)


def _backward_on_cpu(images, kernel, cotangent):
  p, q, _, d = kernel.shape
  dy = jax.lax.optimization_barrier(cotangent.reshape(-1, d))
  of_kernel = linear.of_rows(_patches(images, p, q), dy)
  b, height, width, c = images.shape
  of_images = (dy @ kernel.reshape(-1, d).T).reshape(
      b, height // p, width // q, p, q, c
  )
  of_images = of_images.transpose(0, 1, 3, 2, 4, 5)
  return of_images.reshape(images.shape), of_kernel.reshape(kernel.shape)


embed.defvjp(_forward, _backward)

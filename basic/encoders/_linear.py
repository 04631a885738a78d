"""Flax modules over `ops.linear`, with the parameters of Flax's own."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from basic.ops import linear


class Linear(nn.Module):
  """`nn.DenseGeneral` over the last axes, its product that of `ops.linear`.

  Attributes:
    features: shape of the result's last axes, such as (heads, head).
    dtype: to compute in; parameters are float32.
    contracted: how many of the last axes of the input are contracted.
    kernel_init: given the kernel's shape as a matrix, as Flax gives it.
    use_bias: whether a bias is added.
  """

  features: tuple[int, ...]
  dtype: Any
  contracted: int = 1
  kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    inputs = x.shape[x.ndim - self.contracted :]
    matrix = (math.prod(inputs), math.prod(self.features))

    def init(rng, shape):
      return self.kernel_init(rng, matrix, jnp.float32).reshape(shape)

    kernel = self.param("kernel", init, (*inputs, *self.features))
    bias = None
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, self.features)
      bias = bias.astype(self.dtype)
    return linear.linear(
        x.astype(self.dtype), kernel.astype(self.dtype), bias, self.contracted
    )

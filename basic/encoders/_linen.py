"""Linen modules as pairs of pure functions; scanned and rematerialised blocks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from basic import types

Precision: TypeAlias = Literal["bfloat16", "float32"]
# What a block keeps for its backward pass: everything, nothing but its input,
# or what the expensive operations (products and convolutions) gave. The last
# computes norms and activations again: cheap, and most of what is kept. So did
# BASIC: Pham et al., 2021, version 3. https://arxiv.org/abs/2111.10050
Remat: TypeAlias = Literal["none", "full", "products"]


def pair(
    module: nn.Module, like: Any
) -> tuple[Callable[..., types.Params], Callable[..., types.Features]]:
  """Turns a module into `init` and `apply` over a plain nested dict.

  Args:
    module: called as module(inputs, keys or None) -> Features.
    like: dtype of the inputs.

  Returns:
    init(key, inputs) -> params, which reads only the shape of `inputs`, so
    that an array, a tracer or a ShapeDtypeStruct will do; and
    apply(params, inputs, keys or None) -> Features.
  """

  def init(key: Any, inputs: types.Inputs) -> types.Params:
    # One row: parameters do not depend on the batch, and memory should not.
    row = jnp.zeros((1, *inputs.shape[1:]), like)
    return module.init(key, row, None)["params"]

  def apply(
      params: types.Params, inputs: types.Inputs, keys: Any = None
  ) -> types.Features:
    features = module.apply({"params": params}, inputs, keys)
    assert isinstance(features, types.Features)  # Nothing mutable beside it.
    return features

  return init, apply


def remat(
    block: type[nn.Module], policy: Remat, *, prevent_cse: bool = True
) -> type[nn.Module]:
  """Rematerialises a block: only what `policy` names is kept for the backward pass.

  Args:
    block: called on arrays and None only.
    policy: what it keeps.
    prevent_cse: whether to keep the compiler from merging the recomputation
      with the original, which would undo it. A scan does so by itself.
  """
  if policy == "none":
    return block
  saveable = {
      "full": jax.checkpoint_policies.nothing_saveable,
      "products": jax.checkpoint_policies.dots_saveable,
  }[policy]
  return nn.remat(block, policy=saveable, prevent_cse=prevent_cse)


def scan(
    block: type[nn.Module], policy: Remat, *, length: int, same: int
) -> Any:
  """A scan over `length` blocks whose parameters are stacked along a new axis 0.

  The block is called as block(x, layer, ...) -> (x, None): each copy reads its
  own entry of `layer`, and all read the same `same` further arguments.
  """
  axes: Any = (0, *(nn.broadcast,) * same)  # Annotated as int by Flax.
  return nn.scan(
      remat(block, policy, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=axes,
      length=length,
  )


class Stage(nn.Module):
  """A stage of blocks of one size; the first block changes the size.

  Attributes:
    block: class of all; called as block(x, layer, keys) -> (x, None).
    start: number of the first among the blocks of all stages, from 0.
    length: how many, at least 1.
    stride: of the first; 1 in the rest.
    remat: what a block keeps for its backward pass.
    settings: attributes that all blocks share.
  """

  block: type[nn.Module]
  start: int
  length: int
  stride: int
  remat: Remat
  settings: Any

  @nn.compact
  def __call__(
      self, x: Float[Array, "b h w c"], keys: types.RowKeys | None
  ) -> Float[Array, "b i j d"]:
    layer = self.start + jnp.arange(self.length)
    first = remat(self.block, self.remat)
    first = first(stride=self.stride, name="first", **self.settings)
    x, _ = first(x, layer[0], keys)
    if self.length == 1:
      return x
    rest = scan(self.block, self.remat, length=self.length - 1, same=1)
    x, _ = rest(stride=1, name="blocks", **self.settings)(x, layer[1:], keys)
    return x


def sizes(
    variant: str | None,
    given: Mapping[str, int | Sequence[int] | None],
    variants: Mapping[str, Sequence[Any]],
    default: str,
) -> dict[str, Any]:
  """The sizes that a variant stands for; without one, those given.

  Args:
    variant: one of `variants`, or None.
    given: sizes by name, None where they were not given.
    variants: sizes by variant, in the order of `given`.
    default: the variant that fills in what was not given.

  Raises:
    ValueError: for an unknown variant, or a variant together with a size.
  """
  chosen = {
      name: x if isinstance(x, int) else tuple(x)
      for name, x in given.items() if x is not None
  }
  if variant is not None and variant not in variants:
    raise ValueError(
        f"found variant={variant!r}, expected one of {', '.join(variants)}"
    )
  if variant is not None and chosen:
    raise ValueError(
        f"variant={variant!r} stands for {', '.join(given)}, and "
        f"{', '.join(chosen)} was given too; leave one of them out"
    )
  return dict(zip(given, variants[variant or default], strict=True)) | chosen


def check_images(images: Any) -> None:
  """Raises ValueError for what is not floating point [b h w c]."""
  if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
        f"found images {images.dtype}{list(images.shape)}, expected float "
        "[b h w c] in [-1, 1]; convert uint8 by x / 127.5 - 1 first"
    )


def check_rate(name: str, rate: float) -> None:
  """Raises ValueError for a rate outside [0, 1)."""
  if not 0 <= rate < 1:
    raise ValueError(
        f"found {name}={rate}, expected a share in [0, 1) to drop; 0 drops "
        "nothing"
    )

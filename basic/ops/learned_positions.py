"""Learned position parameters at another size: which they are, and how resized.

By their paths, as every encoder here names them (axes in brackets):

    positions            [h w d]         one vector per patch of a grid
    positions            [t d]           one vector per position of a text
    attention/positions  [... 2h-1 2w-1]  one bias per offset on a grid

Grids and offsets are resized bilinearly, since their ends mean the same place
in the image at every resolution. Positions of a text count from its beginning,
so they are cut, or continued by newly initialised ones: a text that fits both
lengths has the same embedding before and after.
"""

import jax
import jax.numpy as jnp

from basic.ops import position_embeddings


def fits(path: str, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
  """Whether a parameter of shape `old` can be resized to `new`.

  Args:
    path: of the parameter, or any path that ends in it.
    old: its shape.
    new: the shape that is asked for.

  Example:
    >>> fits("image/encoder/positions", (3, 3, 32), (4, 4, 32))
    True
    >>> fits("image/encoder/positions", (3, 3, 32), (4, 4, 64))
    False
  """
  kind = _kind(path, len(old))
  if kind is None or len(old) != len(new):
    return False
  if kind == "offsets":
    return old[:-2] == new[:-2]
  return old[-1] == new[-1]


def resize(path: str, old: jax.Array, new: jax.Array) -> jax.Array:
  """Resizes a learned position parameter, or the optimizer's statistics of it.

  The resized values are weighted means of the old ones, so second moments stay
  positive, and the average of resized parameters is the resized average.

  Args:
    path: of the parameter, or any path that ends in it.
    old: what was learned.
    new: as initialised at the new size, which gives the shape, the dtype, and
      the positions of a text beyond those of `old`.

  Returns:
    An array like `new`.

  Raises:
    ValueError: if it does not fit.
  """
  if not fits(path, old.shape, new.shape):
    raise ValueError(
        f"{path} of shape {list(old.shape)} cannot be resized to "
        f"{list(new.shape)}: only the sizes of learned positions can change."
    )
  if old.shape == new.shape:
    return old.astype(new.dtype)
  kind = _kind(path, old.ndim)
  if kind == "text":
    kept = old[: new.shape[0]].astype(new.dtype)
    return jnp.concatenate([kept, new[len(kept):]])
  if kind == "grid":
    return position_embeddings.resize(old, *new.shape[:2]).astype(new.dtype)
  # As `relative_bias.resize`, by the number of offsets: the optimizer may have
  # a mean over one axis, of length 1.
  resized = jax.image.resize(old, new.shape, "bilinear", antialias=True)
  return resized.astype(new.dtype)


def sentence(path: str, old: tuple[int, ...], new: tuple[int, ...]) -> str:
  """What `resize` does to a parameter, for a log.

  Example:
    >>> sentence("text/encoder/positions", (77, 8), (32, 8))
    'text/encoder/positions: the first 32 of 77 positions are kept, the rest is cut'
  """
  if _kind(path, len(old)) != "text":
    return f"{path}: resized from {list(old)} to {list(new)}"
  if new[0] < old[0]:
    return (
        f"{path}: the first {new[0]} of {old[0]} positions are kept, the rest is "
        "cut"
    )
  return (
      f"{path}: all {old[0]} positions are kept, and {new[0] - old[0]} new ones "
      "begin at random"
  )


def _kind(path: str, rank: int) -> str | None:
  if f"/{path}".endswith("/attention/positions"):
    return "offsets" if rank >= 3 else None
  if not f"/{path}".endswith("/positions"):
    return None
  return {3: "grid", 2: "text"}.get(rank)

"""Random changes of color on the device, with one key for each row.

Images are signals in [-1, 1], levels 0 to 255 of a file; the changes are those of
Pillow, without its rounding. What a row gets depends on its key alone, so chunks
and devices change nothing, and a second pass over the rows draws the same.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

Images = Float[Array, "b h w c"]
Factors = Float[Array, "b"]
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def brightness(x: Images, factor: Factors) -> Images:
  """Multiplies levels by a factor a row: 0 is black, 1 changes nothing."""
  return _mixed(x, jnp.full_like(x, -1), factor)


def contrast(x: Images, factor: Factors) -> Images:
  """Moves levels away from the mean luminance of their row: 0 is gray."""
  mean = jnp.mean(luminance(x), axis=(1, 2, 3), keepdims=True)
  return _mixed(x, jnp.broadcast_to(mean, x.shape), factor)


def saturation(x: Images, factor: Factors) -> Images:
  """Moves colors away from their luminance: 0 is gray, 1 changes nothing."""
  return _mixed(x, grayscale(x), factor)


def grayscale(x: Images) -> Images:
  """The luminance in all channels."""
  return jnp.broadcast_to(luminance(x), x.shape)


def solarize(x: Images) -> Images:
  """Inverts the brighter half of all levels."""
  return jnp.where(x < 0, x, -x)


def flip(x: Images) -> Images:
  """Left to right."""
  return x[:, :, ::-1]


def luminance(x: Images) -> Float[Array, "b h w 1"]:
  """ITU-R BT.601 luma of three channels; one channel is its own."""
  if x.shape[-1] == 1:
    return x
  return jnp.einsum("bhwc,c->bhw", x, jnp.array(_LUMA, x.dtype))[..., None]


def _mixed(x: Images, other: Images, factor: Factors) -> Images:
  factor = factor.astype(x.dtype)[:, None, None, None]
  return jnp.clip(other + factor * (x - other), -1, 1)


def photometric(
    x: Images,
    keys: Key[Array, "b"],
    *,
    mirror: bool = False,
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0),
    jittered: float = 0.8,
    gray: float = 0.0,
    solarized: float = 0.0,
) -> Images:
  """Draws changes of each row: mirror, jitter, gray, solarize, in this order.

  Args:
    x: images in [-1, 1].
    keys: one key a row.
    mirror: whether half of the rows are mirrored horizontally.
    jitter: strengths of random brightness, contrast and saturation, in this
      order: factors are uniform in [max(0, 1 - strength), 1 + strength].
    jittered: probability of the jitter.
    gray: probability of grayscale.
    solarized: probability that levels above 127 are inverted.

  Returns:
    Images of the same shape and dtype.
  """
  parts = jax.vmap(lambda key: jax.random.split(key, 7))(keys)

  def happens(n: int, share: float) -> Bool[Array, "b"]:
    return jax.vmap(lambda key: jax.random.bernoulli(key, share))(parts[:, n])

  if mirror:
    x = _where(happens(0, 0.5), flip, x)
  jittering = happens(1, jittered)
  for n, (change, strength) in enumerate(
      zip((brightness, contrast, saturation), jitter, strict=True), 2
  ):
    if strength:
      factor = _factors(parts[:, n], strength)
      x = change(x, jnp.where(jittering, factor, 1.0))
  if gray:
    x = _where(happens(5, gray), grayscale, x)
  if solarized:
    x = _where(happens(6, solarized), solarize, x)
  return x


def check(
    *,
    mirror: bool = False,
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0),
    jittered: float = 0.8,
    gray: float = 0.0,
    solarized: float = 0.0,
) -> None:
  """Raises ValueError if an argument of `photometric` is out of its range."""
  del mirror
  shares = {"jittered": jittered, "gray": gray, "solarized": solarized}
  faults = [
      f"{name} is {share}; it takes a probability, 0 to 1"
      for name, share in shares.items() if not 0 <= share <= 1
  ]
  if min(jitter) < 0:
    faults.append(f"jitter is {jitter}; it takes strengths of at least 0")
  if faults:
    raise ValueError("; ".join(faults))


def _factors(keys: Key[Array, "b"], strength: float) -> Factors:
  least = max(0.0, 1 - strength)
  return jax.vmap(
      lambda key: jax.random.uniform(key, minval=least, maxval=1 + strength)
  )(keys)


def _where(
    chosen: Bool[Array, "b"], change: Callable[[Images], Images], x: Images
) -> Images:
  return jnp.where(chosen[:, None, None, None], change(x), x)

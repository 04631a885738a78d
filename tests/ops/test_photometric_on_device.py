"""Changes of color on the device are those of the host, row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.augmentations import _photometric
from basic.engine import model
from basic.ops import photometric

ROWS = 400
FACTORS = (0.0, 0.3, 1.0, 1.6)


def rows(count=4, channels=3):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, 7, 5, channels), np.uint8)


def signal(pixels):
  return model.as_signal(jnp.asarray(pixels))


def levels(x):
  return (np.asarray(x) + 1) * 127.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_factor_does_what_the_host_does(name, channels):
  pixels = rows(channels=channels)
  found = levels(getattr(photometric, name)(signal(pixels), jnp.array(FACTORS)))
  for row, factor, got in zip(pixels, FACTORS, found, strict=True):
    expected = getattr(_photometric, name)(row, factor)
    # The host has whole levels, also of the luminance that it mixes with.
    assert np.abs(got - expected).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["grayscale", "solarize"])
def test_a_change_does_what_the_host_does(name, channels):
  pixels = rows(channels=channels)
  found = levels(getattr(photometric, name)(signal(pixels)))
  expected = np.stack([getattr(_photometric, name)(row) for row in pixels])
  assert np.abs(found - expected).max() <= 1
  np.testing.assert_array_equal(
      photometric.flip(signal(pixels)), signal(pixels[:, :, ::-1].copy()))


EVERY = dict(
    mirror=True, jitter=(0.4, 0.4, 0.8), gray=0.3, solarized=0.2,
)


def test_a_row_depends_on_its_key_alone():
  x, keys = signal(rows(6)), jax.random.split(jax.random.key(0), 6)
  draw = jax.jit(lambda x, keys: photometric.photometric(x, keys, **EVERY))
  whole = draw(x, keys)
  halves = jnp.concatenate([draw(x[:3], keys[:3]), draw(x[3:], keys[3:])])
  np.testing.assert_allclose(whole, halves, atol=1e-6)  # float32, fused otherwise
  turned = draw(x[::-1], keys[::-1])[::-1]
  np.testing.assert_allclose(whole, turned, atol=1e-6)
  same = draw(jnp.broadcast_to(x[:1], x.shape), keys)
  assert not np.allclose(same[0], same[1])
  assert whole.dtype == x.dtype and np.abs(whole).max() <= 1


def test_nothing_is_drawn_where_nothing_is_asked():
  x, keys = signal(rows()), jax.random.split(jax.random.key(0), 4)
  np.testing.assert_array_equal(photometric.photometric(x, keys), x)


def share_is(found, expected):
  spread = (expected * (1 - expected) / len(found)) ** 0.5
  return abs(np.mean(found) - expected) < 5 * spread


@pytest.mark.parametrize(("settings", "expected"), [
    (dict(mirror=True), 0.5), (dict(gray=0.3), 0.3), (dict(solarized=0.2), 0.2),
    (dict(jitter=(0.4, 0.0, 0.0), jittered=0.7), 0.7),
])
def test_a_change_happens_as_often_as_its_probability(settings, expected):
  x = signal(np.broadcast_to(rows(1), (ROWS, 7, 5, 3)).copy())
  keys = jax.random.split(jax.random.key(1), ROWS)
  found = photometric.photometric(x, keys, **settings)
  assert share_is(np.abs(np.asarray(found - x)).max((1, 2, 3)) > 1e-3, expected)


def test_factors_are_uniform_in_their_range():
  x = signal(np.full((ROWS, 1, 1, 3), 60, np.uint8))
  keys = jax.random.split(jax.random.key(2), ROWS)
  found = levels(photometric.photometric(
      x, keys, jitter=(0.8, 0.0, 0.0), jittered=1.0))[:, 0, 0, 0] / 60
  cdf = (np.sort(found) - 0.2) / 1.6
  steps = np.arange(ROWS + 1) / ROWS
  # Dvoretzky, Kiefer and Wolfowitz: 2 exp(-2 n d^2) is 5e-7 here.
  assert max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max()) < 0.14

"""The residual network: its block by loops, its sizes by arithmetic."""

import functools
import math

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.encoders import resnet

jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def shapes(encoder):
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  return jax.eval_shape(lambda key: encoder.init(key, image), jax.random.key(0))


def count(encoder):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(encoder)))


def size(depth, width):
  """Parameters, added up block by block: kernels and two numbers a channel."""
  total, before = 7 * 7 * 3 * 64 * width, 64 * width
  for stage, blocks in enumerate(resnet.STAGES[depth]):
    narrow = 64 * width * 2**stage
    wide = 4 * narrow
    for block in range(blocks):
      total += before * narrow + 9 * narrow**2 + narrow * wide
      total += 2 * (before + narrow + narrow)
      total += before * wide if block == 0 else 0
      before = wide
  return total + 2 * before


@pytest.mark.parametrize(
    ("depth", "width", "known"),
    # BiT-R50x1 without its head: 25,549,352 - 2049 * 1000.
    [(50, 1, 23_500_352), (26, 1, None), (101, 1, None), (50, 3, None)],
)
def test_networks_have_their_size(depth, width, known):
  found = count(resnet.resnet(depth=depth, width=float(width)))
  assert found == size(depth, width)
  assert known is None or found == known


@pytest.mark.parametrize("depth", sorted(resnet.STAGES))
def test_depth_counts_layers(depth):
  # The root, three layers a block, and the head that is not here.
  assert 1 + 3 * sum(resnet.STAGES[depth]) + 1 == depth


def test_pooled_is_32_times_the_root_at_any_size_of_image():
  encoder = resnet.resnet(depth=26, width=0.5)
  for side in (32, 33, 50):
    image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    found = jax.eval_shape(
        lambda p, x: encoder.apply(p, x, None), shapes(encoder), image
    )
    assert found.pooled.shape == (2, 1024)


def test_standardized_kernels_have_mean_0_and_deviation_1():
  kernel = 3 + 5 * jax.random.normal(jax.random.key(0), (3, 3, 4, 6))
  found = np.asarray(resnet.standardize(kernel, 1e-8))
  np.testing.assert_allclose(
      found.mean((0, 1, 2)), 0, atol=checks.rounding(36)  # 3 * 3 * 4 terms
  )
  np.testing.assert_allclose(found.std((0, 1, 2)), 1, rtol=1e-5)  # float32
  narrow = np.asarray(resnet.standardize(1e-4 * kernel / 5, 1e-8))
  # A variance as large as what is added to it: sqrt(1/2).
  np.testing.assert_allclose(narrow.std((0, 1, 2)), 0.7, atol=0.1)


def test_a_constant_kernel_has_a_finite_gradient():
  kernel = jnp.ones((1, 1, 4, 2))
  weight = jnp.arange(8.0).reshape(kernel.shape)

  def loss(kernel):
    return jnp.sum(weight * resnet.standardize(kernel, 1e-8))

  assert np.isfinite(jax.grad(loss)(kernel)).all()


@pytest.mark.parametrize(
    ("channels", "groups", "want"),
    [(64, 32, 32), (2048, 32, 32), (80, 32, 20), (16, 32, 8), (7, 32, 1),
     (96, 1, 1), (1, 32, 1)],
)
def test_groups_divide_the_channels_into_twos_or_more(channels, groups, want):
  assert resnet.group_count(channels, groups) == want


def convolve(x, kernel, stride):
  """Loops over the output, zeros around the image."""
  w = kernel - kernel.mean((0, 1, 2))
  w = w / np.sqrt(w.var((0, 1, 2)) + 1e-2)
  size = len(w)
  x = np.pad(x, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
  rows = range(0, len(x) - size + 1, stride)
  return np.array([
      [np.tensordot(x[i : i + size, j : j + size], w, 3) for j in rows]
      for i in rows
  ])


def activate(x, p, groups):
  x = x.reshape(*x.shape[:2], groups, -1)
  centred = x - x.mean((0, 1, 3), keepdims=True)
  x = centred / np.sqrt(x.var((0, 1, 3), keepdims=True) + 1e-5)
  x = x.reshape(*x.shape[:2], -1)
  return np.maximum(x * p["scale"] + p["bias"], 0)


@pytest.mark.parametrize(("channels", "stride"), [(8, 2), (16, 1)])
def test_a_block_is_its_equations(channels, stride):
  block = resnet.Bottleneck(
      depth=2, channels=4, stride=stride, groups=2, epsilon=1e-2,
      stochastic_depth=0.0, dtype="float32",
  )
  draw = np.random.default_rng(0)
  x = draw.normal(size=(1, 4, 4, channels))
  image, layer = jnp.asarray(x, jnp.float32), jnp.int32(0)
  known = jax.eval_shape(
      lambda key: block.init(key, image, layer, None), jax.random.key(0)
  )
  p = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape), known)
  single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), p)
  found, _ = jit(lambda p: block.apply(p, image, layer, None))(single)

  p, x = p["params"], x[0]
  assert ("shortcut" in p) == (stride == 2)
  y = activate(x, p["norm1"], 2)
  if stride == 2:
    x = convolve(y, p["shortcut"]["kernel"], 2)
  y = convolve(y, p["convolution1"]["kernel"], 1)
  y = convolve(activate(y, p["norm2"], 2), p["convolution2"]["kernel"], stride)
  y = convolve(activate(y, p["norm3"], 2), p["convolution3"]["kernel"], 1)
  # float32, three convolutions of up to 36 terms of order one.
  np.testing.assert_allclose(found[0], x + y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(width=0.01), "width=0.01, groups=32"),
        (dict(groups=0), "groups=0"),
        (dict(epsilon=0.0), "epsilon=0.0"),
        (dict(stochastic_depth=1.0), "stochastic_depth=1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    resnet.resnet(**settings)


def test_images_that_cannot_be_read_are_refused():
  encoder = resnet.resnet(depth=26, width=0.25)
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
  with pytest.raises(ValueError, match=r"uint8.*expected float"):
    jax.eval_shape(
        lambda p, x: encoder.apply(p, x, None), shapes(encoder), image
    )

"""CLIP's residual network: its sizes as published, its parts by loops."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import paths
from basic.encoders import _clip_resnet, clip_resnet

jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
SMALL = dict(
    depths=(2, 1, 1, 1), width=2, heads=4, features=5, dtype="float32"
)


def shapes(encoder, side=64):
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  return jax.eval_shape(lambda key: encoder.init(key, image), jax.random.key(0))


def drawn(known):
  """Parameters of order one, float64."""
  draw = np.random.default_rng(0)
  return paths.map_paths(
      lambda path, leaf: draw.uniform(0.5, 1.5, leaf.shape)
      if path.endswith(("scale", "variance")) else draw.normal(size=leaf.shape),
      known,
  )


def single(tree):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def size(variant, grid):
  """Parameters without statistics, added up as the network is drawn."""
  depths, width, _, features = clip_resnet.VARIANTS[variant]
  half, wide = width // 2, 32 * width
  total = 27 * half + 9 * half**2 + 9 * half * width + 4 * half + 2 * width
  before = width
  for stage, blocks in enumerate(depths):
    narrow = width * 2**stage
    for block in range(blocks):
      total += before * narrow + 9 * narrow**2 + 4 * narrow**2
      total += 2 * 6 * narrow  # norms of 1, 1 and 4 times as many channels
      total += (before + 2) * 4 * narrow if block == 0 else 0
      before = 4 * narrow
  places = (grid**2 + 1) * wide
  return total + places + 3 * (wide + 1) * wide + (wide + 1) * features


@pytest.mark.parametrize(
    ("variant", "side", "millions"),
    # In millions, as the makers of open_clip count the image towers.
    [("RN50", 224, 38.32), ("RN101", 224, 56.26), ("RN50x4", 288, 87.14),
     ("RN50x16", 384, 167.33), ("RN50x64", 448, 420.38)],
)
def test_networks_have_their_size(variant, side, millions):
  flat = paths.flatten(shapes(clip_resnet.clip_resnet(variant=variant), side))
  count = sum(
      math.prod(leaf.shape) for path, leaf in flat.items()
      if not path.endswith(("/mean", "/variance"))
  )
  assert count == size(variant, side // 32)
  assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_every_parameter_has_one_row_of_axes():
  encoder = clip_resnet.clip_resnet(variant="RN50")
  for path, leaf in paths.flatten(shapes(encoder)).items():
    found = [axes for row, axes in encoder.axes if re.fullmatch(row, path)]
    assert [len(axes) for axes in found] == [leaf.ndim], (path, found)


# The parts once more, in NumPy and float64, one image at a time.


def convolve(x, p, stride=1):
  w = p["kernel"]
  n = len(w) // 2
  x = np.pad(x, ((n, n), (n, n), (0, 0)))
  rows, columns = (range(0, k - 2 * n, stride) for k in x.shape[:2])
  side = 2 * n + 1
  return np.array([
      [np.tensordot(x[i : i + side, j : j + side], w, 3) for j in columns]
      for i in rows
  ])


def norm(x, p):
  x = (x - p["mean"]) / np.sqrt(p["variance"] + 1e-5)
  return x * p["scale"] + p["bias"]


def halve(x):
  x = x[: len(x) // 2 * 2, : x.shape[1] // 2 * 2]
  return x.reshape(len(x) // 2, 2, x.shape[1] // 2, 2, -1).mean((1, 3))


def relu(x):
  return np.maximum(x, 0)


def check(module, x, reference, *more):
  known = jax.eval_shape(
      lambda key: module.init(key, jnp.asarray(x[None], jnp.float32), *more),
      jax.random.key(0),
  )["params"]
  p = drawn(known)
  found = jit(lambda p, x: module.apply({"params": p}, x, *more))(
      single(p), jnp.asarray(x[None], jnp.float32)
  )
  found = found[0] if isinstance(found, tuple) else found
  want = reference(x, p)
  assert found.shape == (1, *want.shape)
  # float32, chains of products of up to 36 terms of order one.
  np.testing.assert_allclose(found[0], want, rtol=1e-4, atol=1e-3)
  return p


@pytest.mark.parametrize(("channels", "stride"), [(4, 2), (8, 2), (8, 1)])
def test_a_block_is_its_equations(channels, stride):
  def reference(x, p):
    y = relu(norm(convolve(x, p["convolution1"]), p["norm1"]))
    y = relu(norm(convolve(y, p["convolution2"]), p["norm2"]))
    y = halve(y) if stride == 2 else y
    y = norm(convolve(y, p["convolution3"]), p["norm3"])
    if "shortcut" in p:
      x = convolve(halve(x) if stride == 2 else x, p["shortcut"])
      x = norm(x, p["shortcut_norm"])
    return relu(x + y)

  block = _clip_resnet.Bottleneck(
      channels=2, stride=stride, depth=1, stochastic_depth=0.0, dtype="float32"
  )
  x = np.random.default_rng(1).normal(size=(4, 5, channels))
  p = check(block, x, reference, jnp.int32(0), None)
  assert ("shortcut" in p) == (stride == 2 or channels != 8)


def test_the_stem_pads_with_the_mean_colour():
  def reference(x, p):
    x = x - p["mean"]
    for n in (1, 2, 3):
      x = convolve(x, p[f"convolution{n}"], 2 if n == 1 else 1)
      x = relu(norm(x, p[f"norm{n}"]))
    return halve(x)

  x = np.random.default_rng(1).uniform(-1, 1, (9, 8, 3))
  check(_clip_resnet.Stem(4, "float32"), x, reference)


def test_the_pool_asks_by_the_mean():
  def reference(x, p):
    x = x.reshape(-1, 8)
    places = p["positions"].reshape(-1, 8)
    x = np.concatenate([[x.mean(0) + p["token"]], x + places])
    a, z = p["attention"], np.zeros((2, 4))
    q, k, v = (
        np.einsum("nc,ckd->nkd", x, a[name]["kernel"]) + a[name]["bias"]
        for name in ("query", "key", "value")
    )
    for head in range(2):
      logits = k[:, head] @ q[0, head] / 2
      weights = np.exp(logits - logits.max())
      z[head] = weights @ v[:, head] / weights.sum()
    return np.einsum("kd,kde->e", z, a["out"]["kernel"]) + a["out"]["bias"]

  x = np.random.default_rng(1).normal(size=(2, 3, 8))
  check(_clip_resnet.MeanPool(2, 5, "float32"), x, reference)


def test_the_statistics_and_the_colour_have_no_gradient():
  encoder = clip_resnet.clip_resnet(**SMALL)
  x = jnp.asarray(
      np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)), jnp.float32)
  params = single(drawn(shapes(encoder, 32)))
  slopes = paths.flatten(jit(jax.grad(
      lambda p: encoder.apply(p, x, None).pooled.sum()))(params))
  for path, slope in slopes.items():
    if path.endswith(("/mean", "/variance")):
      np.testing.assert_array_equal(slope, 0, err_msg=path)
  assert np.abs(slopes["stem/convolution1/kernel"]).max() > 0


@pytest.mark.parametrize(("side", "grid"), [(31, 1), (64, 2), (65, 2), (95, 3)])
def test_another_resolution_has_resized_places(side, grid):
  encoder = clip_resnet.clip_resnet(**SMALL, keep_tokens=True)
  known = shapes(encoder, side)
  assert known["pool"]["positions"].shape == (grid, grid, 64)
  z = jax.eval_shape(
      lambda p, x: encoder.apply(p, x, None), shapes(encoder, 128),
      jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32),
  )
  assert z.pooled.shape == (2, 5)
  assert z.tokens.shape == (2, grid * grid, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(variant="RN18"), "expected one of RN50, RN101"),
        (dict(variant="RN50", features=7), "features was given too"),
        (dict(depths=(1, 1, 1)), "expected 4 depths"),
        (dict(depths=(1, 0, 1, 1)), "at least 1"),
        (dict(width=1), "width of at least 2"),
        (dict(width=4, heads=3), "heads that divide"),
        (dict(stochastic_depth=1.0), "stochastic_depth=1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    clip_resnet.clip_resnet(**settings)


def test_heads_follow_the_width():
  known = shapes(clip_resnet.clip_resnet(width=8))
  assert known["pool"]["attention"]["query"]["kernel"].shape == (256, 4, 64)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [((1, 32, 32, 3), jnp.uint8, r"uint8.*expected float"),
     ((1, 64, 30, 3), jnp.float32, "64x30 pixels.*at least 31")],
)
def test_images_that_cannot_be_read_are_refused(shape, dtype, message):
  encoder = clip_resnet.clip_resnet(**SMALL)
  image = jax.ShapeDtypeStruct(shape, dtype)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
        lambda p, x: encoder.apply(p, x, None), shapes(encoder), image
    )

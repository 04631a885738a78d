"""The image transformer: its stems, places, pools and sizes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from basic import paths
from basic.encoders import vit

jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

SMALL = dict(width=8, depth=1, heads=2, patch=4, dtype="float32")


def images(height=8, width=12):
  draw = np.random.default_rng(0)
  return jnp.asarray(draw.uniform(-1, 1, (2, height, width, 3)), jnp.float32)


def build(**settings):
  return vit.vit(**{**SMALL, **settings})


def shapes(encoder, image=(1, 8, 12, 3)):
  image = jax.ShapeDtypeStruct(image, jnp.float32)
  return jax.eval_shape(lambda key: encoder.init(key, image), jax.random.key(0))


def count(encoder, side):
  leaves = jax.tree.leaves(shapes(encoder, (1, side, side, 3)))
  return sum(math.prod(leaf.shape) for leaf in leaves)


def draw(encoder):
  """Parameters with nothing at zero or one, where errors hide."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, jnp.float32),
      shapes(encoder),
  )


def hollow(params):
  """The same parameters, with blocks that add nothing."""
  return paths.map_paths(
      lambda path, leaf: 0 * leaf if path.startswith("blocks/") else leaf,
      params,
  )


def test_patches_are_projected_and_placed():
  encoder = build(keep_tokens=True)
  params = hollow(draw(encoder))
  found = jit(encoder.apply)(params, images(), None)
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x = np.asarray(images(), np.float64)
  for row, i, j in np.ndindex(2, 2, 3):
    patch = x[row, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
    want = np.tensordot(patch, p["stem"]["kernel"], 3) + p["stem"]["bias"]
    want = want + p["positions"][i, j]
    want = (want - want.mean()) / np.sqrt(want.var() + 1e-6)
    want = want * p["norm"]["scale"] + p["norm"]["bias"]
    # float32, sums of 48 terms, and a division by their spread.
    np.testing.assert_allclose(
        found.tokens[row, 3 * i + j], want, rtol=1e-4, atol=1e-5
    )
  np.testing.assert_allclose(
      found.pooled, found.tokens.mean(1), rtol=1e-5, atol=1e-6
  )


def test_tokens_are_kept_only_when_asked():
  encoder = build()
  params = draw(encoder)
  assert jax.eval_shape(encoder.apply, params, images(), None).tokens is None


def test_the_class_token_is_pooled_and_not_kept():
  encoder = build(pool="token", keep_tokens=True)
  params = hollow(draw(encoder))
  found = jit(encoder.apply)(params, images(), None)
  token = np.asarray(params["token"], np.float64)
  want = (token - token.mean()) / np.sqrt(token.var() + 1e-6)
  want = want * params["norm"]["scale"] + params["norm"]["bias"]
  # Alone in the row: no image has reached it, no position either.
  np.testing.assert_allclose(found.pooled[0], want, rtol=1e-4, atol=1e-5)
  assert found.tokens.shape == (2, 6, 8)


@pytest.mark.parametrize("pool", ["token", "attention"])
def test_a_pool_sees_the_image_but_no_order_without_places(pool):
  encoder = build(pool=pool)
  params = draw(encoder)
  params["positions"] = 0 * params["positions"]
  x = images()
  swapped = jnp.concatenate([x[:, 4:], x[:, :4]], axis=1)
  apply = jit(encoder.apply)
  one, two, three = (
      apply(params, y, None).pooled for y in (x, swapped, -x)
  )
  np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)  # float32
  assert not np.allclose(one, three, rtol=1e-2)


@pytest.mark.parametrize("patch", [2, 4])
def test_the_convolutional_stem_gives_one_token_a_patch(patch):
  encoder = build(stem="convolution", patch=patch, keep_tokens=True)
  params = shapes(encoder)
  found = jax.eval_shape(encoder.apply, params, images(), None)
  assert found.tokens.shape == (2, 96 // patch**2, 8)
  halvings = [name for name in params["stem"] if name.startswith("convolution")]
  assert len(halvings) == math.log2(patch)


def layer_norm(x, p):
  centred = x - x.mean(-1, keepdims=True)
  x = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * p["scale"] + p["bias"]


def gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_the_convolutional_stem_is_its_equations():
  stem = vit.Stem(16, 4, "float32")
  params = jax.tree.map(
      lambda leaf: jnp.asarray(np.random.default_rng(leaf.size).normal(
          size=leaf.shape), jnp.float32),
      jax.eval_shape(stem.init, jax.random.key(0), images()),
  )
  found = jit(stem.apply)(params, images())
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)["params"]
  for row, x in enumerate(np.asarray(images(), np.float64)):
    for n in (1, 2):
      x = gelu(layer_norm(oracles.convolve(x, p[f"convolution{n}"], 2), p[f"norm{n}"]))
    # float32, sums of 27, 72 and 16 terms of order one after each other, with
    # a division by their spread between.
    np.testing.assert_allclose(
        found[row], x @ p["out"]["kernel"][0, 0] + p["out"]["bias"],
        rtol=1e-4, atol=1e-4,
    )


def test_the_convolutional_stem_looks_beyond_its_patch():
  encoder = build(stem="convolution", keep_tokens=True)
  params = hollow(draw(encoder))
  x = images()
  apply = jit(lambda x: encoder.apply(params, x, None).tokens)
  moved = apply(x.at[:, 0, 4].add(1.0)) - apply(x)
  touched = np.abs(moved).max(axis=(0, 2)) > 0
  assert touched[0] and touched[1]  # the patch beside the pixel's own, too


def test_learned_places_are_resized_to_the_images():
  encoder = build(keep_tokens=True)
  params = hollow(draw(encoder))
  params["stem"] = jax.tree.map(jnp.zeros_like, params["stem"])
  params["positions"] = jnp.broadcast_to(jnp.arange(8.0), (2, 3, 8))
  apply = jit(encoder.apply)
  small, large = (
      apply(params, x, None).tokens for x in (images(), images(16, 20))
  )
  assert small.shape[1] == 6 and large.shape[1] == 20
  np.testing.assert_allclose(large[:, :6], small, rtol=1e-5, atol=1e-5)


def test_fixed_places_are_no_parameters():
  assert "positions" not in shapes(build(positions="sincos"))
  with pytest.raises(ValueError, match="multiple of 4, found 6"):
    shapes(build(positions="sincos", width=6))


def test_patches_drop_under_noise_only():
  encoder = build(drop_patches=0.5, keep_tokens=True)
  params = shapes(encoder)
  keys = jax.random.split(jax.random.key(0), 2)
  noisy = jax.eval_shape(encoder.apply, params, images(), keys)
  quiet = jax.eval_shape(encoder.apply, params, images(), None)
  assert noisy.tokens.shape[1] == 3 and quiet.tokens.shape[1] == 6


def test_b16_has_its_published_size():
  d, n = 768, 14 * 14
  block = 12 * d**2 + 13 * d
  want = 16 * 16 * 3 * d + d + n * d + d + 12 * block + 2 * d
  assert count(vit.vit(variant="B/16", pool="token"), 224) == want
  assert round(want / 1e6) == 86  # Dosovitskiy et al., table 1
  assert count(vit.vit(), 224) == want - d  # the default, without the token


@pytest.mark.parametrize(
    ("variant", "millions"), [("L/16", 303), ("H/14", 631), ("So400m/14", 412)]
)
def test_variants_have_their_usual_sizes(variant, millions):
  width, depth, _, mlp = vit.VARIANTS[variant.split("/")[0]]
  patch = int(variant.split("/")[1])
  block = 4 * width**2 + 2 * width * mlp + 9 * width + mlp
  want = (3 * patch**2 + 1 + (224 // patch) ** 2 + 2) * width + depth * block
  assert count(vit.vit(variant=variant), 224) == want
  assert round(want / 1e6) == millions


def test_l14_has_its_published_size():
  d, n = 1024, 16 * 16
  block = 12 * d**2 + 13 * d
  # CLIP's: where its token has a place, the stem here has a bias.
  want = 14 * 14 * 3 * d + (n + 1) * d + d + 24 * block + 4 * d
  encoder = vit.vit(variant="L/14", pool="token", entry_norm=True)
  assert count(encoder, 224) == want == 303_179_776
  # open_clip publishes 303.97M with the projection to 768 (docs/
  # model_profile.csv in github.com/mlfoundations/open_clip, row ViT-L-14).
  assert round((303_179_776 + d * 768) / 1e6, 2) == 303.97


def test_a_variant_leaves_open_what_it_does_not_say():
  kernel = shapes(vit.vit(variant="Ti", patch=4))["stem"]["kernel"]
  assert kernel.shape == (4, 4, 3, 192)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(variant="B/16", width=768), "stands for width, which was given"),
        (dict(variant="B/16", patch=8, mlp=5), "stands for mlp, patch, which"),
        (dict(variant="X/16"), "variant='X/16', expected one of Ti, S, M, B"),
        (dict(variant="B/x"), "such as 'B/16'"),
        (dict(variant="B/"), "such as 'B/16'"),
        (dict(heads=5), "width=768, depth=12, heads=5"),
        (dict(patch=0), "at least 1"),
        (dict(patch=14, stem="convolution"), "expected 2, 4, 8, 16"),
        (dict(drop_patches=1.0), "drop_patches=1.0"),
        (dict(dropout=1.5), "dropout=1.5"),
        (dict(stochastic_depth=-1.0), "stochastic_depth=-1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    vit.vit(**settings)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 8, 3, 3), np.float32), "8x3 pixels.*patch=4"),
        (np.zeros((1, 8, 8, 3), np.uint8), "uint8.*x / 127.5 - 1"),
        (np.zeros((8, 8, 3), np.float32), r"float32\[8, 8, 3\]"),
    ],
)
def test_images_that_cannot_be_read_are_refused(image, message):
  encoder = build()
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(encoder.apply, shapes(encoder), jnp.asarray(image), None)


def test_the_convolutional_stem_refuses_a_size_the_patch_does_not_divide():
  with pytest.raises(ValueError, match="9x8 pixels"):
    shapes(build(stem="convolution"), (1, 9, 8, 3))


def test_pixels_beyond_the_last_whole_patch_are_dropped():
  encoder = build()
  params = encoder.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  draw = np.random.default_rng(0)
  larger = jnp.asarray(draw.uniform(-1, 1, (2, 11, 9, 3)), jnp.float32)
  np.testing.assert_array_equal(
      encoder.apply(params, larger, None).pooled,
      encoder.apply(params, larger[:, :8, :8], None).pooled,
  )

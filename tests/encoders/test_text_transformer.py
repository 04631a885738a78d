"""The text tower against its equations, and what is special about text."""

import functools
import math

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import paths
from basic.encoders import text_transformer

jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

SMALL = dict(vocab=20, length=6, width=8, depth=2, heads=2, dtype="float32")
TEXT = np.array([[3, 7, 2, 0, 0], [5, 0, 0, 0, 0], [1, 2, 3, 4, 5]], np.int32)
EMPTY = np.zeros((1, 5), np.int32)


def build(**settings):
  return text_transformer.text_transformer(**{**SMALL, **settings})


@functools.cache
def params(pool="mean"):
  """Parameters with nothing at zero or one, where errors hide."""
  shapes = jax.eval_shape(build(pool=pool).init, jax.random.key(0), TEXT)
  draw = np.random.default_rng(0)
  return jax.tree.map(
      lambda leaf: jnp.asarray(draw.normal(size=leaf.shape) / 2, jnp.float32),
      shapes,
  )


def encode(text, pool="mean", **settings):
  encoder = build(pool=pool, **settings)
  return jit(encoder.apply)(params(pool), jnp.asarray(text), None)


def norm(x, p):
  centred = x - x.mean(-1, keepdims=True)
  scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
  return centred / scale * p["scale"] + p["bias"]


def mlp(x, p):
  hidden = x @ p["in"]["kernel"] + p["in"]["bias"]
  gelu = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
  hidden = hidden * (1 + np.tanh(gelu)) / 2
  return hidden @ p["out"]["kernel"] + p["out"]["bias"]


def attend(x, y, p, sees):
  """x [n d] to y [m d]; sees(n, m) says whether."""
  z = np.zeros_like(x)
  for head in range(2):
    q, k, v = (
        side @ p[name]["kernel"][:, head] + p[name]["bias"][head]
        for name, side in (("query", x), ("key", y), ("value", y))
    )
    for n in range(len(x)):
      seen = [m for m in range(len(y)) if sees(n, m)]
      a = np.exp([q[n] @ k[m] / np.sqrt(q.shape[-1]) for m in seen])
      mixed = sum(w * v[m] for w, m in zip(a / a.sum(), seen, strict=True))
      z[n] += mixed @ p["out"]["kernel"][head]
  return z + p["out"]["bias"]


def oracle(text, causal, pool):
  """One text without its padding, in float64."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params(pool))
  ids = text[text > 0]
  x = p["vocabulary"][ids] + p["positions"][: len(ids)]
  for n in range(2):
    block = jax.tree.map(lambda leaf, n=n: leaf[n], p["blocks"])
    y = norm(x, block["attention_norm"])
    x = x + attend(y, y, block["attention"], lambda i, j: j <= i or not causal)
    x = x + mlp(norm(x, block["mlp_norm"]), block["mlp"])
  x = norm(x, p["norm"])
  if pool == "attention":
    head = p["pool"]
    z = attend(head["probe"][None], x, head["attention"], lambda i, j: True)
    return (z + mlp(norm(z, head["mlp_norm"]), head["mlp"]))[0]
  return {"mean": x.mean(0), "first": x[0], "last": x[-1]}[pool]


@pytest.mark.parametrize(
    ("pool", "causal"),
    [("mean", False), ("first", False), ("last", True), ("attention", False)],
)
def test_the_tower_is_its_equations(pool, causal):
  found = encode(TEXT, pool, causal=causal).pooled
  want = [oracle(text, causal, pool) for text in TEXT]
  # float32 through two blocks whose weights are of order one.
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "first", "last", "attention"])
def test_empty_text_is_finite_and_as_empty_at_any_length(pool):
  found = encode(EMPTY, pool).pooled
  assert np.isfinite(found).all()
  # Sums of up to 32 hidden units in two blocks; features are of order one.
  np.testing.assert_allclose(
      found, encode(EMPTY[:, :2], pool).pooled, rtol=0,
      atol=checks.rounding(128),
  )


def test_a_causal_token_does_not_see_what_follows():
  later = np.array([[1, 2, 9, 9, 9]], np.int32)
  both = np.concatenate([TEXT[2:], later])
  tokens = encode(both, causal=True, keep_tokens=True).tokens
  np.testing.assert_array_equal(tokens[0, :2], tokens[1, :2])
  assert not np.allclose(tokens[0, 2:], tokens[1, 2:])


def test_tokens_come_with_their_mask_when_asked():
  features = encode(TEXT, keep_tokens=True)
  np.testing.assert_array_equal(features.mask, TEXT != 0)
  mean = [t[m].mean(0) for t, m in zip(features.tokens, TEXT != 0, strict=True)]
  np.testing.assert_allclose(features.pooled, mean, rtol=1e-5, atol=1e-6)
  silent = encode(TEXT)
  assert silent.tokens is None and silent.mask is None


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [(6, 1024, 108.41), (12, 1024, 183.99), (12, 2048, 669.97)],
)
def test_towers_of_basic_have_their_published_size(depth, width, millions):
  encoder = text_transformer.text_transformer(
      vocab=32_000, length=64, width=width, depth=depth, heads=width // 128
  )
  text = jax.ShapeDtypeStruct((1, 64), jnp.int32)
  shapes = jax.eval_shape(lambda key: encoder.init(key, text), jax.random.key(0))
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  block = 12 * width**2 + 13 * width
  assert count == depth * block + (32_000 + 64 + 2) * width
  assert round(count / 1e6, 2) == millions


def test_equations_do_not_grow_with_depth():
  def size(depth):
    encoder = build(depth=depth)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), TEXT)
    return len(str(jax.make_jaxpr(encoder.apply)(shapes, TEXT).jaxpr.eqns))

  assert size(40) - size(2) < 100  # digits of the shapes


def test_fixed_positions_are_no_parameters_and_tell_places_apart():
  encoder = build(positions="sincos")
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), TEXT)
  assert "positions" not in shapes
  known = {k: v for k, v in params().items() if k != "positions"}
  text = jnp.array([[1, 2, 3], [3, 2, 1]], jnp.int32)
  one, two = jit(encoder.apply)(known, text, None).pooled
  assert not np.allclose(one, two)


def test_parameters_start_finite_with_norms_at_identity():
  drawn = paths.flatten(jit(build(pool="attention").init)(jax.random.key(0), TEXT))
  for path, leaf in drawn.items():
    assert np.isfinite(leaf).all()
    if path.endswith(("scale", "bias")):
      np.testing.assert_array_equal(leaf, float(path.endswith("scale")))
    else:
      assert leaf.std() > 0
  layers = drawn["blocks/mlp/in/kernel"]
  assert not np.allclose(layers[0], layers[1])


def test_an_id_beyond_the_vocabulary_is_loud():
  assert np.isnan(encode(np.array([[20]], np.int32)).pooled).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(heads=3), "width=8, depth=2, heads=3"),
        (dict(depth=0), "depth=0"),
        (dict(dropout=1.0), "dropout=1.0"),
        (dict(stochastic_depth=-0.1), "stochastic_depth=-0.1"),
        (dict(causal=True, pool="first"), "seen nothing but itself"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    build(**settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (np.ones((1, 7), np.int32), "texts of 7 ids.*length=6"),
        (np.ones((1, 5), np.float32), r"float32\[1, 5\], expected integer"),
        (np.ones(5, np.int32), r"int32\[5\]"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(text, message):
  with pytest.raises(ValueError, match=message):
    build().apply(params(), jnp.asarray(text), None)

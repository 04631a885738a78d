"""What foreign towers need of ours: activations, entry norm, padding, eos."""

import functools
import math

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.encoders import _transformer, text_transformer, vit
from basic.engine import model

TEXT = dict(vocab=20, length=6, width=8, depth=1, heads=2, dtype="float32")
IDS = np.array([[5, 0, 7, 3, 9, 9], [3, 0, 0, 0, 0, 0]], np.int32)


def drawn(encoder, inputs):
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), inputs)
  draw = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: jnp.asarray(draw.normal(size=x.shape) / 2, x.dtype), shapes)


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        ("gelu", lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
        ("quick_gelu", lambda x: x / (1 + math.exp(-1.702 * x))),
        ("gelu_tanh", lambda x: x / 2 * (1 + math.tanh(
            math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ],
)
def test_an_activation_is_its_formula(kind, exact):
  x = np.linspace(-4, 4, 41)
  found = _transformer.activate(jnp.asarray(x, jnp.float32), kind)
  # float32, a handful of operations.
  np.testing.assert_allclose(found, [exact(v) for v in x], atol=2e-6)


def encode(ids=IDS, **settings):
  encoder = text_transformer.text_transformer(
      **{**TEXT, "keep_tokens": True, **settings})
  ids = jnp.asarray(ids)
  return jax.jit(encoder.apply)(drawn(encoder, ids), ids, None)


def test_eos_pools_at_its_first_place():
  found = encode(pool="eos", eos=9, padding="read", causal=True)
  # A compiler may compute the last norm twice, in different ways.
  same = functools.partial(
      np.testing.assert_allclose, rtol=0, atol=checks.rounding(32))
  same(found.pooled[0], found.tokens[0, 4])
  # None there: the first token, as an argmax over nothing says.
  same(found.pooled[1], found.tokens[1, 0])


def test_padding_that_is_read_is_seen():
  hidden, seen = ([encode(x, padding=padding, pool="first").pooled[1]
                   for x in (IDS, IDS[:, :3])]
                  for padding in ("masked", "read"))
  np.testing.assert_allclose(*hidden, rtol=1e-5, atol=1e-6)
  assert not np.allclose(*seen, atol=1e-3)
  read = encode(padding="read", pool="last")
  np.testing.assert_allclose(
      read.pooled, read.tokens[:, -1], rtol=0, atol=checks.rounding(32))
  assert read.mask.all()


@pytest.mark.parametrize("setting", [
    dict(activation="gelu"), dict(epsilon=1e-2), dict(activation="quick_gelu")])
def test_settings_of_a_block_reach_every_part(setting):
  for pool in ("mean", "attention"):
    plain, changed = encode(pool=pool), encode(pool=pool, **setting)
    assert not np.array_equal(plain.pooled, changed.pooled)


def test_tokens_are_normalised_before_the_first_block():
  image = jnp.asarray(
      np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)), jnp.float32)
  size = dict(width=8, depth=1, heads=2, patch=4, dtype="float32")
  plain, normed = (
      vit.vit(**size, entry_norm=on, pool="token") for on in (False, True))
  params = drawn(normed, image)
  assert params["entry_norm"]["scale"].shape == (8,)
  # A tower that normalises does not feel its inputs' offset and scale.
  moved = {**params, "token": 3 * params["token"] + 1}
  one, two = (normed.apply(p, image, None).pooled for p in (params, moved))
  np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)
  bare = {k: v for k, v in params.items() if k != "entry_norm"}
  assert not np.allclose(
      plain.apply(bare, image, None).pooled, one, atol=1e-3)


def test_only_some_towers_may_be_projected():
  towers = {
      "image": vit.vit(width=8, depth=1, heads=2, patch=4),
      "text": text_transformer.text_transformer(**TEXT),
  }
  tree = model.model(towers, width=8, bias=True, only=("text",))
  batch = {"image": jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
           "text": jax.ShapeDtypeStruct((2, 6), jnp.int32)}
  shapes = jax.eval_shape(tree.init, jax.random.key(0), batch)
  assert "projection" not in shapes["image"]
  assert shapes["text"]["projection"]["bias"].shape == (8,)
  assert not any(row.startswith("image/projection") for row, _ in tree.axes)
  with pytest.raises(ValueError, match="'audio'"):
    model.model(towers, width=8, only=("audio",))

"""Noise: by the row's key and nothing else, with the right expectation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import noise

ROWS = 256


def keys(seed=0, rows=ROWS):
  return jax.random.split(jax.random.key(seed), rows)


KINDS = {
    "dropout": noise.dropout,
    "stochastic_depth": noise.stochastic_depth,
    "drop_tokens": noise.drop_tokens,
}
every = pytest.mark.parametrize("kind", sorted(KINDS))


@every
def test_noise_follows_the_key_and_not_the_place(kind):
  x = jax.random.normal(jax.random.key(1), (ROWS, 8, 4))
  swap = np.random.default_rng(0).permutation(ROWS)
  whole = KINDS[kind](x, keys(), 0.5)
  np.testing.assert_array_equal(KINDS[kind](x[swap], keys()[swap], 0.5), whole[swap])
  np.testing.assert_array_equal(KINDS[kind](x[:3], keys()[:3], 0.5), whole[:3])
  assert not np.array_equal(KINDS[kind](x, keys(1), 0.5), whole)


@every
def test_rows_draw_apart(kind):
  x = jnp.broadcast_to(jnp.arange(1.0, 33).reshape(1, 8, 4), (ROWS, 8, 4))
  drawn = KINDS[kind](x, keys(), 0.5)
  assert len(np.unique(np.asarray(drawn).reshape(ROWS, -1), axis=0)) > 1


@pytest.mark.parametrize("kind", ["dropout", "stochastic_depth"])
def test_what_stays_is_scaled_and_as_frequent_as_said(kind):
  found = np.asarray(KINDS[kind](jnp.ones((ROWS, 4, 4)), keys(), 0.25))
  np.testing.assert_allclose(np.unique(found), [0, 1 / 0.75], rtol=1e-6)
  # 256 independent draws at the least: five standard deviations are 0.135.
  assert abs((found == 0).mean() - 0.25) < 0.135


def test_dropout_is_by_entry_and_stochastic_depth_by_row():
  x = jnp.ones((ROWS, 4, 4))
  dropped = np.asarray(noise.dropout(x, keys(), 0.5)).reshape(ROWS, -1)
  skipped = np.asarray(noise.stochastic_depth(x, keys(), 0.5)).reshape(ROWS, -1)
  assert (dropped.std(1) > 0).any() and not (skipped.std(1) > 0).any()


def test_a_rate_may_be_traced():
  x = jnp.ones((ROWS, 2), jnp.bfloat16)
  found = jax.jit(noise.stochastic_depth)(x, keys(), jnp.float32(0.0))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize(
    ("rate", "stay"), [(0.0, 10), (0.25, 8), (0.5, 5), (0.99, 1)]
)
def test_as_many_tokens_stay_as_said_in_their_order(rate, stay):
  x = jnp.broadcast_to(jnp.arange(10.0).reshape(1, 10, 1), (ROWS, 10, 1))
  found = noise.drop_tokens(x, keys(), rate)
  assert found.shape == (ROWS, stay, 1)
  assert (np.diff(found[..., 0], axis=1) > 0).all()  # once each, in order
  # Every token has its turn: a place is missed by chance once in 1e10.
  assert set(np.unique(found)) == set(range(10))


def test_folding_gives_new_keys_by_number():
  bits = [
      np.asarray(jax.random.key_data(noise.fold(keys(rows=2), n))).tobytes()
      for n in (0, 0, 1)
  ]
  assert bits[0] == bits[1] != bits[2]

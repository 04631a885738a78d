"""Pooling against a loop over the real tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import pooling

MASK = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)


@pytest.fixture
def tokens():
  return np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)


def test_mean_is_over_real_tokens(tokens):
  want = [
      row[mask].astype(np.float64).mean(0) if mask.any() else np.zeros(3)
      for row, mask in zip(tokens, MASK, strict=True)
  ]
  found = pooling.mean(jnp.asarray(tokens), jnp.asarray(MASK))
  np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-7)  # four terms


def test_mean_without_a_mask_is_over_all(tokens):
  found = pooling.mean(jnp.asarray(tokens))
  np.testing.assert_allclose(found, tokens.mean(1), rtol=1e-6, atol=1e-7)


def test_mean_does_not_let_nan_through_the_mask(tokens):
  tokens = jnp.where(MASK[..., None], tokens, jnp.nan)
  assert np.isfinite(pooling.mean(tokens, jnp.asarray(MASK))).all()


def test_mean_of_bfloat16_sums_in_float32():
  # In bfloat16 the sum sticks at 256: 256 + 1 rounds back.
  found = pooling.mean(jnp.ones((1, 512, 1), jnp.bfloat16))
  assert found.dtype == jnp.float32 and float(found[0, 0]) == 1.0


def test_last_is_the_last_real_token_or_else_the_first(tokens):
  found = pooling.last(jnp.asarray(tokens), jnp.asarray(MASK))
  want = tokens[np.arange(4), [1, 2, 0, 3]]
  np.testing.assert_array_equal(found, want)
  np.testing.assert_array_equal(
      pooling.last(jnp.asarray(tokens)), tokens[:, -1]
  )

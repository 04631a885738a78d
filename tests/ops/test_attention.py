"""Attention against the equation, one query at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import attention


def oracle(query, key, value, mask, bias):
  """The equation in float64, one query of one head at a time."""
  b, n, k, d = query.shape
  z = np.zeros((b, n, k, d))
  for row, head, i in np.ndindex(b, k, n):
    seen = [m for m in range(key.shape[1]) if mask[row, i, m]]
    if not seen:
      continue
    logits = np.array([
        query[row, i, head] @ key[row, m, head] / np.sqrt(d)
        + bias[head, i, m]
        for m in seen
    ])
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    z[row, i, head] = sum(
        w * value[row, m, head] for w, m in zip(weights, seen, strict=True)
    )
  return z


@pytest.fixture
def drawn():
  draw = np.random.default_rng(0)
  query = draw.normal(size=(2, 3, 2, 4))
  key, value = draw.normal(size=(2, 2, 5, 2, 4))
  mask = draw.random((2, 3, 5)) < 0.6
  mask[1, 2] = False  # a query that sees nothing
  return query, key, value, mask, draw.normal(size=(2, 3, 5))


def test_attention_is_the_equation(drawn, double):
  query, key, value, mask, bias = (jnp.asarray(x) for x in drawn)
  found = attention.attend(query, key, value, mask=mask, bias=bias[None])
  assert found.dtype == jnp.float64
  # float64, sums of five terms.
  np.testing.assert_allclose(found, oracle(*drawn), rtol=1e-12, atol=1e-12)


def test_no_mask_sees_all(drawn):
  query, key, value, _, _ = (jnp.asarray(x, jnp.float32) for x in drawn)
  want = oracle(*drawn[:3], np.ones((2, 3, 5), bool), np.zeros((2, 3, 5)))
  found = attention.attend(query, key, value)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)  # float32


def test_a_mask_may_be_shared_by_queries_and_rows(drawn):
  query, key, value, mask, _ = drawn
  query, key, value = (jnp.asarray(x, jnp.float32) for x in (query, key, value))
  shared = np.broadcast_to(mask[:1, :1], mask.shape)
  found = attention.attend(query, key, value, mask=jnp.asarray(mask[:1, :1]))
  want = attention.attend(query, key, value, mask=jnp.asarray(shared))
  np.testing.assert_array_equal(found, want)


def test_a_query_that_sees_nothing_gets_zeros_and_a_finite_gradient(drawn):
  query, key, value, mask, _ = drawn
  mask = jnp.asarray(mask)

  def total(query, key, value):
    return jnp.square(attention.attend(query, key, value, mask=mask)).sum()

  arrays = [jnp.asarray(x, jnp.float32) for x in (query, key, value)]
  assert not np.any(attention.attend(*arrays, mask=mask)[1, 2])
  for gradient in jax.grad(total, (0, 1, 2))(*arrays):
    assert np.isfinite(gradient).all()


def test_bfloat16_keeps_its_logits_and_softmax_in_float32():
  # Logits 256 and 257 are the same number in bfloat16, whose softmax would
  # be a half; in float32 it is sigmoid(1).
  query = jnp.full((1, 1, 1, 4), 16.0, jnp.bfloat16)
  key = jnp.full((1, 2, 1, 4), 8.0).at[0, 1, 0, :2].set(8.0625)
  value = jnp.array([0.0, 1.0]).reshape(1, 2, 1, 1) * jnp.ones((1, 2, 1, 4))
  found = attention.attend(
      query, key.astype(jnp.bfloat16), value.astype(jnp.bfloat16)
  )
  assert found.dtype == jnp.bfloat16
  want = 1 / (1 + np.exp(-1.0))
  np.testing.assert_allclose(
      found.astype(jnp.float32), want, rtol=8e-3  # one rounding to bfloat16
  )

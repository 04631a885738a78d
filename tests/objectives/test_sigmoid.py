"""The sigmoid loss against double loops, at any tile."""

import math

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.objectives import sigmoid

ROWS = 13  # which no tile but 1 and 13 divides


def oracle(x, y, t, c, same=None):
  """The equation, pair by pair, in float64."""
  x, y = (np.asarray(z, np.float64) for z in (x, y))
  x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
  total = 0.0
  for i in range(len(x)):
    for j in range(len(y)):
      match = i == j or (same is not None and np.array_equal(same[i], same[j]))
      z = 1 if match else -1
      total += np.logaddexp(0, -z * (t * float(x[i] @ y[j]) + c))
  return total / len(x)


def measure(settings, z):
  """(value, gradients by parameters, metrics)."""
  objective = sigmoid.sigmoid(**settings)
  params, memory = checks.begin(objective, z)
  (value, (_, metrics)), grads = checks.jit(
      jax.value_and_grad(objective.apply, has_aux=True)
  )(params, memory, z, None)
  return value, grads, metrics


@pytest.mark.parametrize(
    ("same", "tile"),
    [(None, 4), ("label", 4), ("caption_id", 4), ("caption_id", 64)],
)
def test_value_is_that_of_a_double_loop(double, same, tile):
  z = checks.embedded(rows=ROWS, dtype=np.float64)
  value, grads, metrics = measure(
      dict(scale=7.0, bias=-2.0, same=same, tile=tile), z
  )
  x, y = z.views["image"].pooled, z.views["text"].pooled
  groups = None if same is None else np.asarray(z.side[same])
  t = float(metrics["scale"])
  # The scale was rounded once, to the float32 of its logarithm.
  np.testing.assert_allclose(t, 7.0, rtol=1e-6)
  assert metrics["bias"] == -2.0
  np.testing.assert_allclose(value, oracle(x, y, t, -2.0, groups), rtol=1e-12)
  up, down = (oracle(x, y, t, -2.0 + step, groups) for step in (1e-5, -1e-5))
  # Central differences err by step^2.
  np.testing.assert_allclose(grads["bias"], (up - down) / 2e-5, atol=1e-9)


def test_the_oracle_depends_on_each_field():
  z = checks.embedded(rows=ROWS)
  x, y = z.views["image"].pooled, z.views["text"].pooled
  found = {
      oracle(x, y, 7.0, -2.0, same)
      for same in (None, *(np.asarray(leaf) for leaf in z.side.values()))
  }
  assert len(found) == 1 + len(z.side)


def test_a_bias_of_minus_log_b_balances_the_loss_of_random_embeddings():
  # At scale 0+: b - 1 negatives at softplus(-log b), one positive at log b.
  rows = 64
  value, _, _ = measure(
      dict(scale=1e-6, bias=-math.log(rows)), checks.embedded(rows=rows)
  )
  expected = (rows - 1) * math.log1p(1 / rows) + math.log(rows + 1)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_perfect_alignment_ends_at_zero():
  one = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
  value, _, _ = measure(
      dict(scale=100.0, bias=-50.0),
      checks.embedded(rows=6, image=one, text=one),
  )
  assert 0 <= value < 1e-6


def test_swapping_the_views_changes_nothing():
  z = checks.embedded()
  # The same terms in another order: logits of 6, sums of 12 over 12 rows.
  np.testing.assert_allclose(
      measure(dict(views=("text", "image")), z)[0], measure({}, z)[0],
      rtol=checks.rounding(30),
  )


def test_its_logits_are_those_of_its_loss():
  objective = sigmoid.sigmoid(scale=4.0, bias=-3.0)
  params, _ = objective.init(jax.random.key(0), None)
  logits = objective.logits(params)
  np.testing.assert_allclose(logits, (4.0, -3.0), rtol=1e-6)


def test_the_length_of_an_embedding_means_nothing():
  z = checks.embedded()
  lengths = np.geomspace(1e-12, 1e12, checks.ROWS)[:, None]
  long = checks.embedded(text=np.asarray(z.views["text"].pooled) * lengths)
  # Another rounding of each entry, and 6 terms a logit.
  np.testing.assert_allclose(
      measure({}, long)[0], measure({}, z)[0], rtol=checks.rounding(30)
  )


@pytest.mark.parametrize("rows", [5, 6, 7, 9])
def test_tiles_that_overlap_see_each_pair_once(rows):
  # Rows that agree lie in the overlap of the last two tiles.
  z = checks.embedded(rows=rows)
  z = z._replace(side={"label": jnp.zeros(rows, jnp.int32)})
  whole, broken = (
      measure(dict(same="label", tile=tile), z) for tile in (64, 4)
  )
  # Up to 81 pairs in another order.
  limit = checks.rounding(81)
  np.testing.assert_allclose(broken[0], whole[0], rtol=limit)
  np.testing.assert_allclose(broken[1]["bias"], whole[1]["bias"], rtol=limit)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_that_is_not_positive_is_refused_in_words(scale):
  with pytest.raises(ValueError, match="takes a positive scale"):
    sigmoid.sigmoid(scale=scale)

"""Symmetric InfoNCE against double loops, at any tile, and at its limits."""

import math

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import types
from basic.objectives import softmax

ROWS = 13  # which no tile but 1 and 13 divides


def oracle(x, y, t, smoothing=0.0, same=None):
  """(rows, columns) by the equation, pair by pair, in float64."""
  x, y = (np.asarray(z, np.float64) for z in (x, y))
  x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
  halves = []
  for a, b in ((x, y), (y, x)):
    total = 0.0
    for i in range(len(a)):
      seen = [
          j for j in range(len(b))
          if j == i or same is None or not np.array_equal(same[i], same[j])
      ]
      logits = {j: t * float(a[i] @ b[j]) for j in seen}
      lse = np.logaddexp.reduce(list(logits.values()))
      mean = sum(logits.values()) / len(logits)
      total += lse - (1 - smoothing) * logits[i] - smoothing * mean
    halves.append(total / len(a))
  return halves


def measure(settings, z, log_scale=None):
  """(value, gradients by parameters, metrics)."""
  objective = softmax.softmax(**settings)
  params, memory = checks.begin(objective, z)
  if log_scale is not None:
    params = {"log_scale": jnp.asarray(log_scale, params["log_scale"].dtype)}
  (value, (_, metrics)), grads = checks.jit(
      jax.value_and_grad(objective.apply, has_aux=True)
  )(params, memory, z, None)
  return value, grads, metrics


@pytest.mark.parametrize(
    ("smoothing", "distinct", "tile"),
    [
        (0.0, None, 4), (0.0, "label", 4), (0.1, None, 64),
        (0.1, "label", 64), (0.1, "caption_id", 4),
    ],
)
def test_value_is_that_of_a_double_loop(double, smoothing, distinct, tile):
  z = checks.embedded(rows=ROWS, dtype=np.float64)
  settings = dict(
      scale=7.0, smoothing=smoothing, distinct=distinct, tile=tile
  )
  value, _, metrics = measure(settings, z)
  t = float(metrics["scale"])
  # The scale was rounded once, to the float32 of its logarithm.
  np.testing.assert_allclose(t, 7.0, rtol=1e-6)
  same = None if distinct is None else np.asarray(z.side[distinct])
  rows, columns = oracle(
      z.views["image"].pooled, z.views["text"].pooled, t, smoothing, same
  )
  # float64, 169 pairs in another order.
  np.testing.assert_allclose(metrics["rows"], rows, rtol=1e-12)
  np.testing.assert_allclose(metrics["columns"], columns, rtol=1e-12)
  np.testing.assert_allclose(value, (rows + columns) / 2, rtol=1e-12)


def test_the_oracle_sees_what_each_setting_does(double):
  z = checks.embedded(rows=ROWS)
  x, y = z.views["image"].pooled, z.views["text"].pooled
  same = np.asarray(z.side["caption_id"])
  found = {
      sum(oracle(x, y, 7.0, e, s)) for e in (0.0, 0.1) for s in (None, same)
  }
  assert len(found) == 4


def test_duplicates_are_neither_negatives_nor_targets(double):
  # All rows agree: each sees itself alone, and there is nothing to learn.
  z = checks.embedded(rows=ROWS, dtype=np.float64)
  z = z._replace(side={"label": jnp.zeros(ROWS, jnp.int32)})
  value, grads, _ = measure(
      dict(smoothing=0.2, distinct="label", tile=4), z
  )
  np.testing.assert_allclose(value, 0, atol=1e-12)
  np.testing.assert_allclose(grads["log_scale"], 0, atol=1e-12)


def test_random_embeddings_start_at_the_logarithm_of_the_batch():
  z = checks.embedded(rows=64)
  value, _, _ = measure(dict(scale=1e-3), z)
  np.testing.assert_allclose(value, math.log(64), atol=1e-3)


def test_perfect_alignment_ends_at_zero():
  one = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
  value, _, _ = measure(
      dict(scale=100.0), checks.embedded(rows=6, image=one, text=one)
  )
  # Two ways to one logit, of 100: unit vectors and their product, 6 terms each.
  assert abs(value) < checks.rounding(3 * 6, size=100)


def test_swapping_views_swaps_rows_and_columns():
  z = checks.embedded()
  value, _, metrics = measure({}, z)
  swapped, _, other = measure(dict(views=("text", "image")), z)
  # The same terms in another order: logits of 6, sums of 12 over 12 rows.
  limit = checks.rounding(30, size=metrics["scale"])
  np.testing.assert_allclose(swapped, value, atol=limit)
  np.testing.assert_allclose(other["rows"], metrics["columns"], atol=limit)
  np.testing.assert_allclose(other["columns"], metrics["rows"], atol=limit)
  assert abs(metrics["rows"] - metrics["columns"]) > 1e-3


def test_the_length_of_an_embedding_means_nothing():
  z = checks.embedded()
  lengths = np.geomspace(1e-12, 1e12, checks.ROWS)[:, None]
  long = checks.embedded(image=np.asarray(z.views["image"].pooled) * lengths)
  # Another rounding of each entry, and 6 terms a logit.
  np.testing.assert_allclose(
      measure({}, long)[0], measure({}, z)[0], rtol=checks.rounding(30)
  )


def test_the_scale_stops_at_its_ceiling_and_can_come_down():
  z = checks.embedded()
  at, above = (
      measure(dict(scale=20.0, max_scale=20.0), z, math.log(t))
      for t in (20.0, 500.0)
  )
  # exp(log 20) in float32.
  np.testing.assert_allclose(above[2]["scale"], 20.0, rtol=1e-6)
  np.testing.assert_allclose(above[0], at[0], rtol=checks.rounding(30))
  # Of random pairs, a smaller scale loses less: descent goes down.
  assert above[1]["log_scale"] > 0.1
  # Of aligned pairs, a larger one would; the ceiling drops that.
  aligned = checks.embedded(text=np.asarray(z.views["image"].pooled))
  below = measure(dict(scale=5.0, max_scale=20.0), aligned)
  held = measure(dict(scale=5.0, max_scale=20.0), aligned, math.log(20.0))
  assert below[1]["log_scale"] < 0
  assert held[1]["log_scale"] == 0


@pytest.mark.parametrize("settings, sentence", [
    (dict(scale=0.0), r"scale is 0.0 .* takes 0 < scale <= max_scale"),
    (dict(scale=200.0), r"scale is 200.0 and max_scale 100.0"),
    (dict(smoothing=1.0), r"smoothing is 1.0; softmax\(\) takes \[0, 1\)"),
    (dict(smoothing=-0.1), r"smoothing is -0.1"),
])
def test_settings_out_of_range_are_refused_in_words(settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    softmax.softmax(**settings)


def test_its_logits_are_those_of_its_loss_above_the_ceiling_too():
  objective = softmax.softmax(scale=5.0, max_scale=20.0)
  for log_scale, expected in ((math.log(5.0), 5.0), (math.log(50.0), 20.0)):
    params = {"log_scale": jnp.float32(log_scale)}
    logits = objective.logits(params)
    _, (_, metrics) = objective.apply(params, (), checks.embedded(), None)
    assert logits.scale == metrics["scale"] and logits.bias == 0
    np.testing.assert_allclose(logits.scale, expected, rtol=1e-6)


def test_65536_unnormalised_rows_need_less_than_a_gibibyte():
  # Dense needs 64 GiB. Unit vectors of both sides and their gradients: 0.5.
  objective = softmax.softmax()
  params, memory = objective.init(jax.random.key(0), None)
  z = jax.ShapeDtypeStruct((65_536, 512), jnp.float32)

  def loss(params, x, y):
    views = {"image": types.Features(x), "text": types.Features(y)}
    return objective.apply(params, memory, types.Embedded(views, {}), None)[0]

  compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(
      params, z, z
  ).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 0.8 * 2**30

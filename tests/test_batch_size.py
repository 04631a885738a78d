"""The measured gap between batches and population is what its equation says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import normalize
from basic.ops.pairwise import similarity
from benchmarks import batch_size


@pytest.fixture(scope="module")
def gaps():
  return batch_size.measure(
      pairs=(256,), sizes=(16, 64, 512), seeds=2, examples=1024, fresh=512)


def planted(power, offset=0.0):
  """Gaps that follow a law exactly, the seeds apart by a factor."""
  m, size, seed = np.meshgrid((100, 1600), (16, 64, 256), (0, 1), indexing="ij")
  table = (2.0 + seed) * m**-0.5 + (offset - 3.0 - seed) * size**-power
  return batch_size.Gaps((100, 1600), (16, 64, 256), table, -table, table)


def test_losses_are_those_of_a_double_loop_in_float64():
  rng = np.random.default_rng(0)
  towers = rng.normal(size=(2, batch_size.SEEN, batch_size.WIDTH))
  pairs = rng.normal(size=(2, 12, batch_size.SEEN))
  u, v = (each @ tower for each, tower in zip(pairs, towers, strict=True))
  u, v = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (u, v))
  included, excluded = [], []
  for begin in (0, 4, 8):
    for i in range(begin, begin + 4):
      for a, b in ((u, v), (v, u)):
        scores = [batch_size.SCALE * a[i] @ b[j] for j in range(begin, begin + 4)]
        match = scores[i - begin]
        others = np.exp(np.delete(scores, i - begin))
        included.append(np.log(np.mean(np.exp(scores))) - match)
        excluded.append(np.log(np.mean(others)) - match)
  found = batch_size.losses(jnp.asarray(towers), jnp.asarray(pairs), 4)
  np.testing.assert_allclose(
      found, (np.mean(included), np.mean(excluded)), rtol=2e-5)


def test_noise_falls_with_the_root_of_the_batch_and_bias_with_the_batch():
  # One anchor of 8 dimensions at temperature 0.3, and other negatives each time.
  sizes, draws = (16, 32, 64, 128), 8192

  @functools.partial(jax.jit, static_argnums=0)
  def sums(size):
    y = normalize.unit(jax.random.normal(jax.random.key(size), (draws, size, 8)))
    x = jnp.eye(8)[:1]
    return jax.lax.map(lambda y: similarity.lse(x, y, 1 / 0.3)[0][0], y)

  found = np.array([np.asarray(sums(n)) - np.log(n) for n in sizes])
  noise = np.polyfit(np.log(sizes), np.log(found.std(1)), 1)[0]
  assert noise == pytest.approx(-0.5, abs=0.05)
  # The mean approaches its limit from below: differences halve with each B.
  steps = np.diff(found.mean(1))
  bias = np.polyfit(np.log(sizes[1:]), np.log(steps), 1)[0]
  # Means of 8,192 draws are 0.0005 apart by chance; the steps are 0.008 to 0.03.
  assert bias == pytest.approx(-1.0, abs=0.2)


def test_both_views_see_the_same_latent():
  mixing = jax.random.normal(jax.random.key(0), (2, 8, 16))
  pairs = np.asarray(batch_size.sample(mixing, jax.random.key(1), 4000))
  expected = np.asarray(mixing[0].T @ mixing[1])
  found = pairs[0].T @ pairs[1] / 4000
  # Entries of 4,000 products of variance about 64: 0.13 apart, and 256 of them.
  assert np.abs(found - expected).max() < 1.0
  assert np.abs(expected).max() > 5.0


def test_batches_larger_than_the_data_are_left_out(gaps):
  assert np.isnan(gaps.included[0, 2]).all()
  assert not np.isnan(gaps.included[0, :2]).any()
  assert "nan" in batch_size.report(gaps)


def test_small_batches_estimate_the_sum_over_negatives_too_low(gaps):
  of_16, of_64, _ = gaps.excluded[0].mean(-1)
  assert of_16 > of_64


@pytest.mark.parametrize("power", [0.5, 1.0, 1.4])
def test_a_planted_rate_is_found(power):
  fit = batch_size.fit(planted(power), "included", resamples=50)
  assert fit.p == pytest.approx((power, power, power))
  assert fit.a[0] == pytest.approx(2.5) and fit.b[0] == pytest.approx(-3.5)
  assert fit.b[1] == pytest.approx(-4) and fit.b[2] == pytest.approx(-3)
  assert fit.left < 1e-12


def test_another_rate_than_the_planted_one_leaves_something():
  gaps = planted(1.0)
  assert batch_size.fit(gaps, "included", 0.5, 10).left > 1e-3
  assert batch_size.fit(gaps, "included", 1.0, 10).left < 1e-12


def test_a_gap_that_grows_again_does_not_fall():
  table = np.array([[[0.3], [-0.2], [0.1]], [[0.3], [-0.1], [0.2]]])
  gaps = batch_size.Gaps((1, 2), (16, 32, 64), table, table, table)
  assert batch_size.falls(gaps, "included") == [True, False]

"""Measures of embeddings against double loops over the equations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import geometry

N, D = 23, 6


def vectors(seed, n=N, d=D):
  x = np.random.default_rng(seed).normal(size=(n, d)) + 0.3
  return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def pair(double):
  del double
  return jnp.asarray(vectors(0)), jnp.asarray(vectors(1))


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_is_the_mean_power_of_distances(pair, alpha):
  x, y = pair
  expected = np.mean([math.dist(a, b) ** alpha for a, b in zip(x, y, strict=True)])
  assert float(geometry.alignment(x, y, alpha)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("block", [1, 5, 23, 64])
@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_is_the_log_of_the_mean_over_pairs(pair, t, block):
  x, _ = pair
  pairs = [
      math.exp(-t * math.dist(x[i], x[j]) ** 2) for i in range(N) for j in range(i)
  ]
  found = geometry.uniformity(x, t, block=block)
  assert float(found) == pytest.approx(math.log(np.mean(pairs)), rel=1e-12)


def test_uniformity_of_equal_and_of_independent_vectors_is_known():
  assert float(geometry.uniformity(jnp.ones((5, 4)) / 2)) == pytest.approx(0, abs=1e-6)
  many = jnp.asarray(vectors(2, 600, 400) - 0.3 / 20, jnp.float32)
  many = many / jnp.linalg.norm(many, axis=1, keepdims=True)
  assert float(geometry.uniformity(many, block=256)) == pytest.approx(-4, abs=0.1)


def test_uniformity_does_not_count_a_vector_with_itself():
  # Of two opposite vectors there is one pair, at distance 2.
  x = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
  assert float(geometry.uniformity(x, 2.0)) == pytest.approx(-8, abs=1e-5)
  assert np.isnan(geometry.uniformity(x[:1], 2.0))


def test_tolerance_is_the_mean_cosine_within_classes(pair):
  x, _ = pair
  labels = np.random.default_rng(3).integers(0, 5, N)
  same = [
      float(x[i] @ x[j]) for i in range(N) for j in range(N)
      if i != j and labels[i] == labels[j]
  ]
  found = geometry.tolerance(x, jnp.asarray(labels), 5)
  assert float(found) == pytest.approx(np.mean(same), rel=1e-12)


@pytest.mark.parametrize("block", [4, 7, 100])
def test_effective_rank_is_the_exponential_of_an_entropy(pair, block):
  x, _ = pair
  s = np.linalg.svd(np.asarray(x), compute_uv=False)
  p = [value / sum(s) for value in s]
  expected = math.exp(-sum(each * math.log(each) for each in p))
  found = geometry.effective_rank(x, block=block)
  assert float(found) == pytest.approx(expected, rel=1e-10)


def test_effective_rank_of_known_matrices():
  assert float(geometry.effective_rank(jnp.eye(5))) == pytest.approx(5, rel=1e-5)
  one = jnp.outer(jnp.arange(1.0, 200.0), jnp.arange(1.0, 65.0))
  assert float(geometry.effective_rank(one)) == pytest.approx(1, abs=1e-3)
  assert float(geometry.effective_rank(one, block=50)) == pytest.approx(1, abs=1e-3)
  assert float(geometry.effective_rank(jnp.zeros((4, 3)))) == 1


def test_the_gap_is_the_distance_of_the_means(pair):
  x, y = pair
  expected = math.dist(np.mean(x, axis=0), np.mean(y[:9], axis=0))
  assert float(geometry.modality_gap(x, y[:9])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("block", [1, 6, 23, 64])
def test_margins_leave_out_the_group_of_the_row(pair, block):
  x, y = pair
  groups = np.random.default_rng(4).integers(0, 9, N)
  expected = [
      float(x[i] @ y[i]) - max(
          float(x[i] @ y[j]) for j in range(N) if groups[j] != groups[i])
      for i in range(N)
  ]
  found = geometry.margins(x, y, jnp.asarray(groups, jnp.int32), block=block)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_row_without_negatives_has_an_infinite_margin():
  x = jnp.eye(3)
  assert np.isinf(geometry.margins(x, x, jnp.zeros(3, jnp.int32))).all()


def test_norms_are_those_of_the_rows():
  mean, deviation = geometry.norms(jnp.array([[3.0, 4.0], [0.0, 1.0]]))
  assert (float(mean), float(deviation)) == (3, 2)


def test_memory_grows_with_rows_and_not_with_pairs():
  x = jax.ShapeDtypeStruct((100_000, 64), jnp.float32)
  groups = jax.ShapeDtypeStruct((100_000,), jnp.int32)
  for compiled in (
      geometry.uniformity.lower(x).compile(),
      geometry.margins.lower(x, x, groups).compile(),
  ):
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20

"""Blocked ranks and nearest items against a dense double loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import ranking


def oracle(x, y, query_group, item_group):
  """Sorts the items of each query and finds its first positive."""
  found = []
  for vector, group in zip(x, query_group, strict=True):
    scores = [float(np.dot(vector, item)) for item in y]
    order = sorted(range(len(y)), key=lambda j, s=scores: (-s[j], j))
    hits = [r for r, j in enumerate(order) if item_group[j] == group]
    found.append(hits[0] if hits else len(y))
  return np.array(found)


def integers(seed, queries, items, width, groups):
  """Small whole numbers: every score is exact, and many are equal."""
  rng = np.random.default_rng(seed)
  return (
      rng.integers(-2, 3, (queries, width)).astype(np.float32),
      rng.integers(-2, 3, (items, width)).astype(np.float32),
      rng.integers(0, groups, queries),
      rng.integers(0, groups, items),
  )


def ranks(x, y, query_group, item_group, **kwargs):
  return np.asarray(ranking.ranks(
      jnp.asarray(x), jnp.asarray(y),
      jnp.asarray(query_group, jnp.int32), jnp.asarray(item_group, jnp.int32),
      **kwargs,
  ))


@pytest.mark.parametrize("block", [1, 4, 7, 64])
@pytest.mark.parametrize("width", [1, 6])
def test_ranks_equal_a_sort_with_many_ties(block, width):
  case = integers(width, queries=11, items=18, width=width, groups=9)
  expected = oracle(*case)
  assert len(np.unique(expected)) > 4  # hits, misses, and ranks between
  np.testing.assert_array_equal(ranks(*case, block=block), expected)


def test_equal_scores_rank_by_index():
  x, y = np.ones((4, 2)), np.ones((4, 2))
  numbers = np.arange(4)
  np.testing.assert_array_equal(ranks(x, y, numbers, numbers, block=3), numbers)


def test_padding_is_no_item():
  # Every score is negative, so that a row of zeros would come first; group 0
  # is that of the padding.
  x, y = np.ones((3, 1)), -np.ones((5, 1))
  found = ranks(x, y, [0, 1, 2], [1, 0, 2, 2, 2], block=4)
  np.testing.assert_array_equal(found, [1, 0, 2])


def test_query_without_positive_ranks_after_every_item():
  assert ranks(np.ones((1, 1)), np.ones((1, 1)), [1], [0])[0] == 1


def test_not_a_number_is_never_a_hit():
  x = np.array([[np.nan], [1.0], [1.0]])
  y = np.array([[1.0], [np.nan], [0.5]])
  # query 0 scores nothing, query 1 has a NaN positive, query 2 stands below
  # the item of score 1 and the one of score NaN
  np.testing.assert_array_equal(ranks(x, y, [0, 1, 2], [0, 1, 2]), [3, 3, 2])


def test_bfloat16_is_scored_in_float32():
  # The scores are 256 and 256.5; rounded to bfloat16 they would tie, and the
  # positive would come second.
  x = jnp.asarray([[1.0, 1.0]], jnp.bfloat16)
  y = jnp.asarray([[256.0, 0.0], [256.0, 0.5]], jnp.bfloat16)
  found = ranking.ranks(x, y, jnp.array([1]), jnp.array([0, 1]))
  np.testing.assert_array_equal(found, [0])


def test_a_positive_that_is_not_a_number_does_not_spoil_another():
  y = np.array([[3.0], [np.nan], [2.0]])
  np.testing.assert_array_equal(ranks(np.ones((1, 1)), y, [1], [0, 1, 1]), [1])


def test_no_score_matrix_exists():
  rows, width = 8192, 16
  vectors = jax.ShapeDtypeStruct((rows, width), jnp.float32)
  groups = jax.ShapeDtypeStruct((rows,), jnp.int32)
  matrix = rows * rows * 4
  compiled = ranking.ranks.lower(
      vectors, vectors, groups, groups, block=256
  ).compile()
  # tiles of 256 x 256 and copies of the rows: a few MiB instead of 256
  assert compiled.memory_analysis().temp_size_in_bytes < matrix / 50

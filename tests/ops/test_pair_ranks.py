"""Ranks of matched pairs against a double loop, on one device and on meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from basic.ops import pair_ranks as module


def before(other, other_index, score, index):
  """Whether another score comes before a score, from the stated order."""
  if np.isnan(other) or other > score:
    return True
  return other == score and other_index < index


def oracle(x, y, owner, kind):
  """(of item, of query, of item in its kind), by double loop."""
  n, m = len(x), len(y)
  found = []
  with np.errstate(invalid="ignore"):
    s = np.array([[np.dot(a, b) for b in y] for a in x])
  for j, o in enumerate(owner):
    t = s[o, j]
    if np.isnan(t):
      found.append((m, n, m))
      continue
    items = [
        l for l in range(m) if l != j and before(s[o, l], l, t, j)
        and not (owner[l] == o and np.isnan(s[o, l]))
    ]
    rows = [i for i in range(n) if i != o and before(s[i, j], i, t, o)]
    found.append((len(items), len(rows), sum(kind[l] == kind[j] for l in items)))
  return np.array(found).T


def integers(n, owner, width=3, seed=0):
  """Small whole numbers: every score is exact, and many are equal."""
  rng = np.random.default_rng(seed)
  return (
      rng.integers(-2, 3, (n, width)).astype(np.float32),
      rng.integers(-2, 3, (len(owner), width)).astype(np.float32),
  )


# No item, one item or many; in order, and in none; the last query has none.
SORTED = np.repeat(np.arange(10), [1, 3, 0, 7, 1, 0, 2, 2, 1, 0])
MIXED = np.random.default_rng(3).permutation(SORTED)
KIND = np.arange(17) % 3


def check(x, y, owner, block):
  found = module.pair_ranks(x, y, owner, kind=KIND, block=block)
  np.testing.assert_array_equal(found, oracle(x, y, owner, KIND))
  alone = module.pair_ranks(x, y, owner, block=block)
  np.testing.assert_array_equal(alone.of_item, alone.of_item_in_kind)
  np.testing.assert_array_equal(alone[:2], found[:2])


@pytest.mark.parametrize("owner", [SORTED, MIXED], ids=["sorted", "mixed"])
@pytest.mark.parametrize("block", [1, 4, 7, 64])
def test_ranks_equal_a_double_loop_with_many_ties(owner, block):
  x, y = integers(10, owner)
  assert len(np.unique(x @ y.T)) < 20  # of 170
  check(x, y, owner, block)


@pytest.mark.parametrize("block", [3, 64])
def test_what_is_not_a_number_is_before_all_others_and_never_a_hit(block):
  x, y = integers(10, SORTED)
  x[6] = np.nan
  y[[2, 5, 9]] = np.nan
  found = module.pair_ranks(x, y, SORTED, kind=KIND, block=block)
  assert found.of_item[2] == 17 and found.of_query[2] == 10
  check(x, y, SORTED, block)


@pytest.mark.parametrize("devices", [3, 4])
def test_ranks_are_the_same_on_a_mesh(devices):
  x, y = integers(10, MIXED)
  y[4] = np.nan
  mesh = jax.make_mesh(
      (devices, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2,
      devices=jax.devices()[:devices],
  )
  with jax.set_mesh(mesh):
    check(x, y, MIXED, 2)


def test_copies_of_a_vector_tie_wherever_they_lie():
  # Not whole numbers: sums are rounded, and must be so in the same way.
  rng = np.random.default_rng(0)
  distinct = rng.normal(size=(5, 48)).astype(np.float32)
  owner = np.arange(35)
  y = np.tile(distinct, (7, 1))
  x = np.tile(rng.normal(size=(5, 48)).astype(np.float32), (7, 1))
  found = module.pair_ranks(x, y, owner, block=16)
  np.testing.assert_array_equal(found.of_item % 7, owner // 5)
  np.testing.assert_array_equal(found.of_query % 7, owner // 5)


def test_an_embedding_that_is_one_for_all_ranks_by_index():
  ones = np.ones((6, 2), np.float32)
  found = module.pair_ranks(ones, ones, np.arange(6), block=4)
  np.testing.assert_array_equal(found.of_item, np.arange(6))
  np.testing.assert_array_equal(found.of_query, np.arange(6))


@functools.cache
def memory(queries, items):
  """Bytes of temporaries of the compiled count."""
  def shape(*of, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(of, dtype)

  integer = functools.partial(shape, dtype=jnp.int32)
  pairs = module._Pairs(integer(items), integer(items), integer(queries + 1), None)
  return module._pair_ranks.lower(
      shape(queries, 16), shape(items, 16), pairs, slots=5, block=128
  ).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_some_vectors_of_the_items_and_one_block():
  few, many = memory(1024, 4096), memory(65_536, 1_048_576)
  assert few < 1024 * 4096 * 4 / 8
  # Counts and scores: at most 16 numbers of four bytes an item.
  assert many - few <= 64 * (1_048_576 - 4096)
  assert memory(1_048_576, 4096) == few


@pytest.mark.parametrize("owner, block, found", [
    ([], None, "0 items"), ([0, 2], None, r"\[0, 2\]"), ([-1, 0], None, "-1"),
    ([0, 1], 0, "block is 0"),
])
def test_what_cannot_be_ranked_is_refused(owner, block, found):
  owner = np.array(owner, int)
  with pytest.raises(ValueError, match=found):
    module.pair_ranks(np.ones((2, 2)), np.ones((len(owner), 2)), owner, block=block)

"""The nearest items against a sort of all of them, on one device and on meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from basic.ops import nearest


def oracle(x, y, k):
  """Sorts all items of each query: NaN last, then by score, then by index."""
  indices = []
  for query in x:
    scores = [float(np.dot(query, item)) for item in y]
    order = sorted(
        range(len(y)), key=lambda j, s=scores: (np.isnan(s[j]), -s[j], j)
        if not np.isnan(s[j]) else (True, 0.0, j)
    )
    indices.append(order[:k])
  return np.array(indices)


def integers(queries, items, width=3, seed=0):
  """Small whole numbers: every score is exact, and many are equal."""
  rng = np.random.default_rng(seed)
  return (
      rng.integers(-2, 3, (queries, width)).astype(np.float32),
      rng.integers(-2, 3, (items, width)).astype(np.float32),
  )


def check(x, y, k, block):
  scores, indices = map(np.asarray, nearest.top_k(x, y, k, block=block))
  expected = oracle(x, y, k)
  assert indices.dtype == np.int32
  np.testing.assert_array_equal(indices, expected)
  with np.errstate(invalid="ignore"):
    products = x @ y.T
  np.testing.assert_array_equal(
      scores, np.take_along_axis(products, expected, 1)
  )


@pytest.mark.parametrize("k, block", [(1, 1), (5, 4), (19, 7), (4, 64)])
def test_the_nearest_equal_a_sort_with_many_ties(k, block):
  x, y = integers(11, 19)
  assert len(np.unique(x @ y.T)) < 25  # of 209
  check(x, y, k, block)


def test_what_is_not_a_number_comes_last_by_index():
  x, y = integers(5, 9)
  y[[2, 5, 6]] = np.nan
  x[3] = np.nan
  check(x, y, 9, 4)


@pytest.mark.parametrize("devices", [3, 4])
@pytest.mark.parametrize("queries, items, k", [(4, 12, 3), (9, 5, 5), (1, 14, 2)])
def test_a_ring_of_devices_finds_the_same(devices, queries, items, k):
  x, y = integers(queries, items)
  y[1] = np.nan
  mesh = jax.make_mesh(
      (devices, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2,
      devices=jax.devices()[:devices],
  )
  with jax.set_mesh(mesh):
    check(x, y, k, 2)


def test_equal_vectors_tie_wherever_they_lie():
  rng = np.random.default_rng(0)
  x, distinct = rng.normal(size=(9, 48)), rng.normal(size=(30, 48))
  y = np.tile(distinct, (3, 1)).astype(np.float32)
  _, indices = nearest.top_k(x.astype(np.float32), y, 6, block=16)
  first = np.asarray(indices).reshape(9, 2, 3)
  # Each of the two best comes with its copies, in order of their index.
  np.testing.assert_array_equal(first, first[:, :, :1] + np.array([0, 30, 60]))


def test_bfloat16_is_scored_in_float32():
  # 256 and 256.5, which are one number in bfloat16.
  y = jnp.asarray([[256.0, 0.0], [256.0, 0.5]], jnp.bfloat16)
  scores, indices = nearest.top_k(jnp.ones((1, 2), jnp.bfloat16), y, 2)
  np.testing.assert_array_equal(indices, [[1, 0]])
  np.testing.assert_array_equal(scores, [[256.5, 256.0]])


@functools.cache
def memory(rows, items):
  """Bytes of temporaries of the compiled search."""
  shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  search = jax.jit(functools.partial(nearest.top_k, k=10, block=128))
  compiled = search.lower(shape((rows, 16)), shape((items, 16))).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_items():
  few, many = memory(1024, 4096), memory(1024, 1_000_000)
  assert many == few < 1024 * 4096 * 4 / 8


@pytest.mark.parametrize("k, block, found", [
    (0, None, "k is 0 .* 3 items"), (4, None, "k is 4"), (1, 0, "block is 0"),
])
def test_what_cannot_be_found_is_refused(k, block, found):
  with pytest.raises(ValueError, match=found):
    nearest.top_k(jnp.ones((2, 2)), jnp.ones((3, 2)), k, block=block)

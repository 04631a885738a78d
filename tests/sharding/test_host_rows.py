"""Rows on the host: the same values, cut by stride, one chunk at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from basic.sharding import host_rows, layout

SHAPES = {
    "image": ((24, 4, 3, 1), np.uint8),  # 12 bytes a row: words of four
    "odd image": ((24, 5, 3, 1), np.uint8),  # 15 bytes: words of one
    "text": ((24, 7), np.int32),
    "signal": ((24, 2, 3), np.float32),
    "half": ((24, 6), jnp.bfloat16),
    "row of one": ((24,), np.float32),
}


def leaf(name):
  shape, dtype = SHAPES[name]
  rng = np.random.default_rng(0)
  return (300 * rng.normal(size=shape)).astype(dtype)


@pytest.mark.parametrize("name", SHAPES)
def test_a_chunk_has_every_kth_row_bit_for_bit(name):
  rows = leaf(name)
  folded = host_rows.fold(rows, 4)
  assert folded.shape == rows.shape and folded.chunks == 4
  expected = host_rows.like(jax.ShapeDtypeStruct(rows.shape, rows.dtype), 4)
  assert (folded.words.shape, folded.words.dtype) == (
      expected.words.shape, expected.words.dtype
  )
  assert folded.words.nbytes == rows.nbytes
  assert np.shares_memory(folded.words, rows)  # no copy
  placed = dataclasses.replace(folded, words=jnp.asarray(folded.words))
  for c in range(4):
    found = np.asarray(jax.jit(lambda x, c: x.chunk(c))(placed, c))
    assert found.dtype == rows.dtype
    np.testing.assert_array_equal(found, rows[c::4])


def test_values_wider_than_a_word_come_back(double):
  rows = np.random.default_rng(0).normal(size=(8, 3))
  folded = host_rows.fold(rows, 2)
  placed = dataclasses.replace(folded, words=jnp.asarray(folded.words))
  np.testing.assert_array_equal(placed.chunk(jnp.int32(1)), rows[1::2])


def test_values_wider_than_those_of_the_device_are_narrowed():
  rows = np.random.default_rng(0).normal(size=(8, 3))
  folded = host_rows.fold(rows, 2)
  assert folded.dtype == np.float32
  placed = dataclasses.replace(folded, words=jnp.asarray(folded.words))
  np.testing.assert_array_equal(
      placed.chunk(jnp.int32(1)), rows[1::2].astype(np.float32)
  )


def test_only_a_slice_of_the_host_s_rows_is_moved():
  # What a compiler turns into a transfer of the slice; more is computed by the
  # host, or refused.
  mesh = layout.mesh(jax.devices()[:2])
  where = layout.Layout(mesh, waiting={"image": 4})
  placed = where.shard({"image": leaf("image")})["image"]
  assert placed.words.sharding.memory_kind == layout.HOST
  made = jax.make_jaxpr(
      lambda rows: jax.lax.map(rows.chunk, host_rows.numbers(4))
  )(placed)
  touched = {name for name, _ in toys.reading_the_host(made.jaxpr)}
  assert touched == {"scan", "jit", "dynamic_slice", "squeeze", "device_put"}


def test_the_index_of_a_slice_is_read_and_not_computed():
  # See `numbers`: with the barrier gone it would be count - 1 - i.
  text = jax.jit(lambda: host_rows.numbers(4)).lower().as_text()
  assert "optimization_barrier" in text

"""Digests see every changed bit, however the array lies."""

import doctest
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.engine import checksums

Spec = jax.sharding.PartitionSpec


@pytest.fixture
def mesh():
  return jax.make_mesh(
      (4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def place(x, mesh, *axes):
  return jax.device_put(x, jax.NamedSharding(mesh, Spec(*axes)))


def test_a_digest_is_the_crc_of_the_bytes_of_every_piece(mesh):
  x = np.arange(32, dtype=np.float32).reshape(8, 4)
  table = checksums.digest({"x": place(x, mesh, "a", "b")})
  assert json.loads(json.dumps(table)) == table
  assert (table["x"]["shape"], table["x"]["dtype"]) == ([8, 4], "float32")
  pieces = table["x"]["pieces"]
  assert len(pieces) == 8
  for ((top, bottom), (left, right)), value in pieces:
    assert value == zlib.crc32(x[top:bottom, left:right].tobytes())


def test_copies_are_counted_once(mesh):
  table = checksums.digest({"x": place(jnp.ones((8, 4)), mesh, "a")})
  assert len(table["x"]["pieces"]) == 4


@pytest.mark.parametrize("axes", [(), ("a",), (None, "b"), (("a", "b"),)])
def test_another_placement_compares_equal_and_one_ulp_does_not(mesh, axes):
  x = np.linspace(1, 2, 32, dtype=np.float32).reshape(8, 4)
  leaves = {
      "w": place(x, mesh, "a", "b"),
      "half": place(x.astype(jnp.bfloat16), mesh, "a"),
      "n": jnp.int32(3),
      "key": jax.random.key(0),
  }
  table = checksums.digest(leaves)
  moved = {**leaves, "w": place(x, mesh, *axes)}
  assert checksums.compare(moved, table) == ([], 0)
  x[5, 3] = np.nextafter(x[5, 3], 3)
  changed = {**moved, "w": place(x, mesh, *axes), "key": jax.random.key(1)}
  assert checksums.compare(changed, table) == (["w", "key"], 0)


def test_difference_names_paths_of_each_kind(mesh):
  leaves = {p: jnp.ones(2) for p in ("a", "b", "c", "d", "e")}
  table = checksums.digest(leaves)
  assert checksums.difference(table, leaves) == ""
  wanted = {"a": jnp.ones(2), "b": jnp.ones(3), "f": jnp.ones(2)}
  assert checksums.difference(table, wanted) == (
      "only the model has f; only the checkpoint has c, d, e; "
      "they differ in b (float32[2] saved, float32[3] wanted)")
  half = {**leaves, "a": jnp.ones(2, jnp.bfloat16)}
  assert "bfloat16[2] wanted" in checksums.difference(table, half)


def test_a_broken_seal_is_seen():
  sealed = checksums.seal({"examples": 10})
  sealed["content"] = sealed["content"].replace("10", "11")
  with pytest.raises(ValueError, match="has changed"):
    checksums.unseal(sealed)


def test_what_json_cannot_hold_is_refused():
  with pytest.raises(TypeError, match="cannot be saved as JSON"):
    checksums.seal({"examples": np.int64(3)})


def test_examples():
  assert doctest.testmod(checksums).failed == 0

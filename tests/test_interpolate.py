"""The line between two checkpoints, and what is on it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basic import evaluate, interpolate


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


def test_each_parameter_is_mixed_by_the_equation():
  draw = np.random.default_rng(0)
  one, two = draw.normal(size=(2, 3, 4)).astype(np.float32)
  for a in (0.0, 0.3, 1.0):
    found = interpolate.mixed({"w": jnp.asarray(one)}, {"w": jnp.asarray(two)}, a)
    np.testing.assert_allclose(found["w"], (1 - a) * one + a * two, rtol=1e-6)


def test_parameters_of_one_end_alone_follow_the_end():
  start = {"gone": jnp.zeros(2), "other": jnp.zeros(2), "w": jnp.zeros(2)}
  end = {"new": jnp.ones(2), "other": jnp.ones(3), "w": jnp.ones(2)}
  found = interpolate.mixed(start, end, 0.25)
  assert found.keys() == end.keys()
  np.testing.assert_array_equal(found["new"], 1)
  np.testing.assert_array_equal(found["other"], np.ones(3))
  np.testing.assert_array_equal(found["w"], 0.25)


def test_small_types_are_mixed_in_wide_ones():
  one, two = jnp.full(2, 1.0, jnp.bfloat16), jnp.full(2, 1.0078125, jnp.bfloat16)
  # 1.00390625 lies between two bfloat16 and rounds to the even one, 1.
  found = interpolate.mixed({"w": one}, {"w": two}, 0.75)["w"]
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found.astype(np.float32), 1.0078125)


def test_both_ends_are_judged_as_their_checkpoints_are():
  step, found = interpolate.interpolate(tiny.whole(), 10, (0.0, 0.5, 1.0))
  assert step == 12
  assert found[0.0] == evaluate.evaluate(tiny.whole(), 10)[1]
  assert found[1.0] == evaluate.evaluate(tiny.whole(), 12)[1]
  assert found[0.5].keys() == found[0.0].keys()


def test_the_program_prints_one_json_object():
  done = tiny.program(
      "basic.interpolate", "--workdir", tiny.whole(), "--start", 10, "--mix",
      "0,1", "--json",
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert (found["start"], found["step"]) == (10, 12)
  assert found["mix"]["1.0"] == evaluate.evaluate(tiny.whole(), 12)[1]

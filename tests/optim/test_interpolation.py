"""Interpolation between the parameters of two checkpoints."""

import jax.numpy as jnp
import numpy as np
import pytest

from basic.optim import interpolation


def test_each_parameter_is_interpolated_by_the_equation():
  draw = np.random.default_rng(0)
  one, two = draw.normal(size=(2, 3, 4)).astype(np.float32)
  for a in (0.0, 0.3, 1.0):
    found = interpolation.interpolate(
        {"w": jnp.asarray(one)}, {"w": jnp.asarray(two)}, a
    )
    np.testing.assert_allclose(found["w"], (1 - a) * one + a * two, rtol=1e-6)


def test_parameters_that_only_one_side_has_are_those_of_the_end():
  start = {
      "gone": jnp.zeros(2), "objective": {"bias": jnp.zeros(2)},
      "w": jnp.zeros(2),
  }
  end = {
      "new": jnp.ones(2), "objective": {"bias": jnp.ones(3)}, "w": jnp.ones(2)
  }
  found = interpolation.interpolate(start, end, 0.25)
  assert found.keys() == end.keys()
  np.testing.assert_array_equal(found["new"], 1)
  np.testing.assert_array_equal(found["objective"]["bias"], np.ones(3))
  np.testing.assert_array_equal(found["w"], 0.25)


def test_towers_of_other_shapes_are_refused_with_the_list_of_them():
  start = {"image": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(2)}}
  end = {"image": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(2)}}
  with pytest.raises(ValueError, match=r"(?s)cannot be interpolated.*image/kernel: "
                                        r"\[2, 3\] "
                                       r"at the start, \[2, 4\] at the end"):
    interpolation.interpolate(start, end, 0.5)


def test_learned_positions_of_another_size_are_resized_and_mixed():
  start = {"image": {"positions": jnp.full((3, 3, 4), 2.0)}}
  end = {"image": {"positions": jnp.full((4, 4, 4), 6.0)}}
  found = interpolation.interpolate(start, end, 0.25)["image"]["positions"]
  np.testing.assert_allclose(found, np.full((4, 4, 4), 3.0), rtol=1e-6)


def test_bfloat16_is_interpolated_in_float32():
  one, two = jnp.full(2, 1.0, jnp.bfloat16), jnp.full(2, 1.0078125, jnp.bfloat16)
  # 1.00390625 lies between two bfloat16 and rounds to the even one, 1.
  found = interpolation.interpolate({"w": one}, {"w": two}, 0.75)["w"]
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found.astype(np.float32), 1.0078125)

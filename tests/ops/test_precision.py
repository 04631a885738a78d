"""At least float32, and float64 where it was asked for."""

import checks
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import precision


@pytest.mark.parametrize(("dtype", "expected"), [
    ("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32"),
    ("float64", "float64"),
])
def test_narrow_types_are_widened_and_float64_is_kept(double, dtype, expected):
  checks.needs(dtype)
  assert precision.accumulator(jnp.dtype(dtype)) == expected
  x = jnp.asarray([1.5, -2.0], dtype)
  found = precision.at_least_float32(x)
  assert found.dtype == expected
  np.testing.assert_array_equal(found, [1.5, -2.0])


def test_a_sum_of_many_small_terms_does_not_stop_growing():
  # 257 is no bfloat16 number: ones added up in it one by one stay at 256.
  total = jnp.zeros((), jnp.bfloat16)
  wide = precision.at_least_float32(total)
  for _ in range(300):
    total, wide = total + jnp.bfloat16(1), wide + 1
  assert (float(total), float(wide)) == (256, 300)

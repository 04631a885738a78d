"""Schedules against their equations."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.optim import schedules


def oracle(name, step, peak, steps, warmup, end, timescale):
  if step < warmup:
    return peak * step / warmup
  p = min((step - warmup) / (steps - warmup), 1.)
  return peak * {
      "cosine": end + (1 - end) * (1 + np.cos(np.pi * p)) / 2,
      "linear": end + (1 - end) * (1 - p),
      "rsqrt": max(end, np.sqrt(timescale / (timescale + step - warmup))),
      "constant": 1.,
  }[name]

@pytest.mark.parametrize("name", ["cosine", "linear", "rsqrt", "constant"])
@pytest.mark.parametrize("warmup", [0, 8])
def test_schedule_follows_its_equation_within_and_beyond_the_run(name, warmup):
  end = 0. if name == "constant" else .25
  settings = dict(
      name=name, peak=.3, steps=40, warmup=warmup, end=end, timescale=5)
  rate = schedules.schedule(**settings)
  steps = [0, 1, 7, 8, 9, 20, 24, 39, 40, 41, 400]
  expected = [oracle(step=step, **settings) for step in steps]
  # float32, a handful of operations; the cosine loses digits near its zero
  np.testing.assert_allclose(
      [rate(step) for step in steps], expected, rtol=1e-6, atol=1e-8)

def test_landmarks_of_a_cosine():
  rate = schedules.schedule(peak=2., steps=110, warmup=10, end=.1)
  assert rate(0) == 0.
  assert rate(5) == 1.
  assert rate(10) == 2.  # the end of the warm-up is the peak
  np.testing.assert_allclose(rate(60), 1.1, rtol=1e-6)  # half way
  np.testing.assert_allclose(rate(110), .2, rtol=1e-6)
  assert rate(10**9) == rate(110)

def test_rsqrt_has_fallen_by_the_root_of_two_after_its_timescale():
  rate = schedules.schedule(
      name="rsqrt", peak=1., steps=10**6, warmup=100, timescale=500)
  np.testing.assert_allclose(rate(600), .5 ** .5, rtol=1e-6)
  np.testing.assert_allclose(rate(1600), .5, rtol=1e-6)

def test_rates_are_float32_elementwise_and_traceable(double):
  rate = schedules.schedule(peak=1e-3, steps=100, warmup=3)
  assert rate(np.int64(5)).dtype == jnp.float32
  many = jax.jit(rate)(jnp.arange(6))
  assert many.dtype == jnp.float32
  # float32: compiled and eager cosines may differ in the last digits
  np.testing.assert_allclose(many, [rate(n) for n in range(6)], rtol=1e-6)

@pytest.mark.parametrize("wrong, sentence", [
    (dict(peak=0.), "a learning rate is positive"),
    (dict(steps=0), "at least one step"),
    (dict(warmup=-1), "warmup is -1"),
    (dict(end=1.5), "fraction of the peak"),
    (dict(name="constant", end=.1), "has no end"),
    (dict(timescale=0), "positive number of steps"),
])
def test_settings_that_describe_no_schedule_are_refused(wrong, sentence):
  with pytest.raises(ValueError, match=sentence):
    schedules.schedule(**{"peak": 1., "steps": 10, **wrong})

def test_examples():
  assert doctest.testmod(schedules).failed == 0

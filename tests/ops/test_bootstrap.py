"""Intervals: of means as theory has them, of anything by resampling."""

import numpy as np
import pytest

from basic.ops import bootstrap


def test_the_interval_of_a_fraction_is_that_of_the_normal_approximation():
  hits = np.arange(1000) < 640
  found = bootstrap.intervals(lambda i: {"hit": hits[i].mean()}, 1000)["hit"]
  half = 1.96 * np.sqrt(0.64 * 0.36 / 1000)
  # A quantile of 1,000 resamples is itself uncertain, by about a tenth of this.
  assert found == pytest.approx((0.64 - half, 0.64 + half), abs=0.2 * half)


def test_resamples_are_drawn_with_replacement_and_alike_for_everyone():
  seen = []
  for _ in range(2):
    drawn = []
    bootstrap.intervals(lambda i, d=drawn: d.append(i) or {}, 7, resamples=20)
    seen.append(drawn)
  assert len(seen[0]) == 20
  assert any(len(set(i.tolist())) < 7 for i in seen[0])
  assert all(i.min() >= 0 and i.max() < 7 and len(i) == 7 for i in seen[0])
  np.testing.assert_array_equal(seen[0], seen[1])


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_an_interval_holds_the_share_of_resamples_that_it_says(level):
  values = np.random.default_rng(1).normal(size=50)
  drawn = []

  def mean(i):
    drawn.append(values[i].mean())
    return {"mean": drawn[-1]}

  lower, upper = bootstrap.intervals(mean, 50, level=level, resamples=400)["mean"]
  inside = np.mean([(lower <= x <= upper) for x in drawn])
  assert inside == pytest.approx(level, abs=0.01)
  assert np.mean(np.array(drawn) < lower) == pytest.approx((1 - level) / 2, abs=0.01)


def test_what_a_resample_leaves_undefined_is_left_out():
  values = iter([np.nan, 1.0, 3.0, np.nan])
  found = bootstrap.intervals(
      lambda i: {"x": next(values), "never": np.nan}, 3, resamples=4, level=0.999
  )
  assert found["x"] == pytest.approx((1, 3), abs=0.01)
  assert all(np.isnan(found["never"]))

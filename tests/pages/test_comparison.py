"""Several runs on one page: what differs, side by side and over each other."""

import pathlib

import made
import numpy as np
import pytest

from basic.pages import comparison, differences, stages


def run(name, rows=None, **config):
  given = rows or [{"step": 1, "loss": 2.0, "zeroshot/x@1": 0.5}]
  return comparison.Run(name, {"steps": 10, "batch_size": 8, **config}, {}, given)


def reader(*runs):
  return made.Reader(comparison.comparison(list(runs)))


def test_names_are_as_short_as_they_can_be():
  def named(*paths):
    return comparison.names([pathlib.Path(each) for each in paths])

  assert named("/runs/a", "/runs/b") == ["a", "b"]
  assert named("/x/a/1", "/y/a/1", "/y/b/1") == ["x/a/1", "y/a/1", "y/b/1"]
  assert named("/runs/a\udc80", "/runs/a\udc81") == ["1. a\ufffd", "2. a\ufffd"]


def test_only_settings_that_differ_are_listed():
  found = differences.differences([
      {"a": 1, "b": {"c": [1, 2], "d": None}, "e": [{"f": 1}], "g": True},
      {"a": 1, "b": {"c": [1, 3], "d": None}, "e": [{"f": 2}, {}], "g": 1},
  ])
  assert found == [
      ("b/c", ["[1, 2]", "[1, 3]"]), ("e/0/f", ["1", "2"]),
      ("e/1", [differences.ABSENT, "{}"]), ("g", ["true", "1"]),
  ]
  text = reader(run("a", optimizer={"peak": 1e-3}), run("b", optimizer={})).text
  assert "optimizer/peak0.001(absent)" in text
  assert "batch_size8" not in text


def test_equal_settings_are_said_to_be_equal():
  assert "The runs have the same settings." in reader(run("a"), run("b")).text


def test_the_best_of_the_last_values_is_bold():
  def last(values):
    return [{"step": 1, "z/x@1": 0.9, "z/median_rank": 1.0},
            {"step": 2, **values}]

  text = comparison.comparison([
      run("a", last({"z/x@1": 0.25, "z/median_rank": 7.0, "z/count": 5.0})),
      run("b", last({"z/x@1": 0.75, "z/median_rank": 9.0, "z/count": 6.0})),
      run("c", last({"z/x@1": float("nan")})),
  ])
  assert "<td>25.0%</td><td><strong>75.0%</strong></td><td>nan</td>" in text
  assert "<td>7</td><td>9</td><td><strong>1</strong></td>" in text
  assert "<td>5</td><td>6</td><td></td>" in text  # more is not better


def test_results_are_plotted_against_the_batch_size_where_it_differs():
  sizes = [8, 16, 16, 32]
  runs = [run(f"r{n}", [{"step": 1, "z/x@1": n / 10}], batch_size=size)
          for n, size in enumerate(sizes)]
  found = reader(*runs)
  labels = [a["aria-label"] for tag, a in found.tags if tag == "svg"]
  assert "accuracy by batch size: each run, mean" in labels
  at, means = comparison._means(np.array(sizes), np.array([0.0, 1.0, 3.0, 5.0]))
  assert at.tolist() == [8, 16, 32] and means.tolist() == [0.0, 2.0, 5.0]
  assert "Batch size" not in reader(run("a"), run("b")).text


def test_the_size_that_counts_is_that_of_the_last_stage():
  grown = run("b", stages=[{"steps": 5}, {"steps": 5, "batch_size": 64}])
  assert stages.batch_size(grown.config) == 64
  labels = [a["aria-label"] for tag, a in reader(run("a"), grown).tags
            if tag == "svg"]
  assert "accuracy by batch size: each run" in labels


def test_a_run_in_stages_shows_the_last_value_in_each():
  rows = [{"step": n, "z/x@1": n / 100} for n in (2, 5, 7)]
  staged = run("a", rows, stages=[
      {"steps": 5}, {"steps": 5, "batch_size": 64}, {"steps": 1}])
  page = comparison.comparison([staged, run("b")])
  text = made.Reader(page).text
  assert "stage 1to step 5, batches of 8stage 2to step 10, batches of 64" in text
  # Nothing was written in the third.
  assert "z/<wbr>x@1</th><td>5.0%</td><td>7.0%</td><td></td>" in page
  assert "boundaries of stages" in text
  assert "boundaries" not in reader(run("a"), run("b")).text


def test_boundaries_are_drawn_in_the_curves():
  rows = [{"step": n, "loss": 1.0} for n in range(1, 11)]
  one = comparison.comparison([run("a", rows), run("b", rows)])
  two = comparison.comparison([
      run("a", rows), run("b", rows, stages=[{"steps": 4}, {"steps": 6}])])
  assert two.count("stroke-dasharray") == one.count("stroke-dasharray") + 1


def test_examples_are_counted_by_stage():
  config = {"batch_size": 8, "stages": [
      {"steps": 5}, {"steps": 5, "batch_size": 64}]}
  assert stages.facts(config, [{"step": 7}]) == [
      "7 steps", "2 stages", "batches of 8 to 64", "168 examples"]
  assert stages.facts({"batch_size": 8, "steps": 3}, [{"step": 4}]) == [
      "4 steps", "batches of 8", "32 examples"]
  assert stages.facts({}, []) == []


def test_every_run_has_a_curve_and_its_name():
  other = run("second", [{"step": 1, "only/here@1": 0.5}])
  found = reader(run("first"), other)
  labels = [a["aria-label"] for tag, a in found.tags if tag == "svg"]
  for name in ("loss", "zeroshot/x@1", "only/here@1"):
    assert any(label.startswith(name) and label.endswith("first, second")
               for label in labels)


def test_runs_without_numbers_are_compared_all_the_same():
  empty = comparison.Run("a", {}, {}, [])
  text = reader(empty, run("b")).text
  assert "no numbers yet" in text
  both = reader(empty, empty._replace(name="b")).text
  assert "No numbers have been written yet." in both


@pytest.mark.parametrize("count", [0, 1, comparison.MOST + 1])
def test_too_few_and_too_many_runs_are_refused(count):
  with pytest.raises(ValueError, match=f"2 to {comparison.MOST} runs, and {count}"):
    comparison.comparison([run(str(n)) for n in range(count)])

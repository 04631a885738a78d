"""Results side by side: the paper's averages, lines of robustness, and the table."""

import json
import math

import pytest

from basic.experiment import summary

# BASIC-L, the last version: ImageNet, -A, -R, -V2, -Sketch and ObjectNet.
BASIC_L = {
    "imagenet": 85.7, "imagenet_a": 85.6, "imagenet_r": 95.7, "imagenet_v2": 80.6,
    "imagenet_sketch": 76.1, "objectnet": 82.3,
}
CLIP = {
    "imagenet": 76.2, "imagenet_a": 77.2, "imagenet_r": 88.9, "imagenet_v2": 70.1,
    "imagenet_sketch": 60.2, "objectnet": 72.3,
}


def record(task, value, model="a", **changes):
  return {
      "task": task, "model": model, "status": "done", "shown": ["@1"],
      "metrics": {"@1": value, "/count": 9.0},
      "intervals": {"@1": [value - 0.01, value + 0.01]},
  } | changes


def column(percents, model="a"):
  return [record(task, x / 100, model) for task, x in percents.items()]


def test_the_six_and_the_five_are_averaged_separately():
  found = summary.summary([column(BASIC_L), column(CLIP, "b")])
  six = found.averages["mean of the 6 ImageNet sets"]
  five = found.averages["mean of the 5 shifted sets"]
  assert six == pytest.approx([0.8433, 0.7415], abs=5e-5)
  assert five == pytest.approx([0.8406, 0.7374], abs=5e-5)
  assert "mean of the paper's 17 sets" not in found.averages


def test_an_average_without_one_of_its_sets_is_none():
  part = column(BASIC_L)
  part[3] = record("imagenet_v2", 0, status="skipped", why="it is not there.")
  found = summary.summary([part, column(CLIP)])
  for values in found.averages.values():
    assert [x is None for x in values] == [True, False]
  assert "mean of the 6 ImageNet sets" not in summary.summary([part[:5]]).averages


def test_the_first_metric_is_the_one_that_is_averaged():
  several = [
      {**each, "shown": ["/per_class@1", "@1"],
       "metrics": {"@1": 0.0, "/per_class@1": 0.5}}
      for each in column(BASIC_L)
  ]
  found = summary.summary([several])
  assert list(found.averages.values()) == [[0.5], [0.5]]


def logit(p):
  return math.log(p / (1 - p))


def test_lines_of_a_file_say_what_accuracy_was_to_be_expected(tmp_path):
  file = tmp_path / "lines.toml"
  file.write_text("[imagenet_v2]\nslope = 1.1\nintercept = -0.5\n")
  found = summary.summary([column(CLIP)], file)
  expected = 1 / (1 + math.exp(-(1.1 * logit(0.762) - 0.5)))
  assert found.robustness["imagenet_v2"] == [pytest.approx(0.701 - expected)]
  assert found.robustness["imagenet_a"] == [None]
  assert found.line == f"lines of {file}"
  file = tmp_path / "lines.json"
  file.write_text(json.dumps({"imagenet_v2": {"slope": 1.1, "intercept": -0.5}}))
  again = summary.summary([column(CLIP)], file)
  assert again.robustness == found.robustness


def test_three_models_make_a_line_of_their_own_and_two_do_not():
  on_line = [
      {"imagenet": 100 * x, "imagenet_v2": 100 / (1 + math.exp(-(logit(x) - 0.4)))}
      for x in (0.3, 0.5, 0.7)
  ]
  found = summary.summary([column(each) for each in on_line])
  assert found.robustness["imagenet_v2"] == pytest.approx([0] * 3, abs=1e-9)
  assert found.line == "lines fitted to the 3 models of this table"
  on_line[1]["imagenet_v2"] += 5
  shifted = summary.summary([column(each) for each in on_line])
  assert shifted.robustness["imagenet_v2"][1] > 0.01
  found = summary.summary([column(each) for each in on_line[:2]])
  assert found.robustness == {} and found.line == ""


@pytest.mark.parametrize("content", [
    "[imagenet_v2]\nslope = 1.1\n", "x", "[imagenet_v2]\nslope='a'\nintercept=1\n",
    "imagenet_v2 = 3\n",
])
def test_a_file_without_lines_gets_a_sentence(tmp_path, content):
  file = tmp_path / "lines.toml"
  file.write_text(content)
  with pytest.raises(ValueError, match=r"does not hold lines.*a slope and an"):
    summary.summary([column(CLIP)], file)


def test_the_table_has_percents_with_intervals_and_says_what_is_missing():
  here = [
      record("cifar10", 0.5), record("voc2007", 0.25, shown=["/map_11_point"],
      metrics={"/map_11_point": 0.25}, intervals={}),
      record("flickr", 0, shown=["/median_rank"], metrics={"/median_rank": 3.0},
             intervals={"/median_rank": [2.0, 4.0]}),
      record("objectnet", 0, status="skipped", why="it is not there.", metrics={}),
  ]
  there = [
      {**each, "model": "a model with a name that is much too long for a heading"}
      for each in here
  ]
  rows = summary.table(summary.summary([here, there])).splitlines()
  cells = [row.split("  ") for row in rows]
  cells = [[cell.strip() for cell in row if cell.strip()] for row in cells]
  assert cells[0] == ["(1)", "(2)"]
  assert cells[1] == ["cifar10", "accuracy", *["50.0 [49.0, 51.0]"] * 2]
  assert cells[2] == ["voc2007", "map_11_point", "25.0", "25.0"]
  assert cells[3] == ["flickr", "median rank", "3 [2, 4]", "3 [2, 4]"]
  assert cells[4] == ["objectnet", "skipped", "skipped"]
  assert rows[-3:] == [
      "(1)  a",
      "(2)  a model with a name that is much too long for a heading",
      "objectnet skipped: it is not there.",
  ]
  assert rows[0].index("(2)") == rows[1].rindex("50.0") == rows[4].rindex("skipped")


def test_averages_and_robustness_are_rows_of_the_table():
  text = summary.table(summary.summary([column(BASIC_L)] * 2 + [column(CLIP)]))
  assert "mean of the 6 ImageNet sets" in text and "84.3" in text and "84.1" in text
  rows = [row.split() for row in text.splitlines() if row.startswith("imagenet_v2")]
  # The line goes through both points.
  assert rows[1] == ["imagenet_v2", "effective", "robustness", *["+0.0"] * 3]


def test_plain_data_can_be_written_as_json():
  found = summary.summary([column(BASIC_L)])
  again = json.loads(json.dumps(found.plain()))
  assert again["averages"] == found.averages
  assert again["results"]["imagenet"][0]["metrics"]["@1"] == 0.857

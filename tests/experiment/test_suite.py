"""Results of tasks: measured once, stored whole, never taken for another's."""

import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image

from basic.experiment import evaluation, features, suite, tasks, towers
from basic.recording import recorder

TASK = """
about = "Single digits."
name = "zeroshot"
templates = ["the digit {}", "a {}"]
limit = 40
batch_size = 16
[source]
name = "digits"
split = "test"
kind = "single"
canvas = 24
channels = 1
"""


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


@pytest.fixture(scope="module")
def model():
  with pytest.MonkeyPatch.context() as patch:
    tiny.install(patch)
    yield towers.of_run(tiny.whole())


def task(folder, *changes):
  content = TASK
  for before, after in changes:
    assert before in content
    content = content.replace(before, after)
  path = folder / "single.toml"
  path.write_text(content)
  return tasks.read(path)


def counted(monkeypatch):
  """The names of the tasks that are measured from now on."""
  made, seen = evaluation.evaluation, []

  def counts(label, *args):
    seen.append(label)
    return made(label, *args)

  monkeypatch.setattr(evaluation, "evaluation", counts)
  return seen


def test_a_task_is_the_same_evaluation_as_in_a_configuration(tmp_path, model):
  changes = ("limit = 40", "limit = 16"), ('["the digit {}", "a {}"]', '["{}"]')
  found = suite.measure(model, task(tmp_path, *changes), tmp_path)
  assert found["status"] == "done"
  (row,) = [
      row for row in recorder.read(tiny.whole())
      if row["step"] == 12 and "zeroshot/single@1" in row
  ]
  for name in ("@1", "@5", "/per_class@1", "/count"):
    assert found["metrics"][name] == row[f"zeroshot/single{name}"]


def test_a_result_says_what_it_is_of_and_how_sure(tmp_path, model):
  found = suite.measure(model, task(tmp_path), tmp_path)
  assert found["model"] == f"{tiny.whole()}, step 12" and found["step"] == 12
  assert (found["task"], found["examples"], found["shown"]) == ("single", 40, ["@1"])
  assert found["settings"]["source"]["kind"] == "single"
  lower, upper = found["intervals"]["@1"]
  half = 1.96 * np.sqrt(found["metrics"]["@1"] * (1 - found["metrics"]["@1"]) / 40)
  assert lower <= found["metrics"]["@1"] <= upper
  assert upper - lower == pytest.approx(2 * half, abs=0.06)
  (file,) = tmp_path.glob("single-*.json")
  assert json.loads(file.read_text()) == found


def test_the_size_of_batches_changes_no_result(tmp_path, model):
  found = [
      suite.measure(
          model, task(tmp_path, ("batch_size = 16", f"batch_size = {rows}")),
          tmp_path / str(rows),
      ) for rows in (1, 7, 64)
  ]
  assert found[0]["metrics"] == found[1]["metrics"] == found[2]["metrics"]
  assert found[0]["intervals"] == found[1]["intervals"] == found[2]["intervals"]


def test_what_is_stored_is_not_measured_again(tmp_path, model, monkeypatch):
  first = suite.measure(model, task(tmp_path), tmp_path)
  seen = counted(monkeypatch)
  assert suite.measure(model, task(tmp_path), tmp_path) == first
  assert seen == []


def test_another_metric_of_a_stored_result_is_shown(tmp_path, model, monkeypatch):
  first = suite.measure(model, task(tmp_path), tmp_path)
  seen = counted(monkeypatch)
  change = ('"Single digits."', '"Digits."\nmetric = ["mean_per_class", "@5"]')
  found = suite.measure(model, task(tmp_path, change), tmp_path)
  assert seen == [] and found["metrics"] == first["metrics"]
  assert (found["about"], found["shown"]) == ("Digits.", ["/per_class@1", "@5"])


def test_a_metric_that_is_not_stored_is_measured(tmp_path, model, monkeypatch):
  first = suite.measure(model, task(tmp_path), tmp_path)
  (file,) = tmp_path.glob("single-*.json")
  fewer = {name: x for name, x in first["metrics"].items() if name != "@5"}
  file.write_text(json.dumps({**first, "metrics": fewer}))
  seen = counted(monkeypatch)
  assert suite.measure(model, task(tmp_path), tmp_path)["metrics"] == fewer
  change = ('about = "Single digits."', 'metric = "@5"')
  found = suite.measure(model, task(tmp_path, change), tmp_path)
  assert found["metrics"] == first["metrics"] and seen == ["single"]


@pytest.mark.parametrize("change", [
    ("limit = 40", "limit = 39"), ("the digit {}", "the number {}"),
    ('kind = "single"', 'kind = "pairs"'),
])
def test_other_settings_are_another_result(tmp_path, model, monkeypatch, change):
  suite.measure(model, task(tmp_path), tmp_path)
  seen = counted(monkeypatch)
  found = suite.measure(model, task(tmp_path, change), tmp_path)
  assert (found["status"], seen) == ("done", ["single"])
  assert len(list(tmp_path.glob("single-*.json"))) == 2


def test_another_model_is_another_result(tmp_path, model, monkeypatch):
  suite.measure(model, task(tmp_path), tmp_path)
  seen = counted(monkeypatch)
  suite.measure(towers.of_run(tiny.whole(), 10), task(tmp_path), tmp_path)
  assert seen == ["single"]


def test_the_same_weights_elsewhere_are_the_same_result(
    tmp_path, model, monkeypatch
):
  suite.measure(model, task(tmp_path), tmp_path)
  shutil.copytree(tiny.whole(), tmp_path / "copy")
  seen = counted(monkeypatch)
  found = suite.measure(
      towers.of_run(tmp_path / "copy"), task(tmp_path), tmp_path)
  assert seen == [] and found["model"].startswith(str(tmp_path / "copy"))


def test_changed_examples_are_measured_again(tmp_path, model, monkeypatch):
  suite.measure(model, task(tmp_path), tmp_path)
  (file,) = tmp_path.glob("single-*.json")
  stored = json.loads(file.read_text())
  file.write_text(json.dumps({**stored, "source": ["others"]}))
  seen = counted(monkeypatch)
  assert suite.measure(model, task(tmp_path), tmp_path)["source"] == stored["source"]
  assert seen == ["single"]


def test_a_torn_result_is_measured_again(tmp_path, model, monkeypatch):
  first = suite.measure(model, task(tmp_path), tmp_path)
  (file,) = tmp_path.glob("single-*.json")
  file.write_text(file.read_text()[:100])
  seen = counted(monkeypatch)
  again = suite.measure(model, task(tmp_path), tmp_path)
  assert again["metrics"] == first["metrics"] and seen == ["single"]


def test_absent_data_is_skipped_and_keeps_what_was_measured(
    tmp_path, model, monkeypatch
):
  first = suite.measure(model, task(tmp_path), tmp_path)

  def gone(settings):
    raise FileNotFoundError("there are no digits here.")

  monkeypatch.setattr(suite, "_opened", gone)
  assert suite.measure(model, task(tmp_path), tmp_path) == first
  other = suite.measure(model, task(tmp_path, ("40", "39")), tmp_path)
  assert (other["status"], other["why"]) == ("skipped", "there are no digits here.")


def test_a_task_that_fails_says_why_and_is_tried_again(tmp_path, model):
  change = ('templates = ["the digit {}", "a {}"]', 'templates = ["a digit"]')
  found = suite.measure(model, task(tmp_path, change), tmp_path)
  assert found["status"] == "failed" and "'a digit' without '{}'" in found["why"]
  assert not list(tmp_path.glob("single-*.json"))


def test_a_metric_that_is_not_measured_is_no_result(tmp_path, model):
  change = ('about = "Single digits."', 'metric = "@11"')
  found = suite.measure(model, task(tmp_path, change), tmp_path)
  assert found["status"] == "failed"
  assert "is '@11', and what was measured is" in found["why"]


def test_as_many_names_are_asked_for_as_there_are_classes(tmp_path, model):
  change = ("limit = 40", 'classes = ["zero", "one"]')
  found = suite.measure(model, task(tmp_path, change), tmp_path)
  assert found["status"] == "failed"
  assert "2 class names, and its data has 10 classes" in found["why"]


def test_towers_without_words_skip_what_reads_words(tmp_path, model):
  found = suite.measure(model._replace(tokenizer=None), task(tmp_path), tmp_path)
  assert found["status"] == "skipped" and "has no text tower" in found["why"]


KNN = (
    ('name = "zeroshot"\ntemplates = ["the digit {}", "a {}"]',
     'name = "knn"\nneighbours = 3\nreference_limit = 30'),
    ("channels = 1\n", """channels = 1
[reference]
name = "digits"
split = "train"
kind = "single"
canvas = 24
channels = 1
"""),
)


def test_what_learns_from_a_training_split_is_the_evaluation_and_embeds_it_once(
    tmp_path, model, monkeypatch
):
  found = suite.measure(model, task(tmp_path, *KNN), tmp_path / "out")
  assert found["status"] == "done" and found["metrics"]["/reference_count"] == 30
  settings = task(tmp_path, *KNN).settings
  judge = evaluation.evaluation(
      "single", settings, model.encoder, model.layout, model.tokenizer, model.config)
  with model.layout.context():
    assert judge.run(model.params) == found["metrics"]
  assert found["intervals"]["@1"][0] < found["metrics"]["@1"]
  assert len(found["source"]) == 2
  monkeypatch.setattr(features, "_write", None)  # There is nothing left to embed.
  other = ("neighbours = 3", "neighbours = 5")
  again = suite.measure(model, task(tmp_path, *KNN, other), tmp_path / "out")
  assert again["status"] == "done"


@pytest.mark.parametrize("kind, setting", [
    ("fewshot", 'image = "text"\nmetric = "/1_shot@1"'), ("knn", 'image = "text"'),
    ("probe", 'views = ["text"]'),
])
def test_a_task_on_embeddings_of_texts_reads_texts(tmp_path, model, kind, setting):
  change = ('name = "knn"\nneighbours = 3', f'name = "{kind}"\n{setting}')
  found = suite.measure(model, task(tmp_path, *KNN, change), tmp_path / "out")
  assert found["status"] == "done", found
  assert not (tmp_path / "out" / "features" / "of_images").exists()


def test_metrics_that_cannot_be_resampled_have_no_interval(
    tmp_path, model, monkeypatch
):
  made = evaluation.evaluation

  def plain(*args):
    judge = made(*args)
    strange = {"/x": np.nan, "/y": np.inf, "/z": -np.inf}
    return judge._replace(run=lambda params: {**judge.run(params), **strange})

  monkeypatch.setattr(evaluation, "evaluation", plain)
  found = suite.measure(model, task(tmp_path), tmp_path)
  assert found["intervals"] == {}
  assert [found["metrics"][name] for name in ("/x", "/y", "/z")] == [None] * 3


def test_a_folder_with_an_edited_file_is_measured_again(
    tmp_path, model, monkeypatch
):
  for n in range(12):
    (tmp_path / "data" / str(n % 10)).mkdir(parents=True, exist_ok=True)
    Image.new("L", (24, 24), 20 * n).save(tmp_path / f"data/{n % 10}/{n}.png")
  change = (
      'name = "digits"\nsplit = "test"\nkind = "single"\ncanvas = 24',
      f'name = "folder"\npath = "{tmp_path}/data"',
  )

  def measured():
    return suite.measure(model, task(tmp_path, change), tmp_path)

  first = measured()
  seen = counted(monkeypatch)
  assert measured() == first and seen == []
  Image.new("L", (24, 24), 7).save(tmp_path / "data/3/3.png")
  assert measured()["status"] == "done" and seen == ["single"]
  assert measured()["status"] == "done" and seen == ["single"]

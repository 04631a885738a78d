"""basic.train, basic.config and basic.read_metrics, as a notebook calls them."""

import importlib
import inspect
import json
import pathlib
import subprocess
import sys

import ml_collections
import numpy as np
import pytest
import tiny

import basic
from basic.interface import metrics
from basic.recording import recorder


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


@pytest.mark.parametrize("kind", [
    "path", pytest.param("dict", marks=pytest.mark.slow),
    pytest.param("ConfigDict", marks=pytest.mark.slow),
])
def test_what_is_trained_may_be_a_dict_a_configdict_or_a_path(
    kind, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  plain = tiny.config(steps=2, checkpoint=dict(every=2))
  config = {
      "dict": plain, "ConfigDict": ml_collections.ConfigDict(plain),
      "path": str(tiny.write_config(tmp_path / "mine.py", plain)),
  }[kind]
  run = basic.train(config)
  name = "mine" if kind == "path" else "run"
  assert run.workdir.parent == pathlib.Path("runs")
  assert run.workdir.name.startswith(f"{name}-")
  assert run.report.read_text().startswith("<!doctype html>")
  last = recorder.read(run.workdir)
  assert run.results["zeroshot/single@1"] == next(
      row["zeroshot/single@1"] for row in last if "zeroshot/single@1" in row)
  assert set(run.results) == {
      name for row in last for name in row if name.startswith(("zero", "retr"))}
  assert run.step == 2 and run.config["steps"] == 2
  assert "zeroshot/single@1" in repr(run)
  assert run.load().embed_texts("a one").shape == (1, 8)


def test_the_same_folder_resumes_and_another_configuration_is_refused(tmp_path):
  config = tiny.config(steps=2, evals={})
  basic.train(config, tmp_path)
  assert basic.train(config, tmp_path).step == 2
  with pytest.raises(ValueError, match=r"another configuration|seed"):
    basic.train({**config, "seed": 5}, tmp_path)


def test_two_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  from basic.interface import training
  first = training.workdir("configs/digits.py", None)
  first.mkdir(parents=True)
  assert training.workdir("configs/digits.py", None) != first
  assert training.workdir({}, "here") == "here"


@pytest.mark.parametrize("before", [
    "import basic.train",
    *(pytest.param(each, marks=pytest.mark.slow) for each in (
        "import basic", "from basic import train as module",
        "import basic.train as module", "from basic.train import train",
        "import basic; basic.load; import basic.evaluate",
        "import importlib; importlib.import_module('basic.train')",
        "import basic; basic.train; import basic.train",
    )),
])
def test_training_is_called_by_its_name_whatever_was_imported(before):
  """In a process of its own: what is imported first decides what is bound."""
  code = (
      f"{before}\nimport basic, inspect, sys\n"
      "assert sys.modules['basic.train'] is basic.train\n"
      "assert list(inspect.signature(basic.train).parameters) == "
      "['config', 'workdir']\n"
      "assert callable(basic.train) and basic.train.train is not basic.train\n"
      "try:\n  basic.train('nothing.py')\nexcept FileNotFoundError as error:\n"
      "  print(error)\n"
  )
  said = subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True, cwd=tiny.ROOT,
      timeout=100, check=True,
  )
  assert "there is no configuration 'nothing.py'" in said.stdout


def test_a_reloaded_program_is_still_a_function():
  importlib.reload(basic.train)
  assert callable(basic.train)
  assert "config" in inspect.signature(basic.train).parameters


def test_the_package_is_imported_without_its_libraries():
  code = (
      "import sys, basic; print(sorted({'jax', 'numpy', 'flax'} & set(sys.modules)));"
      "print(dir(basic)); basic.nothing"
  )
  said = subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True, cwd=tiny.ROOT,
      timeout=100, check=False,
  )
  assert said.stdout.startswith("[]\n")
  for name in basic.__all__:
    assert name in said.stdout
  assert "has no attribute 'nothing'; it offers" in said.stderr


def test_evaluating_is_called_by_its_name():
  step, found = basic.evaluate(tiny.whole())
  assert step == 12 and "zeroshot/single@1" in found


def test_settings_beside_a_file_are_checked(tmp_path):
  path = tiny.write_config(tmp_path / "mine.py", {
      "steps": 3, "optimizer": {"name": "adamw", "peak": 1e-2}})
  config = basic.config(path, "optimizer.peak=1e-3", "optimizer.warmup=7", steps=100)
  assert (config.steps, config.optimizer.peak, config.optimizer.warmup) == (
      100, 1e-3, 7)
  assert basic.config(path).steps == 3
  source = dict(name="digits", length=9)
  assert basic.config(config, source=source).source.to_dict() == source
  assert basic.config({"steps": 1}, steps=2).steps == 2
  with pytest.raises(ValueError, match="no setting 'peek'"):
    basic.config(path, "optimizer.peek=1e-3")
  with pytest.raises(ValueError, match="stepz"):
    basic.config(path, stepz=4)
  with pytest.raises(ValueError, match="steps"):
    basic.config(path, steps="many")


def test_scalars_of_numpy_are_settings_as_numbers_of_python_are():
  optimizer = dict(name="sgd", peak=np.float32(0.5))
  config = basic.config(
      {"steps": np.int32(3), "evals": {"a": {"limit": np.int64(7)}}},
      batch_size=np.int64(5), optimizer=optimizer, frozen=[np.str_("image/.*")],
  )
  found = json.loads(json.dumps(config.to_dict()))
  assert found == {
      "steps": 3, "evals": {"a": {"limit": 7}}, "batch_size": 5,
      "optimizer": {"name": "sgd", "peak": 0.5}, "frozen": ["image/.*"],
  }
  with pytest.raises(ValueError, match=r"batch_size is 5\.5 \(float\)"):
    basic.config({}, batch_size=np.float64(5.5))


@pytest.mark.parametrize(("content", "words"), [
    ("x = 1\n", "has no function get_config"),
    ("def get_config():\n  return 3\n", "returned a int"),
])
def test_a_file_that_is_no_configuration_gets_a_sentence(tmp_path, content, words):
  (tmp_path / "mine.py").write_text(content)
  with pytest.raises(ValueError, match=words):
    basic.config(tmp_path / "mine.py")


def test_a_file_may_take_an_argument(tmp_path):
  (tmp_path / "mine.py").write_text(
      "def get_config(text='none'):\n  return {'steps': len(text)}\n")
  assert basic.config(f"{tmp_path}/mine.py:hello").steps == 5
  assert basic.config(f"{tmp_path}/mine.py").steps == 4


def test_columns_are_the_lines_of_the_file():
  found = basic.read_metrics(tiny.whole())
  rows = [row for row in recorder.read(tiny.whole()) if "loss" in row]
  steps, losses = found.curve("loss")
  assert steps.tolist() == [row["step"] for row in rows] == list(range(1, 13))
  assert losses.tolist() == [row["loss"] for row in rows]
  assert all(len(found[name]) == len(found["step"]) for name in found)
  evaluated, _ = found.curve("zeroshot/single@1")
  assert evaluated.tolist() == [4, 8, 12]
  assert np.isnan(found["zeroshot/single@1"][:3]).all()
  frame = found.frame()
  assert frame["loss"].tolist() == losses.tolist() and frame.index.name == "step"
  assert found.table().splitlines()[0].startswith("gradient") or "loss" in repr(found)
  with pytest.raises(KeyError, match="was not recorded; there are"):
    found["nothing"]


def test_without_pandas_columns_are_what_there_is(monkeypatch):
  monkeypatch.setitem(sys.modules, "pandas", None)
  with pytest.raises(ImportError, match="needs pandas"):
    metrics.Metrics([{"step": 1}]).frame()


def test_a_folder_without_a_run_has_no_metrics(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no config\.json"):
    basic.read_metrics(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps({}))
  assert repr(basic.read_metrics(tmp_path)) == "no metrics yet"

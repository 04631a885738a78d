"""A run that an older version began is evaluated, reported and resumed."""

import functools
import json
import pathlib
import tarfile

import numpy as np
import pytest
import tiny

from basic import evaluate, report, train
from basic.experiment import settings

FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures"


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.one_device(monkeypatch)


@pytest.fixture
def folder(tmp_path):
  """A copy of the old run, as step 4 of 8 left it."""
  with tarfile.open(FIXTURES / "old_run.tar.xz") as archive:
    archive.extractall(tmp_path, filter="data")
  return tmp_path / "old_run"


def config(folder):
  return json.loads((folder / "config.json").read_text())


@functools.cache
def recorded():
  """What the old version wrote of all 8 steps, by step."""
  rows = {}
  text = (FIXTURES / "old_run_to_its_end.jsonl").read_text()
  for row in map(json.loads, text.splitlines()):
    rows.setdefault(row["step"], {}).update(row)
  return rows


def of_old(metrics):
  """The names of metrics without those that retrieval has had since."""
  return {name for name in metrics if not name.endswith(("_mean_rank", "_ndcg"))}


def test_it_resumes_and_ends_with_the_numbers_of_the_old_version(folder):
  assert "rates" in config(folder)["optimizer"]  # A setting since renamed.
  with pytest.warns(FutureWarning, match="lr_multipliers|ema_decay"):
    train.train(config(folder), folder)
  found = {}
  for row in tiny.rows(folder):
    found.setdefault(row["step"], {}).update(row)
  assert found.keys() == recorded().keys()
  for step, expected in recorded().items():
    assert of_old(found[step]) == expected.keys()
    for name, value in expected.items():
      # Processors round differently; four steps of AdamW, whose early steps
      # divide small gradients by themselves, spread that to 1e-5 of a loss.
      # An evaluation of 16 images may see two of them change places.
      limit = 0.07 if name.startswith("retrieval/") else 1e-3
      np.testing.assert_allclose(
          found[step][name], value, rtol=limit, atol=limit,
          err_msg=f"{name} after step {step}",
      )


def test_it_is_evaluated_and_reported(folder):
  step, metrics = evaluate.evaluate(folder)
  assert step == 4
  assert of_old(metrics) == {
      name for name in recorded()[8] if name.startswith("retrieval/")
  }
  assert report.rebuild(folder).exists()


def test_a_setting_of_an_older_name_completes_to_the_newer_one():
  old = tiny.config(
      optimizer=dict(name="adafactorw", factor_from=16), image=None,
      text=dict(name="text_transformer", width=16, depth=1, heads=2),
  )
  with pytest.warns(FutureWarning, match="min_dim_size_to_factor"):
    complete = settings.complete(old)
  assert complete["optimizer"]["min_dim_size_to_factor"] == 16
  assert settings.complete(complete) == complete

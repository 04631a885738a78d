"""A run is made longer only where that changes none of its steps."""

import json
import shutil

import pytest
import tiny

from basic import train
from basic.experiment import longer, restore, settings


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


def config(schedule, **changes):
  optimizer = dict(name="sgd", peak=1e-2, warmup=2, schedule=schedule)
  return tiny.config(optimizer=optimizer, evals=None, **changes)


def test_a_longer_run_is_the_one_that_was_long_from_the_start(tmp_path):
  train.train(config("constant", steps=6), tmp_path / "grown")
  train.train(config("constant", steps=9), tmp_path / "grown")
  train.train(config("constant", steps=9), tmp_path / "whole")
  tiny.assert_same_run(tmp_path / "grown", tmp_path / "whole")
  stored = json.loads((tmp_path / "grown" / "config.json").read_text())
  assert stored["steps"] == 9
  (change,) = json.loads(
      (tmp_path / "grown" / "run.json").read_text())["lengthened"]
  assert change["steps"] == "6 -> 9"
  before = tiny.files(tmp_path / "grown" / restore.FOLDER)
  train.train(config("constant", steps=9), tmp_path / "grown")  # It is finished.
  assert tiny.files(tmp_path / "grown" / restore.FOLDER) == before
  assert len(json.loads(
      (tmp_path / "grown" / "run.json").read_text())["lengthened"]) == 1
  with pytest.raises(ValueError, match=r"steps: 9 -> 6"):  # And not shorter.
    train.train(config("constant", steps=6), tmp_path / "grown")


def test_a_schedule_that_ended_is_refused_with_the_way_to_train_on(tmp_path):
  shutil.copytree(tiny.whole(), tmp_path / "run")
  before = tiny.files(tmp_path)
  with pytest.raises(ValueError, match=(
      r"(?s)run of 12 steps, and 20 are asked for.*'cosine'.*step \d+ would.*"
      r"new --workdir.*weights=dict\(name='run', path='.*', optimizer=True\)"
  )):
    train.train(tiny.config(steps=20), tmp_path / "run")
  with pytest.raises(ValueError, match=r"optimizer/peak: 0\.01 -> 0\.5"):
    train.train(tiny.config(
        steps=20, optimizer=dict(name="adamw", peak=0.5, warmup=2)
    ), tmp_path / "run")
  assert tiny.files(tmp_path) == before


@pytest.mark.parametrize(("optimizer", "stages", "fits"), [
    (dict(schedule="constant"), (5, 6), True),
    (dict(schedule="rsqrt"), (5, 6), True),
    (dict(schedule="cosine", steps=50), (5, 6), True),
    (dict(schedule="linear"), (5, 6), False),
])
def test_the_rates_of_the_last_schedule_decide(tmp_path, optimizer, stages, fits):
  def staged(last):
    return settings.complete(config("constant") | dict(stages=(
        dict(steps=stages[0]),
        dict(steps=last, optimizer=dict(optimizer, peak=1e-3, warmup=0)),
    )))

  (tmp_path / "config.json").write_text(json.dumps(staged(stages[1])))
  before = longer.shorter(tmp_path, staged(10))
  assert before == staged(stages[1])
  if fits:
    longer.check(tmp_path, before, staged(10))
  else:
    with pytest.raises(ValueError, match="step 2 would have had"):
      longer.check(tmp_path, before, staged(10))
  assert longer.shorter(tmp_path, staged(stages[1])) is None
  assert longer.shorter(tmp_path / "none", staged(10)) is None

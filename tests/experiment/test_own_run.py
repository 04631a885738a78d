"""A run begins from another run, and a run of no steps judges what it is given."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
import tiny

from basic import evaluate, optim, paths, train
from basic.engine import stored_state
from basic.experiment import (
    build,
    own_run,
    restore,
    settings,
    start,
    towers,
)
from basic.pages import report


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)
  monkeypatch.setattr(report, "held_out", lambda *args: None)
  monkeypatch.setattr(report, "write", lambda folder, samples: folder)


def weights(**changes):
  return dict(name="run", path=str(tiny.whole())) | changes


def config(**changes):
  """Another run of the same towers."""
  return tiny.config(seed=7, evals=None, weights=weights()) | changes


def begun(tmp_path, how, step=None):
  """(state that it begins with, randomly initialised state, origin)."""
  stage = build.run(settings.complete(how), tmp_path / "begun")[0]
  fresh = stage.program.fresh()
  state, origin = own_run.begin(fresh, stage.config, step)
  return state, fresh, origin


def same(found, expected):
  for path, leaf in paths.flatten(expected).items():
    np.testing.assert_array_equal(
        paths.flatten(found)[path], leaf, err_msg=path, strict=True)


def test_the_towers_go_on_and_nothing_else_does(tmp_path):
  state, fresh, origin = begun(tmp_path, config())
  _, old = restore.load(tiny.whole())
  same(state.params, old.params)
  same(paths.flatten({"x": stored_state.leaves(state.opt_state)}),
       paths.flatten({"x": stored_state.leaves(fresh.opt_state)}))
  assert int(state.step) == 0
  np.testing.assert_array_equal(
      jax.random.key_data(state.rng), jax.random.key_data(fresh.rng))
  assert origin == {
      "path": str(tiny.whole()), "step": 12,
      "fingerprint": towers.of_run(tiny.whole()).fingerprint,
  }


def test_an_older_step_and_some_of_the_paths_can_be_chosen(tmp_path):
  how = config(weights=weights(step=10, paths=("image/.*",)))
  state, fresh, origin = begun(tmp_path, how, 10)
  older = tiny.parameters(tiny.whole(), 10)
  for path, leaf in paths.flatten(state.params).items():
    kept = older[path] if path.startswith("image/") else (
        paths.flatten(fresh.params)[path])
    np.testing.assert_array_equal(leaf, kept, err_msg=path)
  assert origin["step"] == 10
  with pytest.raises(FileNotFoundError, match=r"\[10, 12\] and not 3"):
    begun(tmp_path, how, 3)


def test_the_words_come_along_with_the_text_tower(tmp_path):
  own, others = tmp_path / "own", tmp_path / "others"
  build.run(settings.complete(config()), own)
  model = "tokenizer.model"
  assert (own / model).read_bytes() == (tiny.whole() / model).read_bytes()
  # Of other captions, other words would have been learned.
  changes = dict(source=tiny.scenes(length=64, kind="single"), seed=1)
  how = config(**changes, weights=weights(paths=("image/.*",)))
  build.run(settings.complete(how), others)
  assert (others / model).read_bytes() != (own / model).read_bytes()


def test_the_average_is_what_a_run_begins_from(tmp_path):
  optimizer = dict(name="sgd", peak=1e-1, ema_decay=0.9)
  train.train(
      tiny.config(optimizer=optimizer, steps=3, evals=None), tmp_path / "first")
  _, old = restore.load(tmp_path / "first")
  how = config(optimizer=optimizer, weights=weights(path=str(tmp_path / "first")))
  state, *_ = begun(tmp_path, how)
  same(state.params, optim.evaluation_params(old))
  with pytest.raises(AssertionError):
    same(state.params, old.params)
  how["weights"]["optimizer"] = True
  shutil.rmtree(tmp_path / "begun")
  state, *_ = begun(tmp_path, how)
  same(state.params, old.params)
  same(optim.ema_params(state.opt_state), optim.ema_params(old.opt_state))


def schedules(opt_state):
  """Paths of the counts of learning rate schedules."""
  changed = optim.with_schedule_of(
      jax.tree.map(lambda x: 0, opt_state), jax.tree.map(lambda x: 1, opt_state))
  return {p for p, x in stored_state.leaves(changed).items() if x}


def test_the_moments_go_on_and_the_schedule_begins_anew(tmp_path):
  state, fresh, _ = begun(tmp_path, config(weights=weights(optimizer=True)))
  _, old = restore.load(tiny.whole())
  same(state.params, old.params)
  before, after = map(stored_state.leaves, (old.opt_state, state.opt_state))
  anew = schedules(fresh.opt_state)
  assert len(anew) == 1 and len(after) > 10
  for path, leaf in after.items():
    expected = np.zeros_like(leaf) if path in anew else before[path]
    np.testing.assert_array_equal(leaf, expected, err_msg=path)
  assert before[anew.pop()] == 12 and int(state.step) == 0


def test_what_of_the_optimizer_does_not_fit_is_said(tmp_path, caplog):
  optimizer = dict(name="adamw", peak=1e-2, warmup=2, ema_decay=0.5)
  how = config(optimizer=optimizer, weights=weights(
      optimizer=True, paths=("image/.*", "objective/.*")))
  with caplog.at_level(logging.WARNING):
    state, fresh, _ = begun(tmp_path, how)
  # The other run kept no average, so that of what goes on starts anew.
  assert "starts anew: " in caplog.text and "average/image" in caplog.text
  same(state.params["text"], fresh.params["text"])
  how["optimizer"] = dict(name="sgd", peak=1e-2)
  shutil.rmtree(tmp_path / "begun")
  with pytest.raises(ValueError, match=(
      r"trained with 'adamw', this run with 'sgd'.*set optimizer\.name='adamw'"
  )):
    begun(tmp_path, how)


def test_another_objective_starts_anew_and_other_towers_are_refused(
    tmp_path, caplog
):
  with caplog.at_level(logging.WARNING):
    state, fresh, _ = begun(tmp_path, config(objective=dict(name="sigmoid")))
  assert "objective softmax, and this run has sigmoid: ['objective/" in caplog.text
  same(state.params["objective"], fresh.params["objective"])
  same(state.params["image"], restore.load(tiny.whole())[1].params["image"])
  with pytest.raises(ValueError, match=r"(?s)not for these towers.*hidden is 8"):
    begun(tmp_path, config(image=dict(name="toy", hidden=8)))


def test_noise_and_precision_may_differ(tmp_path):
  state, *_ = begun(tmp_path, config(image=dict(name="toy", dropout=0.0)))
  same(state.params, restore.load(tiny.whole())[1].params)


def test_a_run_records_where_it_began_and_begins_there_again(tmp_path):
  origin = tmp_path / "origin"
  shutil.copytree(tiny.whole(), origin)
  how = config(
      steps=2, weights=dict(name="run", path=str(origin), paths=("image/.*",)))
  stages = build.run(settings.complete(how), tmp_path / "shapes")
  with pytest.MonkeyPatch.context() as patch:
    # It ends when its files are written and nothing is saved yet.
    patch.setattr(train, "_save", lambda *args: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
      train.train(how, tmp_path / "run")
  recorded = json.loads((tmp_path / "run" / "run.json").read_text())["origin"]
  assert recorded["step"] == 12
  # Meanwhile the other run has gone on, or back.
  shutil.rmtree(origin / restore.FOLDER / "12")
  with pytest.raises(FileNotFoundError, match="not 12"):
    train.train(how, tmp_path / "run")
  shutil.copytree(
      tiny.whole() / restore.FOLDER / "12", origin / restore.FOLDER / "12")
  train.train(how, tmp_path / "run")
  train.train(how, tmp_path / "run")  # Its checkpoints are enough.
  again = json.loads((tmp_path / "run" / "run.json").read_text())["origin"]
  assert again == recorded
  first = tiny.parameters(tmp_path / "run", 0)
  assert all(
      (leaf == tiny.parameters(tiny.whole())[path]).all()
      for path, leaf in first.items() if path.startswith("image/"))
  assert stages[0].config["weights"]["step"] is None


@pytest.mark.parametrize(("given", "said"), [
    (dict(path="nowhere"), "'nowhere', which holds no config.json"),
    (dict(path="nowhere", paths=("image/.*",)), "holds no config.json"),
])
def test_what_is_no_run_is_refused(tmp_path, given, said):
  with pytest.raises(FileNotFoundError, match=said):
    stages = build.run(settings.complete(config(weights=weights(**given))), tmp_path)
    start.resume(stages, NoCheckpoints())


class NoCheckpoints:

  def latest(self):
    return None


@pytest.mark.parametrize(("given", "said"), [
    (dict(name="hf_clip", step=3), r"weights\.step is 3, and weights of 'hf_clip'"),
    (dict(name="hf_clip", optimizer=True), r"weights\.optimizer is True"),
    (dict(name="rnu"), r"'rnu'.*'run' is a run of this library"),
    (dict(stpe=3), r"no setting 'stpe'; did you mean 'step'"),
])
def test_settings_of_a_run_belong_to_runs(given, said):
  with pytest.raises(ValueError, match=said):
    settings.complete(config(weights=weights(**given)))


def test_a_run_of_no_steps_evaluates_and_reports(monkeypatch, tmp_path, caplog):
  monkeypatch.undo()
  with pytest.MonkeyPatch.context() as patch:
    tiny.install(patch)
    evals = tiny.config()["evals"]
    with caplog.at_level(logging.WARNING):
      page = train.train(config(steps=0, evals=evals), tmp_path / "run")
    assert "the run has 0 steps" not in caplog.text
    assert page.read_text().count("zeroshot/single") and page.name == "report.html"
    step, metrics = evaluate.evaluate(tmp_path / "run")
    assert (step, metrics) == (0, evaluate.evaluate(tiny.whole())[1])
    recorded = {k: x for row in tiny.rows(tmp_path / "run") for k, x in row.items()}
    assert metrics.items() <= recorded.items() and "loss" not in recorded
    # And it can be trained on.
    train.train(config(steps=2, evals=evals), tmp_path / "run")
    train.train(config(steps=2, evals=evals), tmp_path / "whole")
    assert tiny.losses(tmp_path / "run") == tiny.losses(tmp_path / "whole")


@pytest.mark.parametrize(("given", "said"), [
    (dict(steps=-1), r"steps is -1; it takes 0 or more"),
    (dict(stages=(dict(steps=3), dict(steps=0))), r"stages\[1\]\.steps is 0"),
])
def test_less_than_no_steps_are_refused(given, said):
  with pytest.raises(ValueError, match=said):
    settings.complete(tiny.config(**given))

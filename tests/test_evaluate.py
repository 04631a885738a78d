"""What a checkpoint is worth, asked for after the training."""

import json

import pytest
import tiny

from basic import evaluate, optim, train
from basic.experiment import restore


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


def recorded(folder, step):
  """What training wrote of its evaluations after a step."""
  return {
      name: x for row in tiny.rows(folder) if row["step"] == step
      for name, x in row.items() if name.startswith(("zeroshot", "retrieval"))
  }


def test_the_numbers_are_those_of_the_training():
  step, found = evaluate.evaluate(tiny.whole())
  assert step == 12
  assert found == recorded(tiny.whole(), 12)
  assert {"zeroshot/single@1", "retrieval/scenes/image_to_text@1"} <= set(found)


def test_a_checkpoint_can_be_named():
  assert evaluate.evaluate(tiny.whole(), 12) == evaluate.evaluate(tiny.whole())
  step, found = evaluate.evaluate(tiny.whole(), 10)
  assert step == 10
  assert found.keys() == recorded(tiny.whole(), 12).keys()


def test_a_checkpoint_that_is_not_there_is_not_replaced_by_another():
  with pytest.raises(FileNotFoundError, match=r"\[10, 12\] and not 7"):
    evaluate.evaluate(tiny.whole(), 7)


def test_evaluating_leaves_the_folder_as_it_is():
  before = tiny.files(tiny.whole())
  evaluate.evaluate(tiny.whole())
  assert tiny.files(tiny.whole()) == before


def test_the_program_prints_one_json_object():
  done = tiny.program("basic.evaluate", "--workdir", tiny.whole(), "--json")
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout) == {"step": 12, **recorded(tiny.whole(), 12)}


def test_a_folder_of_no_run_gets_a_sentence(tmp_path):
  done = tiny.program("basic.evaluate", "--workdir", tmp_path, toys=False)
  assert done.returncode == 1
  assert "holds no config.json" in done.stderr
  assert "Traceback" not in done.stderr
  assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_saved_nothing_says_so(tmp_path):
  tiny.begin(tmp_path)
  with pytest.raises(restore.NoCheckpoint, match="saved every 5 steps"):
    evaluate.evaluate(tmp_path)


@pytest.mark.slow
def test_the_program_prints_a_table_of_a_named_step():
  done = tiny.program("basic.evaluate", "--workdir", tiny.whole(), "--step", 10)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("step 10\n")
  assert "zeroshot/single@1" in done.stdout


@pytest.mark.slow
def test_the_digits_train_evaluate_and_report_as_the_manual_says(tmp_path):
  changes = [
      "--config.steps=24", "--config.batch_size=64",
      "--config.checkpoint.every=6", "--config.record.every=4",
  ]
  command = ["--config", "configs/digits.py", "--workdir", tmp_path / "digits"]
  done = tiny.program("basic.train", *command, *changes, toys=False, timeout=900)
  assert done.returncode == 0, done.stderr
  assert [step for step, _ in tiny.losses(tmp_path / "digits")] == [
      4, 8, 12, 16, 20, 24]
  saved = {p.name for p in (tmp_path / "digits" / "checkpoints").iterdir()}
  assert saved == {"18", "24"}
  judged = tiny.program(
      "basic.evaluate", "--workdir", tmp_path / "digits", "--json", toys=False)
  assert json.loads(judged.stdout) == {
      "step": 24, **recorded(tmp_path / "digits", 24)}
  (tmp_path / "digits" / "report.html").unlink()
  shown = tiny.program(
      "basic.report", "--workdir", tmp_path / "digits", toys=False)
  assert shown.returncode == 0, shown.stderr
  assert (tmp_path / "digits" / "report.html").exists()


def test_averaged_weights_are_the_ones_that_are_judged(tmp_path):
  config = tiny.config(
      optimizer=dict(name="adamw", peak=1e-2, warmup=2, ema_decay=0.9)
  )
  train.train(config, tmp_path)
  stage, state = restore.load(tmp_path)
  with stage.program.layout.context():
    averaged = stage.evals[0].run(optim.evaluation_params(state))
    newest = stage.evals[0].run(state.params)
  _, found = evaluate.evaluate(tmp_path)
  assert found == recorded(tmp_path, 12)
  name = stage.evals[0].prefix
  assert {name + k: x for k, x in averaged.items()}.items() <= found.items()
  assert averaged != newest

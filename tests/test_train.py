"""A run as its user meets it: begun, killed, resumed, refused."""

import contextlib
import functools
import io
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basic import cli, train
from basic.data import examples
from basic.experiment import build, restore
from basic.pages import report
from basic.recording import recorder


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


@pytest.fixture
def no_page(monkeypatch):
  """Leaves the report out, where it is not what is tested."""
  monkeypatch.setattr(report, "held_out", lambda *args: None)
  monkeypatch.setattr(report, "write", lambda folder, samples: pathlib.Path(folder))


def killed_at(moment, config, folder):
  where, step = moment.split()
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, where, int(step))
    with pytest.raises(tiny.Killed):
      train.train(config, folder)


# --- What a run leaves behind -------------------------------------------------


def test_a_run_leaves_everything_behind():
  folder = tiny.whole()
  assert {path.name for path in folder.iterdir()} == {
      "config.json", "run.json", "metrics.jsonl", "tokenizer.model",
      "checkpoints", "report.html",
  }
  complete = json.loads((folder / "config.json").read_text())
  assert complete["optimizer"]["b2"] == 0.95  # a default
  assert complete["evals"]["single"]["top"] == [1, 5]
  assert complete["mesh"] == {"data": -1, "fsdp": 1, "model": 1}
  assert "<html" in (folder / "report.html").read_text()


def test_every_line_is_an_object_with_a_step():
  folder = tiny.whole()
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert all(isinstance(row["step"], int) for row in found)
  assert [step for step, _ in tiny.losses(folder)] == list(range(1, 13))
  for name, steps in (
      ("zeroshot/single@1", [4, 8, 12]),
      ("retrieval/scenes/text_to_image@1", [12]),
  ):
    assert [row["step"] for row in found if name in row] == steps
  seen = {row["step"]: row["examples_seen"] for row in found if "loss" in row}
  assert seen == {n: 16 * n for n in range(1, 13)}


def test_a_finished_run_is_judged_again_and_not_written_again(
    tmp_path, no_page
):
  folder = tmp_path / "again"
  shutil.copytree(tiny.whole(), folder)
  before = (folder / "metrics.jsonl").read_bytes()
  said = io.StringIO()
  with contextlib.redirect_stderr(said):
    train.train(tiny.config(), folder)
  for name in ("zeroshot/single@1", "retrieval/scenes/image_to_text@10"):
    assert name in said.getvalue()
  assert (folder / "metrics.jsonl").read_bytes() == before


def test_every_counts_steps_between_two_lines(tmp_path, no_page):
  config = tiny.config(
      evals={}, record=dict(every=5, tensorboard=False),
      checkpoint=dict(every=7, keep=9),
  )
  train.train(config, tmp_path / "run")
  assert [step for step, _ in tiny.losses(tmp_path / "run")] == [5, 10, 12]
  saved = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
  assert saved == {"7", "12"}


# --- Killed and resumed -------------------------------------------------------


@pytest.mark.parametrize("moment", [
    "step 3",  # before anything was saved
    "save 5",  # while it is written
    "evaluation 8",  # a line of which may be missing
    "step 11",  # with unread steps on their way
    "evaluation 12",  # after the last step
])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, no_page, moment):
  killed_at(moment, tiny.config(), tmp_path / "run")
  train.train(tiny.config(), tmp_path / "run")
  tiny.assert_same_run(tmp_path / "run", tiny.whole())


def sigkill_and_resume(tmp_path, moment):
  settings = tiny.write_config(tmp_path / "tiny_config.py", tiny.config())
  command = (
      "basic.train", "--config", settings, "--workdir", tmp_path / "run"
  )
  died = tiny.program(*command, kill=moment)
  assert died.returncode == -signal.SIGKILL, died.stderr
  done = tiny.program(*command)
  assert done.returncode == 0, done.stderr
  assert done.stdout == f"report: {tmp_path / 'run' / 'report.html'}\n"
  assert "zeroshot/single@1" in done.stderr
  tiny.assert_same_run(tmp_path / "run", tiny.whole())


def test_sigkill_while_saving_loses_nothing(tmp_path):
  sigkill_and_resume(tmp_path, "save 10")


@pytest.mark.slow
@pytest.mark.parametrize("moment", [
    "step 1", "save 5", "step 6", "evaluation 8", "save 12", "evaluation 12",
])
def test_sigkill_at_other_moments_loses_nothing(tmp_path, moment):
  sigkill_and_resume(tmp_path, moment)


@pytest.mark.slow
def test_the_digits_die_whenever_and_go_on_bit_for_bit(tmp_path):
  command = [
      sys.executable, "-m", "basic.train", "--config", "configs/digits.py",
      "--config.steps=12", "--config.batch_size=64",
      "--config.checkpoint.every=4", "--workdir",
  ]
  environment = {**os.environ, "PYTHONPATH": str(tiny.ROOT)}
  with open(tmp_path / "said", "wb") as said:
    start = functools.partial(
        subprocess.Popen, cwd=tiny.ROOT, env=environment, stdout=said, stderr=said)
    with start([*command, tmp_path / "run"]) as process:
      while process.poll() is None:
        if len(recorder.read(tmp_path / "run")) >= 6:
          process.kill()
        time.sleep(0.05)
    assert process.returncode == -signal.SIGKILL, (tmp_path / "said").read_text()
    for folder in ("run", "whole"):
      with start([*command, tmp_path / folder]) as process:
        assert process.wait() == 0, (tmp_path / "said").read_text()
  assert tiny.rows(tmp_path / "run") == tiny.rows(tmp_path / "whole")


@pytest.mark.slow
def test_dying_twice_loses_nothing(tmp_path, no_page):
  for moment in ("step 7", "save 10"):
    killed_at(moment, tiny.config(), tmp_path / "run")
  train.train(tiny.config(), tmp_path / "run")
  tiny.assert_same_run(tmp_path / "run", tiny.whole())


@pytest.mark.parametrize("number", [
    signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)
])
def test_a_request_to_stop_saves_and_says_so(tmp_path, no_page, capsys, number):
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, "step", 7, lambda: signal.raise_signal(number))
    with pytest.raises(SystemExit) as ended, cli.sentences():
      train.train(tiny.config(), tmp_path / "run")
  assert ended.value.code == cli.STOPPED == 42
  said = capsys.readouterr().err
  assert f"{number.name}: stopped after step 7 of 12 and saved" in said
  assert (tmp_path / "run" / "checkpoints" / "7").is_dir()
  train.train(tiny.config(), tmp_path / "run")
  tiny.assert_same_run(tmp_path / "run", tiny.whole())


# --- Stages -------------------------------------------------------------------


def staged():
  config = tiny.config(
      stages=(
          dict(steps=5, batch_size=8),
          dict(steps=4, source=tiny.scenes(length=200)),
          dict(steps=3, objective=dict(name="sigmoid"), frozen=("image/.*",)),
      ),
      checkpoint=dict(every=3, keep=9),
  )
  config["evals"]["single"]["every"] = 5
  return config


@pytest.fixture(scope="module")
def whole_of_stages(tmp_path_factory):
  folder = tmp_path_factory.mktemp("stages") / "whole"
  with pytest.MonkeyPatch.context() as patch:
    tiny.install(patch)
    patch.setattr(report, "write", lambda folder, samples: pathlib.Path(folder))
    train.train(staged(), folder)
  return folder


def test_stages_share_one_counter_and_one_position(whole_of_stages):
  rows = [row for row in tiny.rows(whole_of_stages) if "loss" in row]
  assert [row["step"] for row in rows] == list(range(1, 13))
  sizes = [8] * 5 + [16] * 7
  assert [row["examples_seen"] for row in rows] == np.cumsum(sizes).tolist()
  judged = [
      row["step"] for row in tiny.rows(whole_of_stages)
      if "zeroshot/single@1" in row
  ]
  assert judged == [5, 10, 12]  # a stage's last step too


def test_the_optimizer_goes_on_where_it_is_the_same(whole_of_stages):
  rate = {
      row["step"]: row["learning_rate"] for row in tiny.rows(whole_of_stages)
      if "loss" in row
  }
  assert rate[1] == 0 and rate[6] > 0  # one warm-up for the first two stages
  assert rate[10] == 0  # and another where what trains has changed
  counts = {}
  for step in (9, 12):
    _, state = restore.load(whole_of_stages, step)
    found = jax.tree_util.tree_leaves_with_path(state.opt_state)
    counts[step] = {int(x) for path, x in found if "count" in str(path[-1])}
  assert counts == {9: {9}, 12: {3}}


def test_a_frozen_tower_stays_and_the_rest_goes_on(whole_of_stages):
  before = tiny.parameters(whole_of_stages, 9)
  after = tiny.parameters(whole_of_stages, 12)
  assert "objective/bias" in after and "objective/bias" not in before
  for path, leaf in before.items():
    if path.startswith("image/"):
      np.testing.assert_array_equal(after[path], leaf, err_msg=path)
    elif path.startswith("text/"):
      assert (after[path] != leaf).any(), path


@pytest.mark.parametrize("moment", [
    "save 5", "step 11",
    pytest.param("step 4", marks=pytest.mark.slow),
    pytest.param("step 8", marks=pytest.mark.slow),
])
def test_a_run_resumes_in_the_stage_in_which_it_died(
    tmp_path, no_page, whole_of_stages, moment
):
  killed_at(moment, staged(), tmp_path / "run")
  train.train(staged(), tmp_path / "run")
  tiny.assert_same_run(tmp_path / "run", whole_of_stages)


def test_a_damaged_checkpoint_leads_back_into_the_stage_before(
    tmp_path, no_page, whole_of_stages
):
  folder = tmp_path / "run"
  shutil.copytree(whole_of_stages, folder)
  for path in (folder / "checkpoints" / "12" / "state").rglob("*"):
    if path.is_file():
      path.write_bytes(b"?" * path.stat().st_size)
  train.train(staged(), folder)
  tiny.assert_same_run(folder, whole_of_stages)


# --- Bad input gets a sentence ------------------------------------------------


def mistakes():
  plain = tiny.config()
  return {
      "setting": (
          tiny.config(optimizer=dict(name="adamw", peek=1.0)),
          "no setting 'peek'; did you mean 'peak'",
      ),
      "type": (tiny.config(steps="many"), "config.steps is 'many' (str)"),
      "steps": (tiny.config(steps=-1), "config.steps is -1; it takes"),
      "every": (
          tiny.config(record=dict(every=0)), "record.every is 0; it takes"),
      "limit": (
          tiny.config(evals=dict(a={**plain["evals"]["single"], "limit": 0})),
          "evals.a.limit is 0; it takes",
      ),
      "stage": (
          tiny.config(stages=(dict(mesh=dict(data=1)),)),
          "a stage cannot change ['mesh']",
      ),
      "chunks": (
          tiny.config(gradient=dict(name="cached", chunks=3)),
          "a batch of 16 does not divide into 3 chunks",
      ),
      "empty": (
          tiny.config(source=dict(name="faulty", length=0)),
          "the source has no examples",
      ),
      "words": (
          tiny.config(source=dict(name="faulty", wordless=1)),
          "no caption has a visible character",
      ),
      "torn": (
          tiny.config(source=dict(name="faulty", torn=1)),
          "50 of 50 examples cannot be read (50 x ",
      ),
  }


@pytest.mark.parametrize("mistake", mistakes())
def test_bad_settings_get_a_sentence_before_anything_is_made(
    tmp_path, mistake
):
  config, sentence = mistakes()[mistake]
  with pytest.raises(SystemExit) as ended, cli.sentences():
    train.train(config, tmp_path / "run")
  assert sentence in ended.value.code
  assert "JAX" not in ended.value.code  # nor talk of tracebacks
  made = {path.name for path in tmp_path.rglob("*")} - {"run"}
  assert made <= {"tokenizer.model"}


def test_a_batch_that_the_devices_do_not_divide_is_refused(
    tmp_path, monkeypatch
):
  monkeypatch.setattr(jax, "devices", jax.local_devices)
  with pytest.raises(ValueError, match="12, which 8 devices do not divide"):
    train.train(tiny.config(batch_size=12), tmp_path / "run")


def test_a_start_that_failed_does_not_stand_in_the_way(tmp_path, no_page):
  wrong = tiny.config(
      gradient=dict(name="cached", chunks=3), source=tiny.scenes(length=3)
  )
  with pytest.raises(ValueError, match="chunks"):
    train.train(wrong, tmp_path / "run")
  killed_at("step 1", tiny.config(), tmp_path / "run")
  words = (tmp_path / "run" / "tokenizer.model").read_bytes()
  assert words == (tiny.whole() / "tokenizer.model").read_bytes()


def test_the_folder_of_another_run_is_left_as_it_is():
  folder = tiny.whole()
  before = tiny.files(folder)
  other = tiny.config(
      optimizer=dict(name="adamw", peak=1.0),
      gradient=dict(name="cached", chunks=3),  # wrong too, but that is not said
  )
  with pytest.raises(ValueError, match=r"other settings(.|\n)*optimizer/peak"):
    train.train(other, folder)
  assert tiny.files(folder) == before


def test_a_command_line_that_cannot_be_set_gets_a_sentence(tmp_path):
  settings = tiny.write_config(tmp_path / "tiny_config.py", tiny.config())
  done = tiny.program(
      "basic.train", "--config", settings, "--workdir", tmp_path / "run",
      "--config.optimizer.peek=3", toys=False,
  )
  assert done.returncode == 1
  assert "adamw has no setting 'peek'; did you mean 'peak'?" in done.stderr
  assert "Traceback" not in done.stderr
  assert not (tmp_path / "run").exists()


# --- Bad data is counted, and the run goes on ---------------------------------


def broken():
  return tiny.config(
      source=dict(name="faulty", torn=7, wordless=5), evals={},
      unreadable=dict(most=1.0),
  )


def failures(config):
  """Counts by walking the order of the examples, one read at a time."""
  source = tiny.faulty(torn=7, wordless=5)
  (stage,) = build.run(train.settings.complete(config), "unused")
  with stage.stream(0) as stream:
    order = stream.ids(0, 12 * 16)
  torn = wordless = 0
  for index in order.tolist():
    attempt, tried = 0, index
    while tried % 7 == 0 or tried % 5 == 4:
      torn += tried % 7 == 0
      wordless += tried % 7 != 0
      attempt += 1
      tried = examples.substitute(index, attempt, len(source))
  return torn, wordless


def last(folder, name):
  return [row[name] for row in recorder.read(folder) if name in row][-1]


def test_bad_examples_are_counted_and_replaced(tmp_path, no_page, monkeypatch):
  monkeypatch.chdir(tmp_path)
  train.train(broken(), "run")
  torn, wordless = failures(broken())
  assert torn > 20 and wordless > 20
  assert last("run", "data/unreadable/truncated image") == torn
  assert last("run", "data/unreadable/caption is not text") == wordless
  assert all(math.isfinite(loss) for _, loss in tiny.losses("run"))
  killed_at("step 8", broken(), "other")
  train.train(broken(), "other")
  tiny.assert_same_run("other", "run")


def test_bad_examples_of_an_evaluation_are_counted(tmp_path, no_page):
  config = tiny.config(evals=dict(torn=dict(
      name="retrieval", batch_size=8, limit=16,
      source=dict(name="faulty", torn=7))))
  train.train(config, tmp_path / "run")
  found = recorder.read(tmp_path / "run")[-1]
  assert found["retrieval/torn/unreadable/truncated image"] == 3
  assert found["retrieval/torn/count"] == 13


# --- What is not finite stops the run -----------------------------------------


def stopped(config, folder):
  with pytest.raises(FloatingPointError) as stop:
    train.train(config, folder)
  return str(stop.value)


def test_a_loss_that_is_not_finite_stops_at_its_step(
    tmp_path, no_page, monkeypatch
):
  run = build.run

  def poisoned(*args):
    (stage,) = run(*args)

    def update(state, batch):
      state, metrics = stage.program.update(state, batch)
      loss = jnp.where(state.step == 8, jnp.nan, metrics["loss"])
      return state, {**metrics, "loss": loss}

    return [stage._replace(program=stage.program._replace(update=update))]

  monkeypatch.setattr(build, "run", poisoned)
  config, folder = tiny.config(), tmp_path / "run"
  config["evals"] = {}
  sentence = stopped(config, folder)
  # Steps 6 to 10 were read together.
  assert sentence.startswith("step 8: loss is nan")
  assert "last good checkpoint is that of step 5." in sentence
  (stage,) = run(train.settings.complete(config), folder)
  with stage.stream(7 * 16) as stream:
    held = next(stream)["id"].tolist()
  shown = re.search(r"held the examples ([0-9, ]+)\.", sentence).group(1)
  assert [int(number) for number in shown.split(", ")] == held
  steps = [step for step, _ in tiny.losses(folder)]
  assert steps == list(range(1, 9))
  assert math.isnan(tiny.losses(folder)[-1][1])
  assert {p.name for p in (folder / "checkpoints").iterdir()} == {"5"}
  assert stopped(config, folder) == sentence  # it goes on from 5, to 8
  assert [step for step, _ in tiny.losses(folder)] == steps


@pytest.mark.parametrize(("peak", "step", "good"), [
    (1e25, 2, 1),  # parameters so large that their embeddings overflow
    (3e38, 1, None),  # parameters that overflow, after a finite loss
])
def test_no_state_that_is_not_finite_is_saved(
    tmp_path, no_page, peak, step, good
):
  config = tiny.config(
      optimizer=dict(name="sgd", peak=peak, schedule="constant"),
      gradient=dict(name="direct"), objective=dict(name="sigmoid"),
      checkpoint=dict(every=1), evals={},
  )
  sentence = stopped(config, tmp_path / "run")
  assert sentence.startswith(f"step {step}: ")
  if good is None:
    assert "last good checkpoint is none" in sentence
    return
  assert f"last good checkpoint is that of step {good}." in sentence
  for path, leaf in tiny.parameters(tmp_path / "run").items():
    assert np.isfinite(leaf).all(), path

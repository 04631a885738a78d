"""What would fail, or do nothing, is said before the first step."""

import contextlib
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest
import tiny

from basic import cli, train
from basic.experiment import build, sanity, settings
from basic.pages import report
from basic.recording import in_flight, lock, recorder


@pytest.fixture(autouse=True)
def toys_without_a_page(monkeypatch):
  tiny.install(monkeypatch)
  monkeypatch.setattr(report, "held_out", lambda *args: None)
  monkeypatch.setattr(report, "write", lambda folder, samples: pathlib.Path(folder))


def refusal(config, folder, errors=(ValueError, RuntimeError, OSError, ImportError)):
  """The sentence with which training refuses; no step may have been taken."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(in_flight.Pending, "add", lambda *args: pytest.fail("a step"))
    with pytest.raises(errors) as refused:
      train.train(config, folder)
  return "\n".join([str(refused.value), *getattr(refused.value, "__notes__", ())])


def begun(config, folder):
  """Trains one step, and what was warned of until then."""
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, "step", 1)
    with pytest.raises(tiny.Killed):
      train.train(config, folder)


# --- One writer ---------------------------------------------------------------


def test_a_second_run_is_refused_and_changes_nothing(tmp_path):
  folder = tmp_path / "run"
  begun(tiny.config(), folder)
  (folder / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir()  # being saved
  with lock.hold(folder):
    before = tiny.files(folder)
    with pytest.raises(SystemExit) as ended, cli.sentences():
      train.train(tiny.config(), folder)
    assert "InUseError" in ended.value.code and "since 2" in ended.value.code
    assert tiny.files(folder) == before
    assert (folder / "checkpoints" / "5.orbax-checkpoint-tmp").exists()


def test_readers_need_no_lock(tmp_path):
  from basic import evaluate, export
  from basic import report as report_program
  with lock.hold(tiny.whole()):
    step, metrics = evaluate.evaluate(tiny.whole())
    assert step == 12 and "zeroshot/single@1" in metrics
    report_program.rebuild(tiny.whole())
    with contextlib.suppress(ImportError):
      export.export(tiny.whole(), "stablehlo", tmp_path / "out")


def test_a_run_of_several_processes_is_refused_as_a_whole(tmp_path, monkeypatch):
  """The second process learns from the first that it may not begin."""
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(
      train.checksums, "total", lambda values: np.array([1 + values[0]]))
  with pytest.raises(lock.InUseError, match="the first process of this run"):
    train.train(tiny.config(), tmp_path / "run")
  assert list(tmp_path.iterdir()) == []


# --- A start that failed leaves the folder free -------------------------------


def failing_starts():
  return {
      "keep": (dict(checkpoint=dict(every=5, keep=-3)), "checkpoint.keep is -3"),
      "keep_every": (
          dict(checkpoint=dict(every=5, keep_every=0)), "checkpoint.keep_every is 0"),
      "seed": (dict(seed=-1), "config.seed is -1"),
      "weights": (
          dict(weights=dict(name="hf_clip", path="/nowhere", paths=("image/.*",))),
          "/nowhere"),
      "wandb": (
          dict(record=dict(every=1, tensorboard=False, wandb=dict(project="x"))),
          "wandb"),
  }


@pytest.mark.parametrize("name", failing_starts())
def test_a_start_that_fails_leaves_no_configuration(tmp_path, monkeypatch, name):
  monkeypatch.setitem(sys.modules, "wandb", None)  # as if not installed
  changes, sentence = failing_starts()[name]
  folder = tmp_path / "run"
  assert sentence in refusal(tiny.config(**changes), folder)
  assert not (folder / "config.json").exists()
  begun(tiny.config(evals={}), folder)


def test_a_run_whose_vocabulary_is_gone_is_not_given_another(tmp_path):
  folder = tmp_path / "run"
  begun(tiny.config(evals={}), folder)
  (folder / "tokenizer.model").unlink()
  assert "restore the file" in refusal(tiny.config(evals={}), folder)
  assert not (folder / "tokenizer.model").exists()


# --- Evaluations are rehearsed ------------------------------------------------


def judged_by(**changes):
  return tiny.config(evals=dict(odd=dict(
      dict(name="zeroshot", batch_size=8, limit=16,
           source=tiny.scenes(split="test", kind="single")), **changes)))


def unfit():
  plain = tiny.scenes(split="test", kind="single")
  return {
      "size": (
          judged_by(source={**plain, "canvas": 32}), ""),
      "classes": (
          judged_by(source=dict(name="faulty")), "classes"),
      "labels": (judged_by(subset=(0, 1)), "not among"),
      "templates": (judged_by(templates=("a digit",)), "without '{}'"),
      "captions": (
          judged_by(name="retrieval", source=dict(name="faulty", wordless=1)), ""),
  }


@pytest.mark.parametrize("fault", unfit())
def test_an_evaluation_that_would_fail_fails_before_the_first_step(
    tmp_path, fault
):
  config, sentence = unfit()[fault]
  said = refusal(config, tmp_path / "run", Exception)
  assert sentence in said
  assert not (tmp_path / "run" / "config.json").exists()


def test_a_rehearsal_needs_shapes_alone(tmp_path):
  (stage,) = build.run(settings.complete(tiny.config()), tmp_path)
  state = stage.program.state()
  assert all(
      isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(state.params))
  with stage.program.layout.context():
    for evaluation in stage.evals:
      evaluation.rehearse(state.params)


def test_a_batch_larger_than_the_data_takes_no_more_memory_than_the_data(tmp_path):
  config = judged_by(batch_size=10**9, limit=16)
  begun(config, tmp_path / "run")


# --- Settings that do nothing, runs that cannot learn -------------------------


def staged(**changes):
  return tiny.config(
      stages=(dict(steps=5), dict(steps=7)), evals={}, **changes)


def hopeless():
  return {
      "one row": (tiny.config(batch_size=1, gradient=None), "batch_size is 1"),
      "one row in a stage": (
          tiny.config(stages=(dict(steps=12, batch_size=1),), gradient=None),
          "stages[0].batch_size is 1"),
      "one class": (
          tiny.config(
              text=None, evals=None, projection=dict(width=None),
              objective=dict(name="classification", classes=1)),
          "classes is 1; classification() by softmax takes at least 2"),
      "all frozen": (tiny.config(frozen=(".*",)), "matches every parameter"),
      "no rate": (
          tiny.config(optimizer=dict(name="adamw", peak=0.0)), "peak is 0"),
      "home": (
          tiny.config(tokenizer=dict(model="~/a.model")),
          "tokenizer.model is '~/a.model'"),
      "variable": (
          tiny.config(weights=dict(name="hf_clip", path="$DATA/clip")),
          "weights.path is '$DATA/clip'"),
      "no path": (
          tiny.config(weights=dict(name="hf_clip", path="")), "weights.path is empty"),
  }


@pytest.mark.parametrize("changes", [
    dict(gradient=dict(name="cached", chunks=2, keep_bytes=2**33)),
    dict(record=dict(wandb=dict(notes="a $5 budget", size=2**33))),
    dict(text=None, evals=None, projection=dict(width=None), batch_size=1,
         objective=dict(name="classification", classes=1, kind="sigmoid")),
])
def test_what_can_work_is_not_refused(changes):
  config = tiny.config(**changes)
  sanity.check(config, settings.complete(config))


def test_texts_of_a_stage_have_the_length_of_the_stage(tmp_path):
  stages = build.run(settings.complete(tiny.config(evals=None, stages=(
      dict(steps=1), dict(steps=1, text=dict(length=8)),
      dict(steps=1, text=dict(length=20)),
  ))), tmp_path)
  lengths = [stage.shapes["text"].shape[1] for stage in stages]
  assert lengths == [stages[0].config["text"]["length"], 8, 20]


@pytest.mark.parametrize("name", hopeless())
def test_a_run_that_cannot_learn_or_begin_is_refused(tmp_path, name):
  config, sentence = hopeless()[name]
  assert sentence in refusal(config, tmp_path / "run")
  assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("workdir", ["~/r1", "$HOME/r1", ""])
def test_a_workdir_that_a_shell_should_have_replaced_is_refused(
    tmp_path, monkeypatch, workdir
):
  monkeypatch.chdir(tmp_path)
  assert "--workdir is" in refusal(tiny.config(), workdir)
  assert list(tmp_path.iterdir()) == []


def test_a_size_that_no_array_has_is_refused_by_its_path(tmp_path):
  for group, name, value in (
      ("image", "hidden", 10**12), ("text", "width", -1), ("text", "width", 0),
      ("projection", "width", -1),
  ):
    config = tiny.config()
    config[group] = {**config[group], name: value}
    assert f"{group}.{name} is {value}" in refusal(config, tmp_path / "run")


def idle():
  return {
      "record": (tiny.config(record=dict(every=50, tensorboard=False)),
                 "record.every is 50, and the run has 12 steps"),
      "checkpoint": (tiny.config(checkpoint=dict(every=50)),
                     "checkpoint.every is 50"),
      "evals": (judged_by(every=50), "evals.odd.every is 50"),
      "warmup": (
          tiny.config(optimizer=dict(name="adamw", peak=1e-2, warmup=12)),
          "never reaches optimizer.peak"),
      "steps": (staged() | dict(steps=99), "steps is 99 outside `stages`"),
      "towers": (
          tiny.config(frozen=("image/.*", "text/.*")), "will be trained"),
  }


@pytest.mark.parametrize("name", idle())
def test_a_setting_that_does_nothing_is_warned_of(tmp_path, caplog, name):
  config, sentence = idle()[name]
  begun(config, tmp_path / "run")
  assert sentence in caplog.text


def test_a_run_in_which_every_setting_counts_is_not_warned_of(tmp_path, caplog):
  begun(staged(), tmp_path / "run")
  assert "has no effect" not in caplog.text and "the run has" not in caplog.text


@pytest.mark.parametrize("override", [
    "--config.steps=99", "--config.batch_size=32",
])
def test_the_command_line_may_not_set_what_every_stage_sets(tmp_path, override):
  stages = [dict(steps=5, batch_size=8), dict(steps=7, batch_size=16)]
  config = tiny.write_config(
      tmp_path / "staged_config.py", tiny.config(stages=stages))
  done = tiny.program(
      "basic.train", "--config", config, "--workdir", tmp_path / "run", override)
  assert done.returncode == 1
  assert "has no effect: every stage sets" in done.stderr
  assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize("program", ["train", "plan"])
def test_a_stage_that_is_not_there_gets_a_sentence(tmp_path, program):
  config = tiny.write_config(
      tmp_path / "staged_config.py", tiny.config(stages=[dict(steps=12)]))
  where = ["--workdir", tmp_path / "run"] if program == "train" else []
  done = subprocess.run(
      [sys.executable, "-m", f"basic.{program}", "--config", config, *where,
       "--config.stages[5].steps=3"],
      cwd=tiny.ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert "stages[5] is not there: the configuration has 1 stage" in done.stderr
  assert "Traceback" not in done.stderr


# --- A disk that is full --------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
  folder = tmp_path / "disk"
  folder.mkdir()
  mounted = shutil.which("mount") and subprocess.run(
      ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)],
      capture_output=True).returncode == 0
  if not mounted:
    pytest.skip("needs the right to mount a small disk")
  yield folder
  subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_in_advice_of_one_screen_and_leaves_no_rest(
    tmp_path, small_disk
):
  config = tiny.write_config(tmp_path / "full_config.py", tiny.config(
      checkpoint=dict(every=1, keep=9), evals={}))
  done = tiny.program(
      "basic.train", "--config", config, "--workdir", small_disk / "run")
  assert done.returncode == 1
  lines = done.stderr.splitlines()
  assert len(lines) < 24 and "Traceback" not in done.stderr
  assert lines[-1].endswith("start the same command again")
  assert "No space left on device" in lines[-1]
  left = {p.name for p in (small_disk / "run" / "checkpoints").iterdir()}
  assert not any("tmp" in name for name in left)


# --- What train() takes -------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [ml_collections.ConfigDict, ml_collections.FrozenConfigDict])
def test_a_config_dict_is_taken(tmp_path, kind):
  plain = staged()
  stages = plain["stages"]
  if kind is ml_collections.FrozenConfigDict:  # It admits no dict in a tuple.
    plain["stages"] = stages = ()
  config = kind({**plain, "stages": tuple(kind(s) for s in stages)})
  begun(config, tmp_path / "run")
  stored = json.loads((tmp_path / "run" / "config.json").read_text())
  assert [s["steps"] for s in stored["stages"]] == [s["steps"] for s in stages]
  begun(plain, tmp_path / "run")  # The same run, so the same settings.
  assert recorder.read(tmp_path / "run") == []

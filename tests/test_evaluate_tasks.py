"""The program on tasks: models side by side, killed and started again."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import test_shared_evaluation
import tiny

from basic import evaluate
from basic.experiment import suite

TASK = """
about = "Digits."
name = "zeroshot"
limit = 24
batch_size = 16
[source]
name = "digits"
split = "test"
kind = "KIND"
canvas = 24
channels = 1
"""
# Runs the program, which kills itself as soon as it has stored one result.
DIES = """
import os, signal, sys
from basic import files
replace = files.replace
def once(path, content):
  replace(path, content)
  os.kill(os.getpid(), signal.SIGKILL)
files.replace = once
import tiny
tiny.main()
"""


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


@pytest.fixture
def listed(tmp_path):
  """Two tasks with data, and one without."""
  found = []
  for kind in ("single", "pairs"):
    found.append(tmp_path / f"{kind}.toml")
    found[-1].write_text(TASK.replace("KIND", kind))
  return [*map(str, found), "objectnet"]


def test_models_stand_side_by_side_and_absent_data_is_said(tmp_path, listed):
  said = []
  found = evaluate.compare(
      [str(tiny.whole())] * 2, listed, out=tmp_path / "out", say=said.append
  )
  assert [list(r["status"] for r in rs) for rs in found.results.values()] == [
      ["done"] * 2, ["done"] * 2, ["skipped"] * 2,
  ]
  assert len(said) == 6 and "TFDS does not have ObjectNet" in said[2]
  plain = json.loads((tmp_path / "out" / "results.json").read_text())
  assert plain["models"] == [f"{tiny.whole()}, step 12"] * 2
  table = (tmp_path / "out" / "table.txt").read_text()
  assert table.splitlines()[-1].startswith("objectnet skipped: ")


def test_a_step_can_be_named(tmp_path, listed):
  found = evaluate.compare(
      [str(tiny.whole())], listed[:1], out=tmp_path / "out", step=10)
  assert found.models == [f"{tiny.whole()}, step 10"]


def test_a_step_can_be_named_of_a_run_whose_path_has_a_colon(tmp_path, listed):
  run = tmp_path / "12:30"
  shutil.copytree(tiny.whole(), run)
  found = evaluate.compare([str(run)], listed[:1], out=tmp_path / "out", step=10)
  assert found.models == [f"{run}, step 10"]


def test_tasks_that_cannot_be_are_refused_before_anything_is_measured(
    tmp_path, listed, monkeypatch
):
  monkeypatch.setattr(suite, "measure", None)
  with pytest.raises(FileNotFoundError, match="no task 'cifar11'"):
    evaluate.compare([str(tiny.whole())], [*listed, "cifar11"], out=tmp_path / "out")


def test_two_tasks_of_one_name_are_refused(tmp_path, listed, monkeypatch):
  monkeypatch.setattr(suite, "measure", None)
  (tmp_path / "other").mkdir()
  other = tmp_path / "other" / "single.toml"
  other.write_text(TASK.replace("KIND", "pairs"))
  with pytest.raises(ValueError, match="both called 'single'"):
    evaluate.compare([str(tiny.whole())], [*listed, str(other)], out=tmp_path / "out")


def killed(*arguments):
  """The program, killed after the first result."""
  paths = os.pathsep.join([str(tiny.ROOT), str(tiny.ROOT / "tests")])
  return subprocess.run(
      [sys.executable, "-c", DIES, *map(str, arguments)], cwd=tiny.ROOT,
      env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
      timeout=300,
  )


def test_a_killed_program_goes_on_with_the_next_task(tmp_path, listed):
  command = (
      "basic.evaluate", "--workdir", tiny.whole(), "--tasks", ",".join(listed[:2]),
      "--out", tmp_path / "out",
  )
  done = killed(*command)
  assert done.returncode == -signal.SIGKILL, done.stderr
  (first,) = tmp_path.glob("out/*.json")
  before = (first.read_bytes(), first.stat().st_mtime_ns)
  done = tiny.program(*command, "--json")
  assert done.returncode == 0, done.stderr
  assert (first.read_bytes(), first.stat().st_mtime_ns) == before
  found = json.loads(done.stdout)
  whole = evaluate.compare([str(tiny.whole())], listed[:2], out=tmp_path / "whole")
  for name, (record,) in whole.results.items():
    assert found["results"][name][0]["metrics"] == record["metrics"]
    assert found["results"][name][0]["intervals"] == record["intervals"]


@pytest.mark.parametrize("arguments, sentence", [
    ((), "nothing to evaluate"),
    (("--weights", "hf_clip:x"), "are those of one --workdir; for --weights"),
    (("--workdir", "a", "--workdir", "b"), "side by side, give --suite (all, paper"),
    (("--workdir", "a", "--suite", "papers"), "--suite is 'papers'"),
    (("--workdir", "a", "b", "--suite", "paper"), "['b'] are no settings"),
])
@pytest.mark.slow
def test_what_cannot_be_meant_gets_a_sentence(arguments, sentence):
  done = tiny.program("basic.evaluate", *arguments, toys=False)
  assert done.returncode == 1 and "Traceback" not in done.stderr
  assert sentence in done.stderr


@pytest.mark.slow
def test_the_exit_status_is_1_if_nothing_has_a_result_or_something_failed(
    tmp_path, listed
):
  start = ("basic.evaluate", "--workdir", tiny.whole(), "--out", tmp_path, "--tasks")
  assert tiny.program(*start, listed[2]).returncode == 1
  wrong = tmp_path / "wrong.toml"
  wrong.write_text('templates = ["x"]\n' + TASK.replace("KIND", "single"))
  done = tiny.program(*start, f"{listed[0]},{wrong}")
  assert done.returncode == 1 and "failed: ValueError" in done.stdout
  assert "single" in done.stdout and "accuracy" in done.stdout


PROCESS = """
import pathlib, sys
from basic.sharding import layout
layout.join()
import pytest, tiny
tiny.one_device = lambda patch: None
import jax
from basic import evaluate
run, folder, *names = sys.argv[1:]
rank = jax.process_index()
if rank == 1:  # Has another folder of data, and no results of its own.
  names[-1] = str(pathlib.Path(names[-1]).parent / "absent" / "here.toml")
  folder += "_of_the_other"
with pytest.MonkeyPatch.context() as patch:
  tiny.install(patch)
  found = evaluate.compare([run], names, out=folder)
print([records[0]["status"] for records in found.results.values()])
"""


@pytest.mark.slow
def test_two_processes_agree_on_what_is_there_and_find_what_one_finds(
    tmp_path, listed
):
  one_half = tmp_path / "here.toml"
  one_half.write_text(TASK.replace("KIND", "single"))
  (tmp_path / "absent").mkdir()
  gone = 'name = "folder"\npath = "/nowhere/at/all"\n'
  (tmp_path / "absent" / "here.toml").write_text(
      'name = "zeroshot"\nlimit = 24\n[source]\n' + gone)
  alone = evaluate.compare([str(tiny.whole())], listed[:2], out=tmp_path / "alone")
  # The first process has the result of a task; the other does not see it.
  evaluate.compare([str(tiny.whole())], listed[:1], out=tmp_path / "both")
  ready = test_shared_evaluation.started
  with pytest.MonkeyPatch.context() as patch, socket.socket() as free:
    patch.setattr(test_shared_evaluation, "PROCESS", PROCESS)
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
    names = [tiny.whole(), tmp_path / "both", *listed[:2], one_half]
    processes = [ready(*names, rank=rank, port=port) for rank in range(2)]
  said = [process.communicate(timeout=300) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  assert all("['done', 'done', 'skipped']" in out for out, _ in said), said
  both = json.loads((tmp_path / "both" / "results.json").read_text())
  for name, (record,) in alone.results.items():
    assert both["results"][name][0]["metrics"] == record["metrics"]
    assert both["results"][name][0]["intervals"] == record["intervals"]

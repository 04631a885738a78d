"""A run whose data is damaged: counted, listed, resumed, and stopped with 45."""

import logging
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import pytest
import tiny

from basic import cli, train
from basic.experiment import build, settings
from basic.pages import report
from basic.recording import quarantine, recorder


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)
  monkeypatch.setattr(report, "held_out", lambda *args: None)


def config(torn=0, **changes):
  """A run over 300 examples of which every `torn`-th cannot be read."""
  source = dict(name="faulty", torn=torn, length=300)
  return tiny.config(**{"source": source, "evals": {}, **changes})


def stopped(given, folder):
  with pytest.raises(cli.DamagedData) as error:
    train.train(given, folder)
  return str(error.value)


def data(folder):
  """The lines about the data, without what else is in them."""
  rows = [
      {k: x for k, x in row.items() if k == "step" or k.startswith("data/")}
      for row in recorder.read(folder)
  ]
  return [row for row in rows if len(row) > 1]


def bad_positions(given, count):
  """Positions whose example is one of the torn ones."""
  (stage,) = build.run(settings.complete(given), "unused")
  with stage.stream(0) as stream:
    order = stream.ids(0, count).tolist()
  return [p for p, index in enumerate(order) if index % given["source"]["torn"] == 0]


def test_more_than_a_tenth_of_a_small_data_set_ends_the_run(
    tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  given = config(torn=2)  # half of it
  bad = bad_positions(given, 300)
  thirty_first = bad[30]
  with pytest.raises(SystemExit) as ended, cli.sentences():
    train.train(given, "run")
  assert ended.value.code == cli.DAMAGED == 45
  said = capsys.readouterr().err
  assert (
      f"31 of the first {thirty_first + 1} examples of an epoch of 300 could not "
      "be read (31 x truncated image), and unreadable.most allows 0.1 of 300."
  ) in said
  assert re.search(r"\n  example \d+: truncated image: it ends after 12 b", said)
  assert f"All are in {pathlib.Path('run') / 'quarantine.jsonl'}." in said
  assert "Training stopped; there is no checkpoint yet." in said
  assert "raise unreadable.most" in said and "Traceback" not in said
  # It stops where the steps are read next, which is where it would be saved.
  assert recorder.read("run")[-1]["step"] == -(-(thirty_first + 1) // 80) * 5


def test_a_tenth_itself_is_allowed_and_all_of_it_is_recorded(
    tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  given = config(torn=10, steps=20)
  train.train(given, "run")
  bad = bad_positions(given, 320)
  assert len([p for p in bad if p < 300]) == 30
  last = data("run")[-1]
  assert last["step"] == 20
  assert last["data/substituted"] == len(bad)
  assert last["data/unreadable_fraction"] == len(bad) / 320
  assert last["data/unreadable/truncated image"] >= len(bad)
  listed = quarantine.read("run")
  assert sorted(row["index"] for row in listed) == list(range(0, 300, 10))
  assert listed[0]["message"] == "truncated image: it ends after 12 bytes"
  page = pathlib.Path("run", "report.html").read_text()
  assert f"an example could not be read {len(bad)} times" in page
  assert "lists 30 different examples" in page


@pytest.mark.parametrize("moment", ["save 5", "step 8"])
def test_counts_and_list_after_a_kill_are_those_of_one_go(
    tmp_path, monkeypatch, moment
):
  monkeypatch.chdir(tmp_path)
  given = config(torn=13)
  where, step = moment.split()
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, where, int(step))
    with pytest.raises(tiny.Killed):
      train.train(given, "parts")
  train.train(given, "parts")
  train.train(given, "whole")
  tiny.assert_same_run("parts", "whole")
  assert quarantine.read("parts") == quarantine.read("whole")
  assert data("parts")[-1]["data/substituted"] > 5


def late_excess(bad, first):
  """(window, most) that are exceeded from `first` on; and where."""
  for window in range(40, 120):
    shares = {p: sum(p - window < at <= p for at in bad) for p in bad}
    most = max(shares.values()) - 1
    at = next(p for p in bad if shares[p] > most)
    if at >= first and sum(80 <= p <= at for p in bad) < most:
      return window, most / window, at
  raise AssertionError("no such window")


def test_what_was_bad_before_a_resume_counts_after_it(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  given = config(torn=7)
  window, most, at = late_excess(bad_positions(given, 12 * 16), 112)
  given["unreadable"] = dict(most=most, window=window)
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, "step", 7)  # The checkpoint is that of step 5.
    with pytest.raises(tiny.Killed):
      train.train(given, "parts")
  parts, whole = stopped(given, "parts"), stopped(given, "whole")
  assert f"of the last {min(at + 1, window)} examples could not be read" in whole
  assert parts.replace("parts", "whole") == whole


def test_a_raised_limit_or_mended_data_lets_the_same_run_go_on(
    tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  strict = config(torn=5)
  sentence = stopped(strict, "run")
  assert "the newest checkpoint is that of step 5." in sentence
  shutil.copytree("run", "mended")
  lenient = config(torn=5, unreadable=dict(most=0.5))
  train.train(lenient, "run")
  train.train(lenient, "whole")
  tiny.assert_same_run("run", "whole")
  monkeypatch.setattr(
      tiny._Faulty, "__getitem__", lambda self, index: self._good[index]
  )
  train.train(strict, "mended")
  assert recorder.read("mended")[-1]["step"] == 12


def test_a_stage_counts_its_own_window_and_the_run_its_sum(
    tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  given = config(
      torn=11, unreadable=dict(most=0.1),
      stages=(dict(steps=6), dict(steps=6, source=dict(torn=12))),
  )
  train.train(given, "run")
  rows = data("run")
  counts = [row["data/substituted"] for row in rows]
  assert counts == sorted(counts) and counts[-1] > 10
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, "save", 6)
    with pytest.raises(tiny.Killed):
      train.train(given, "parts")
  train.train(given, "parts")
  tiny.assert_same_run("parts", "run")


def test_an_evaluation_with_much_unreadable_is_warned_of(tmp_path, caplog):
  caplog.set_level(logging.WARNING)
  source = dict(name="faulty", torn=7)
  judged = dict(name="retrieval", batch_size=8, limit=16, source=source)
  train.train(
      tiny.config(evals=dict(torn=judged), steps=1), tmp_path / "run"
  )
  assert (
      "evals.torn: 3 of its 16 examples could not be read (3 x truncated image)"
  ) in caplog.text
  caplog.clear()
  most = dict(most=3 / 16)
  train.train(
      tiny.config(evals=dict(torn=judged), steps=1, unreadable=most),
      tmp_path / "run",
  )
  assert "evals.torn" not in caplog.text


def test_a_source_without_a_fingerprint_is_warned_of_once(
    tmp_path, caplog, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  caplog.set_level(logging.WARNING)
  stages = (dict(steps=1), dict(steps=1), dict(steps=1, source=tiny.scenes()))
  train.train(config(stages=stages), "run")
  assert caplog.text.count("the source faulty has no `fingerprint`") == 1
  assert caplog.text.count("has no `fingerprint`") == 1


@pytest.mark.parametrize(("group", "sentence"), [
    (dict(most=1.5), "unreadable.most is 1.5; it takes a fraction"),
    (dict(most=-0.1), "unreadable.most is -0.1; it takes a fraction"),
    (dict(window=0), "unreadable.window is 0; it takes"),
    (dict(listed=-1), "unreadable.listed is -1; it takes"),
    (dict(warn_after=0.0), "unreadable.warn_after is 0.0; it takes seconds"),
    (dict(stop_after=-1.0), "unreadable.stop_after is -1.0; it takes seconds"),
])
def test_limits_that_are_none_get_a_sentence(group, sentence):
  with pytest.raises(ValueError, match=re.escape(sentence)):
    settings.complete(tiny.config(unreadable=group))
  with pytest.raises(ValueError, match="a stage cannot change"):
    settings.complete(tiny.config(stages=(dict(unreadable=dict(most=0.5)),)))


# --- Programs -----------------------------------------------------------------


def test_a_read_that_hangs_ends_the_program_and_keeps_what_was_saved(tmp_path):
  given = config(
      checkpoint=dict(every=1),
      unreadable=dict(warn_after=0.5, stop_after=2.0),
      tokenizer=dict(captions=4),  # Which reads 4 examples, 0 and 299 of them.
  )
  (stage,) = build.run(settings.complete(given), tmp_path)
  with stage.stream(0) as stream:
    given["source"]["hangs"] = int(stream.ids(100, 101)[0])
  file = tiny.write_config(tmp_path / "tiny_config.py", given)
  done = tiny.program(
      "basic.train", "--config", file, "--workdir", tmp_path / "run", timeout=120
  )
  assert done.returncode == cli.DAMAGED, done.stderr
  assert f"example {given['source']['hangs']} for " in done.stderr
  assert "The thread that reads example" in done.stderr
  last = done.stderr.splitlines()[-1]
  assert last.startswith("no example came for 2 s; being read are example")
  saved = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
  assert "6" in saved  # Positions 80 to 95; the seventh batch never came.


PROCESS = """
import os, sys
import tiny
tiny.one_device = lambda patch: None
tiny.main()
"""


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(tmp_path):
  """Each counts what the other could not read, as one process would."""
  given = config(checkpoint=dict(every=5))
  given["source"]["torn"] = 5
  file = tiny.write_config(tmp_path / "tiny_config.py", given)
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  processes = []
  for rank in range(2):
    environment = {
        **os.environ, "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": os.pathsep.join([str(tiny.ROOT), str(tiny.ROOT / "tests")]),
        "OMPI_MCA_orte_hnp_uri": f"1531576320.0;tcp://127.0.0.1:{port}",
        "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank), "JAX_COORDINATOR_PORT": str(port),
    }
    processes.append(subprocess.Popen(
        [sys.executable, "-c", PROCESS, "basic.train", "--config", str(file),
         "--workdir", str(tmp_path / "run"), "--distributed"],
        env=environment, cwd=tiny.ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ))
  said = [process.communicate(timeout=180)[1] for process in processes]
  assert [process.returncode for process in processes] == [45, 45], said
  assert "31 of the first" in said[0] and "31 of the first" in said[1]
  listed = [row["index"] for row in quarantine.read(tmp_path / "run")]
  assert len(listed) == len(set(listed)) >= 31
  alone = tmp_path / "alone"
  stopped(given, alone)
  assert [row["index"] for row in quarantine.read(alone)] == listed
  assert data(tmp_path / "run") == data(alone)

"""The program that writes the page of a run anew."""

import shutil

import pytest
import tiny

from basic import report
from basic.recording import manifest, recorder


def run(folder, **config):
  """The folder of a run that has written one line."""
  manifest.begin(folder, {"steps": 2, **config}, command=["train"])
  with recorder.Recorder(folder, total=2, batch_size=8, tensorboard=False) as writer:
    writer.write(1, {"loss": 1.5})
  return str(folder)


def test_rebuild_writes_the_page_that_training_wrote(tmp_path, monkeypatch):
  tiny.install(monkeypatch)
  folder = tmp_path / "whole"
  shutil.copytree(tiny.whole(), folder)
  before = (folder / "report.html").read_text()
  (folder / "report.html").unlink()
  assert report.rebuild(folder) == folder / "report.html"
  after = (folder / "report.html").read_text()
  assert "data:image/png" in after  # the galleries
  assert len(after) == pytest.approx(len(before), rel=0.01)


def test_a_run_that_saved_nothing_has_a_page_without_galleries(
    tmp_path, monkeypatch
):
  tiny.install(monkeypatch)
  tiny.begin(tmp_path)
  assert report.rebuild(tmp_path).exists()


def test_the_program_says_of_a_folder_that_it_is_no_run(tmp_path):
  done = tiny.program("basic.report", "--workdir", tmp_path, toys=False)
  assert done.returncode == 1
  assert "holds no config.json" in done.stderr
  assert "Traceback" not in done.stderr


def test_several_runs_are_compared_beside_them_or_where_it_is_said(
    tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  one = run(tmp_path / "runs" / "one", batch_size=8)
  two = run(tmp_path / "runs" / "two", batch_size=16)
  far = run(tmp_path / "far", batch_size=32)
  beside = report.written(None, [one, two], None)
  assert beside == tmp_path / "runs" / "comparison.html"
  text = beside.read_text()
  assert "<code>8</code>" in text and "<code>16</code>" in text
  assert report.written(None, [one, far], None).resolve() == (
      tmp_path / "comparison.html")
  out = tmp_path / "new" / "page.html"
  assert report.written(None, [two, far], str(out)) == out and out.exists()


def test_one_run_without_a_flag_has_its_own_page(tmp_path, monkeypatch):
  tiny.install(monkeypatch)
  tiny.begin(tmp_path / "run")
  run_page = tmp_path / "run" / "report.html"
  assert report.written(None, [str(tmp_path / "run")], None) == run_page
  assert run_page.exists()


def test_a_command_line_that_says_two_things_is_refused(tmp_path):
  one = run(tmp_path / "one")
  for workdir, runs in ((None, []), (one, [one])):
    with pytest.raises(ValueError, match="give --workdir RUN for the page"):
      report.written(workdir, runs, None)
  with pytest.raises(ValueError, match="--out is the file of a comparison"):
    report.written(one, [], "x.html")
  with pytest.raises(ValueError, match="was given twice"):
    report.written(None, [one, f"{tmp_path}/./one"], None)
  with pytest.raises(FileNotFoundError, match=r"two holds no config\.json"):
    report.written(None, [one, str(tmp_path / "two")], None)


def test_the_program_compares_its_arguments(tmp_path):
  folders = [run(tmp_path / name) for name in ("one", "two")]
  done = tiny.program("basic.report", *folders, toys=False)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == str(tmp_path / "comparison.html")

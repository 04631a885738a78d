"""The report of a run lies in the run's folder."""

import shutil

import pytest
import tiny

from basic import report
from basic.recording import manifest
from basic.recording import recorder as record


def test_write_puts_the_page_into_the_folder(tmp_path):
  manifest.begin(tmp_path, {"batch_size": 8}, command=["train", "--x"])
  with record.Recorder(
      tmp_path, total=1, batch_size=8, tensorboard=False
  ) as writer:
    writer.write(1, {"loss": 1.5})
  target = report.write(tmp_path, None)
  assert target == tmp_path / "report.html"
  text = target.read_text()
  assert "train --x" in text
  assert "nats per row by step: loss" in text
  assert "8 examples" in text


def test_a_folder_of_no_run_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no config\.json"):
    report.write(tmp_path, None)


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

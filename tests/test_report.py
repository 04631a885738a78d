"""The program that writes the page of a run anew."""

import shutil

import pytest
import tiny

from basic import report


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

"""The report is written into the folder of the run."""

import pytest

from basic.pages import report
from basic.recording import manifest, recorder


def test_write_puts_the_page_into_the_folder(tmp_path):
  manifest.begin(tmp_path, {"batch_size": 8}, command=["train", "--x"])
  with recorder.Recorder(
      tmp_path, total=1, batch_size=8, tensorboard=False
  ) as writer:
    writer.write(1, {"loss": 1.5})
  target = report.write(tmp_path, None)
  assert target == tmp_path / "report.html"
  text = target.read_text()
  assert "train --x" in text
  assert "nats per row by step: loss" in text
  assert "8 examples" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no config\.json"):
    report.write(tmp_path, None)

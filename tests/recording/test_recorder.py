"""Numbers survive kills and resumes; progress is said without device reads."""

import io
import json
import math
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from basic.recording import journal, manifest, progress, recorder


def record(folder, **settings):
  defaults = dict(
      total=100, batch_size=8, tensorboard=False, stream=io.StringIO()
  )
  return recorder.Recorder(folder, **{**defaults, **settings})


def lines(folder):
  return (folder / "metrics.jsonl").read_text().splitlines()


def test_the_doors_of_the_record_are_those_of_its_parts():
  assert recorder.begin is manifest.begin
  assert recorder.read is journal.read
  assert recorder.curve is journal.curve


def test_a_line_is_one_json_object_with_the_prefix_before_each_name(tmp_path):
  with record(tmp_path) as writer:
    writer.write(5, {"loss": jnp.float32(0.1), "rows": np.int64(3)})
    writer.write(5, {"text_to_image@1": 0.5}, prefix="retrieval/")
  first, second = map(json.loads, lines(tmp_path))
  # float32 0.1 as the double that equals it, so that bits can be compared.
  assert first.pop("time") > 0
  assert first == {"step": 5, "loss": float(np.float32(0.1)), "rows": 3}
  assert second["retrieval/text_to_image@1"] == 0.5


def test_numbers_that_are_not_finite_make_valid_json_and_come_back(tmp_path):
  found = {"a": math.nan, "b": math.inf, "c": jnp.float32(-math.inf)}
  with record(tmp_path) as writer:
    writer.write(1, found)

  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  row = json.loads(lines(tmp_path)[0], parse_constant=refuse)
  assert (row["a"], row["b"], row["c"]) == ("nan", "inf", "-inf")
  (row,) = recorder.read(tmp_path)
  assert math.isnan(row["a"]) and row["b"] == math.inf and row["c"] == -math.inf


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_every_scalar_type_of_a_device_is_taken(tmp_path, dtype):
  with record(tmp_path) as writer:
    writer.write(1, {"x": jnp.asarray(2, dtype)})
  assert recorder.read(tmp_path)[0]["x"] == 2


def test_lines_are_on_disk_before_the_record_is_closed(tmp_path):
  writer = record(tmp_path)
  writer.write(1, {"loss": 1.0})
  assert len(recorder.read(tmp_path)) == 1
  writer.close()
  writer.close()
  with pytest.raises(ValueError, match="closed"):
    writer.write(2, {"loss": 1.0})


@pytest.mark.parametrize("metrics, message", [
    ({"x": np.zeros(3)}, r"'x' has shape \(3,\)"),
    ({"step": 1.0}, "named 'step'"),
    ({"time": 1.0}, "named 'time'"),
])
def test_what_is_not_one_number_is_refused(tmp_path, metrics, message):
  with record(tmp_path) as writer:
    with pytest.raises(ValueError, match=message):
      writer.write(1, metrics)
  assert lines(tmp_path) == []


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b"\x00\x00", b'{"a": 1}'])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn)
  assert [row["step"] for row in recorder.read(tmp_path)] == [1, 2]
  with record(tmp_path, start=2) as writer:
    writer.write(3, {"loss": 1.0})
  assert [json.loads(x)["step"] for x in lines(tmp_path)] == [1, 2, 3]


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
  (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}')
  with record(tmp_path, start=2) as writer:
    writer.write(3, {})
  assert [json.loads(x)["step"] for x in lines(tmp_path)] == [1, 2, 3]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
  (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
  with pytest.raises(ValueError, match=r"Line 2 of .*not a line of metrics"):
    recorder.read(tmp_path)
  with pytest.raises(ValueError, match="Line 2"):
    record(tmp_path)


@pytest.mark.parametrize("line", [
    b'{"step": "2"}', b'{"step": null}', b'{"step": [1]}', b'{"step": true}',
    b'{"step": 1.5}', b'[1]', b'null', b'{"step": 2, "loss": {}}',
    b'{"step": 2, "loss": "high"}', b'\xff\xfe',
])
def test_a_line_that_holds_no_numbers_is_refused_by_its_number(tmp_path, line):
  (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b"\n")
  for read in (recorder.read, record):
    with pytest.raises(ValueError, match=r"Line 2 of .*metrics\.jsonl is not a"):
      read(tmp_path)


def test_a_resumed_run_repeats_the_lines_of_one_that_was_not_stopped(tmp_path):
  def run(folder, start, stop):
    with record(folder, start=start) as writer:
      for step in range(start + 1, stop + 1):
        writer.write(step, {"loss": 1 / step})

  run(tmp_path / "whole", 0, 6)
  run(tmp_path / "parts", 0, 5)
  run(tmp_path / "parts", 3, 6)
  parts, whole = (
      [{**row, "time": 0} for row in recorder.read(tmp_path / name)]
      for name in ("parts", "whole")
  )
  assert parts == whole
  assert len(parts) == 6


def test_lines_taken_out_are_reported(tmp_path):
  with record(tmp_path) as writer:
    for step in (1, 2, 3):
      writer.write(step, {})
  said = io.StringIO()
  record(tmp_path, start=1, stream=said).close()
  assert "removed 2 lines, incomplete or after step 1" in said.getvalue()


def test_a_curve_holds_the_steps_that_have_the_metric():
  rows = [{"step": 1, "a": 2}, {"step": 2}, {"step": 3, "a": math.nan}]
  steps, values = recorder.curve(rows, "a")
  assert steps.tolist() == [1, 3]
  assert values[0] == 2 and math.isnan(values[1])
  assert recorder.curve(rows, "b")[0].shape == (0,)


def test_tensorboard_gets_the_same_numbers(tmp_path):
  with record(tmp_path, tensorboard=True) as writer:
    writer.write(1, {"some_loss": 1.5})
  (events,) = (tmp_path / "tensorboard").iterdir()
  assert b"some_loss" in events.read_bytes()


def test_weights_and_biases_missing_is_said_in_a_sentence(
    tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(ModuleNotFoundError, match="Install basic"):
    record(tmp_path, wandb={"project": "x"})


def test_weights_and_biases_goes_on_with_the_same_run(tmp_path, monkeypatch):
  calls = []

  def init(**settings):
    calls.append(settings)
    return types.SimpleNamespace(
        log=calls.append,
        define_metric=lambda *a, **k: None,
        finish=lambda: calls.append("finish"),
    )

  monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
  for start in (0, 1):
    with record(tmp_path, start=start, wandb={"project": "x"}) as writer:
      writer.write(start + 1, {"loss": 2.0})
  first, row, end, second, *_ = calls
  assert first == second
  assert first["project"] == "x" and first["resume"] == "allow"
  assert (row, end) == ({"step": 1, "loss": 2.0}, "finish")


def test_other_processes_write_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(recorder.jax, "process_index", lambda: 1)
  said = io.StringIO()
  with record(tmp_path / "run", stream=said, every=0.0) as writer:
    writer.write(1, {"loss": 1.0})
    writer.progress(1)
    writer.show({"loss": 1.0})
    manifest.begin(tmp_path / "run", {}, command=[])
  assert not (tmp_path / "run").exists()
  assert said.getvalue() == ""


def test_rate_counts_examples_since_it_was_asked_last(tmp_path):
  now = [0.0]
  with record(tmp_path, clock=lambda: now[0]) as writer:
    assert writer.rate() == 0.0
    now[0] = 100.0  # compilation, before the first step is done
    writer.progress(1)
    now[0] = 102.0
    writer.progress(5)
    assert writer.rate() == 4 * 8 / 2
    now[0] = 110.0
    assert writer.rate() == 0.0
    now[0] = 114.0
    writer.progress(6)
    assert writer.rate() == 1 * 8 / 4


def test_progress_speaks_a_line_every_so_often(tmp_path):
  now, said = [0.0], io.StringIO()
  with record(tmp_path, stream=said, clock=lambda: now[0]) as writer:
    writer.write(1, {"loss": 2.5})
    for step in range(1, 23):
      writer.progress(step)
      now[0] += 1.0
  first, second = said.getvalue().splitlines()
  assert first.split("  ") == [
      "step 11/100", "11.0%", "8.0 examples/s", "0:01:29 left", "loss 2.5"
  ]
  assert second.startswith("step 21/100")


def test_a_terminal_gets_a_bar_in_examples():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  screen = Terminal()
  bar = progress.Progress(total=4, batch_size=100, start=1, stream=screen)
  bar.note("loss 2.5")
  for step in (2, 3, 4):
    bar.at(step)
  bar.say("a line")
  bar.close()
  assert "step 4/4" in screen.getvalue()
  assert "400/400" in screen.getvalue()
  assert "examples/s" in screen.getvalue()
  assert "a line\n" in screen.getvalue()


def test_results_are_shown_as_a_table(tmp_path):
  said = io.StringIO()
  with record(tmp_path, stream=said) as writer:
    writer.show({"b/long_name": jnp.float32(0.25), "a/x": 1.0})
  assert said.getvalue().split("\n") == [
      "a/x          1.000", "", "b/long_name  0.2500", ""
  ]

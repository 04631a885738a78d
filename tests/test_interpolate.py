"""The line between two checkpoints, and what is on it."""

import json

import pytest
import tiny

from basic import evaluate, interpolate


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


def test_both_ends_are_judged_as_their_checkpoints_are():
  step, found = interpolate.interpolate(tiny.whole(), 10, (0.0, 0.5, 1.0))
  assert step == 12
  assert found[0.0] == evaluate.evaluate(tiny.whole(), 10)[1]
  assert found[1.0] == evaluate.evaluate(tiny.whole(), 12)[1]
  assert found[0.5].keys() == found[0.0].keys()


def test_the_program_prints_one_json_object():
  done = tiny.program(
      "basic.interpolate", "--workdir", tiny.whole(), "--start", 10, "--mix",
      "0,1", "--json",
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert (found["start"], found["step"]) == (10, 12)
  assert found["mix"]["1.0"] == evaluate.evaluate(tiny.whole(), 12)[1]

"""Evaluations with a second source, from their settings to the recorded metrics."""

import logging

import numpy as np
import pytest
import tiny

from basic import train
from basic.experiment import build, restore, settings
from basic.recording import recorder

SINGLE = tiny.scenes(split="test", kind="single")
KNOWN = tiny.scenes(split="train", kind="single")


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


def judged(**changes):
  near = dict(
      name="knn", neighbours=3, batch_size=8, source=SINGLE, limit=20,
      reference=KNOWN, reference_limit=30,
  )
  return tiny.config(evals=dict(near={**near, **changes}), steps=2)


def test_a_reference_is_completed_where_an_evaluator_takes_one():
  full = settings.complete(judged())["evals"]["near"]
  assert full["reference"]["split"] == "train"
  assert full["reference"]["canvas"] == 24  # A setting that was given, and
  assert "mix" in full["reference"]  # one of those that were not.
  others = settings.complete(tiny.config())["evals"]
  assert not any("reference" in key for each in others.values() for key in each)
  assert settings.complete(full_again := settings.complete(judged())) == full_again


@pytest.mark.parametrize("changes, sentence", [
    (dict(name="zeroshot"), r"zeroshot\(\) has no setting '.*reference"),
    (dict(reference=dict(name="digit")), r"evals\.near\.reference\.name: there is no"),
    (dict(reference=dict(name="digits", spilt="x")), "near.reference: digits"),
    (dict(reference_limit=0), "reference_limit is 0; it takes"),
    (dict(reference=7), "evals.near.reference is 7"),
])
def test_what_cannot_be_meant_is_refused(changes, sentence):
  config = judged(**changes)
  if changes.get("name"):
    del config["evals"]["near"]["neighbours"]
  with pytest.raises(ValueError, match=sentence):
    settings.complete(config)


def test_a_missing_reference_is_said():
  config = judged()
  del config["evals"]["near"]["reference"]
  with pytest.raises(ValueError, match="needs the setting 'reference'"):
    settings.complete(config)


def test_a_stage_changes_settings_of_a_reference_and_keeps_the_others():
  changed = settings.changed(
      judged(), dict(evals=dict(near=dict(reference=dict(split="test")))))
  assert changed["evals"]["near"]["reference"] == {**KNOWN, "split": "test"}


def test_other_classes_are_refused_before_training(tmp_path):
  scenes = tiny.scenes(split="train", length=40)
  sentence = "near: label 0 is 'zero' in its source and 'one digit' in its reference"
  with pytest.raises(ValueError, match=sentence):
    build.run(settings.complete(judged(reference=scenes)), tmp_path)


def test_a_reference_without_labels_is_refused_before_training(tmp_path):
  config = judged(label="species")
  with pytest.raises(ValueError, match=r"knn found .* needs \['species'\]") as caught:
    train.train(config, tmp_path / "run")
  assert "before the first step" in caught.value.__notes__[0]


def test_probes_and_health_are_measured_in_training(tmp_path, caplog):
  torn = dict(name="faulty", torn=2, length=40)
  few = dict(source=SINGLE, limit=20, reference=KNOWN, reference_limit=32)
  config = tiny.config(steps=2, evals=dict(
      near=dict(name="knn", neighbours=3, source=SINGLE, limit=20, reference=torn,
                label="label"),
      line=dict(name="probe", l2=1.0, steps=20, **few),
      shots=dict(name="fewshot", shots=(1,), seeds=1, **few),
      shape=dict(name="health", source=SINGLE, limit=20, every=1),
  ))
  with caplog.at_level(logging.WARNING):
    train.train(config, tmp_path)
  rows = recorder.read(tmp_path)
  assert [r["step"] for r in rows if "health/shape/alignment" in r] == [1, 2]
  last = {k: v for row in rows if row["step"] == 2 for k, v in row.items()}
  assert last["knn/near/reference_count"] == 20
  assert last["knn/near/reference/unreadable/truncated image"] == 20
  assert "evals.near.reference: 20 of its 40 examples" in caplog.text
  assert 0 <= last["probe/line@1"] <= 1 and last["probe/line/reference_count"] == 32
  assert 0 <= last["fewshot/shots/1_shot@1"] <= 1
  _, state = restore.load(tmp_path)
  scale = float(np.exp(state.params["objective"]["log_scale"]))
  assert last["health/shape/temperature"] == pytest.approx(1 / scale, rel=1e-6)

"""Towers of a run, or of weights, without the data that they were trained on."""

import shutil

import numpy as np
import pytest
import tiny

from basic import optim, paths, train
from basic.experiment import restore, schema, towers


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


def assert_same(found, expected):
  found, expected = paths.flatten(found), paths.flatten(expected)
  assert found.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(found[path], leaf, err_msg=path, strict=True)


def test_the_towers_of_a_run_are_those_it_ended_with_without_its_data(monkeypatch):
  _, state = restore.load(tiny.whole())
  made = schema.make

  def without_sources(folder, settings, **extra):
    assert folder != "sources"
    return made(folder, settings, **extra)

  monkeypatch.setattr(schema, "make", without_sources)
  found = towers.named(tiny.whole())
  assert_same(found.params, state.params)
  assert found.step == 12
  ids = found.tokenizer("a seven")
  z = found.encoder.encode(found.params, {"text": np.stack([ids, ids])})
  assert z.views["text"].pooled.shape == (2, 8)


def test_the_average_is_evaluated_where_a_run_keeps_one(tmp_path):
  changed = dict(name="adamw", peak=1e-2, warmup=2, ema_decay=0.9)
  train.train(tiny.config(steps=4, optimizer=changed, evals={}), tmp_path)
  _, state = restore.load(tmp_path)
  found = towers.of_run(tmp_path)
  assert_same(found.params, optim.evaluation_params(state))
  with pytest.raises(AssertionError):
    assert_same(found.params, state.params)


def test_a_fingerprint_is_that_of_the_weights_and_not_of_their_place(tmp_path):
  shutil.copytree(tiny.whole(), tmp_path / "copy")
  newest = towers.of_run(tiny.whole()).fingerprint
  assert towers.of_run(tmp_path / "copy").fingerprint == newest
  assert towers.of_run(tiny.whole(), 10).fingerprint != newest


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
  shutil.copytree(tiny.whole(), tmp_path / "run")
  for path in (tmp_path / "run/checkpoints/12/state").rglob("*"):
    if path.is_file():
      path.write_bytes(b"?" * path.stat().st_size)
  assert_same(
      towers.of_run(tmp_path / "run").params, towers.of_run(tiny.whole(), 10).params
  )


def test_a_replaced_vocabulary_is_refused(tmp_path):
  shutil.copytree(tiny.whole(), tmp_path / "run")
  other = tiny.config(tokenizer=dict(captions=20), evals={}, steps=1)
  train.train(other, tmp_path / "other")
  shutil.copy(tmp_path / "other/tokenizer.model", tmp_path / "run")
  with pytest.raises(ValueError, match="words would have other ids"):
    towers.of_run(tmp_path / "run")


def test_what_is_neither_a_run_nor_weights_is_refused_in_words(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
    towers.named(tmp_path)
  with pytest.raises(ValueError, match=r"names the format 'hf_clap'; there are"):
    towers.named("hf_clap:somewhere")

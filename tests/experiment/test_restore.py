"""A run's state comes back from its folder, whichever stage it was in."""

import shutil

import jax
import numpy as np
import pytest
import tiny

from basic import train
from basic.engine import checkpoint
from basic.experiment import build, restore, settings, start


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


def test_a_step_belongs_to_the_stage_that_took_it(tmp_path):
  (stage,) = build.run(settings.complete(tiny.config()), tmp_path)
  stages = [stage._replace(end=end) for end in (5, 9, 12)]
  for end, steps in ((5, (0, 1, 5)), (9, (6, 9)), (12, (10, 12, 13))):
    assert [restore.at(stages, step).end for step in steps] == [end] * len(steps)


def test_abstract_allocates_nothing_and_says_where_everything_lies(tmp_path):
  (stage,) = build.run(settings.complete(tiny.config()), tmp_path)
  with stage.program.layout.context():
    found = jax.tree.leaves(stage.program.state())
    expected = jax.tree.leaves(stage.program.fresh())
  for shape, leaf in zip(found, expected, strict=True):
    assert isinstance(shape, jax.ShapeDtypeStruct)
    assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)
    assert shape.sharding == leaf.sharding


def test_load_gives_the_state_that_training_ended_with():
  stage, state = restore.load(tiny.whole())
  assert int(state.step) == stage.end == 12
  _, older = restore.load(tiny.whole(), 10)
  assert int(older.step) == 10


def test_a_folder_of_no_run_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
    restore.load(tmp_path)


def test_a_run_without_a_checkpoint_is_refused_and_left_as_it_is(tmp_path):
  tiny.begin(tmp_path)
  before = tiny.files(tmp_path)
  with pytest.raises(restore.NoCheckpoint, match="holds no checkpoint yet"):
    restore.load(tmp_path)
  assert tiny.files(tmp_path) == before


def test_a_new_run_starts_with_the_first_stage(tmp_path):
  stages = build.run(settings.complete(tiny.config()), tmp_path)
  with stages[0].program.layout.context(), checkpoint.Checkpoints(
      tmp_path / "checkpoints", every=5
  ) as checkpoints:
    begun = start.resume(stages, checkpoints)
  assert int(begun.state.step) == 0
  assert begun.position == {} and begun.origin is None


def test_other_data_under_the_same_settings_is_refused(tmp_path, monkeypatch):
  folder = tmp_path / "run"
  shutil.copytree(tiny.whole(), folder)
  before = (folder / "metrics.jsonl").read_bytes()
  monkeypatch.setattr(type(tiny.digits.digits()), "fingerprint", "changed")
  with pytest.raises(ValueError, match="the saved fingerprint is"):
    train.train(tiny.config(), folder)
  assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(tiny.whole(), folder)
  for path in (folder / "checkpoints" / "12" / "state").rglob("*"):
    if path.is_file():
      path.write_bytes(b"?" * path.stat().st_size)
  stage, state = restore.load(folder)
  assert int(state.step) == 10
  assert stage.end == 12
  ours = tiny.parameters(folder)
  for path, leaf in tiny.parameters(tiny.whole(), 10).items():
    np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
  with pytest.raises(ValueError, match=r"\[12\].*none is intact"):
    restore.load(folder, 12)

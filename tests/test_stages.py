"""The three stages of BASIC as one run: classes, a text tower, both."""

import pathlib

import jax
import numpy as np
import pytest
import tiny

from basic import train
from basic.experiment import build, restore, settings
from basic.pages import report

ENDS = (4, 8, 12)


@pytest.fixture(autouse=True)
def toys_without_a_page(monkeypatch):
  tiny.install(monkeypatch)
  monkeypatch.setattr(report, "samples", lambda *args: None)
  monkeypatch.setattr(report, "write", lambda folder, samples: pathlib.Path(folder))


def staged():
  """Image tower by classes; text tower, image locked; both. Noise is on."""
  return tiny.config(
      source=tiny.scenes(kind="single"),
      captions=dict(templates=("the digit {}", "a {}")),
      objective=dict(name="softmax"),
      optimizer=dict(name="adafactorw", peak=1e-2, factor_from=8),
      stages=(
          dict(
              steps=4, text=None, evals=None, projection=dict(width=None),
              objective=dict(name="classification", classes=10)),
          dict(steps=4, frozen=("image/encoder/.*",)),
          dict(steps=4, optimizer=dict(peak=1e-3)),
      ),
      checkpoint=dict(every=3, keep=9),
  )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("three") / "whole"
  with pytest.MonkeyPatch.context() as patch:
    tiny.install(patch)
    patch.setattr(report, "samples", lambda *args: None)
    patch.setattr(report, "write", lambda folder, samples: pathlib.Path(folder))
    train.train(staged(), folder)
  return folder


def test_each_stage_learns_its_own(whole):
  first, second, third = (tiny.parameters(whole, end) for end in ENDS)
  assert {p.split("/")[0] for p in first} == {"image", "objective"}
  assert first["objective/kernel"].shape == (8, 10)
  assert not any(p.startswith("objective/kernel") for p in second)
  for path, leaf in second.items():
    if path.startswith("image/encoder/"):  # Locked, bit for bit.
      np.testing.assert_array_equal(leaf, first[path], err_msg=path)
    if not path.startswith("objective/"):  # All that the third has moves.
      assert (third[path] != leaf).any(), path


def test_evaluations_begin_with_the_text_tower(whole):
  judged = [
      row["step"] for row in tiny.rows(whole) if "zeroshot/single@1" in row]
  assert judged == [8, 12]


def test_a_locked_tower_has_no_slots(whole):
  _, state = restore.load(whole, ENDS[1])
  slots = [
      jax.tree_util.keystr(path)
      for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)
  ]
  assert any("text" in slot for slot in slots)
  assert not any("image" in s and "encoder" in s for s in slots)


def test_unfreezing_changes_no_loss(whole, tmp_path):
  stages = build.run(settings.complete(staged()), tmp_path)
  _, state = restore.load(whole, ENDS[1])
  with stages[1].program.layout.context():
    with stages[1].stream(0) as stream:
      batch = stages[1].program.layout.shard(next(stream))
    after = train.enter(stages[2], state)
    # The same step draws the same noise, so the loss may not differ at all;
    # two compiled programs may round differently.
    losses = []
    for stage, begun in ((stages[1], state), (stages[2], after)):
      begun = jax.tree.map(jax.numpy.copy, begun)  # A step donates its state.
      losses.append(float(stage.program.update(begun, batch)[1]["loss"]))
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize("moment", [
    "step 3", "step 7",
    pytest.param("save 4", marks=pytest.mark.slow),
    pytest.param("save 8", marks=pytest.mark.slow),
    pytest.param("step 11", marks=pytest.mark.slow),
])
def test_a_run_killed_in_any_stage_resumes_in_it(tmp_path, whole, moment):
  where, step = moment.split()
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, where, int(step))
    with pytest.raises(tiny.Killed):
      train.train(staged(), tmp_path / "run")
  train.train(staged(), tmp_path / "run")
  tiny.assert_same_run(tmp_path / "run", whole)

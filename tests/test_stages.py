"""The three stages of BASIC as one run: classes, a text tower, both."""

import dataclasses
import pathlib

import checks
import jax
import numpy as np
import pytest
import tiny

from basic import paths, train
from basic.experiment import build, restore, settings
from basic.ops import position_embeddings
from basic.pages import report

ENDS = (4, 8, 12)


@pytest.fixture(autouse=True)
def toys_without_a_page(monkeypatch):
  tiny.install(monkeypatch)
  monkeypatch.setattr(report, "held_out", lambda *args: None)
  monkeypatch.setattr(report, "write", lambda folder, samples: pathlib.Path(folder))


def staged():
  """Image tower by classes; text tower, image locked; both. Noise is on."""
  return tiny.config(
      source=tiny.scenes(kind="single"),
      captions=dict(templates=("the digit {}", "a {}")),
      objective=dict(name="softmax"),
      optimizer=dict(name="adafactorw", peak=1e-2, min_dim_size_to_factor=8),
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
    patch.setattr(report, "held_out", lambda *args: None)
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


def test_a_locked_tower_has_no_optimizer_state(whole):
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
  # Logits of 8 features, losses of 16 columns over 16 rows.
  np.testing.assert_allclose(*losses, rtol=checks.rounding(40))


def resized(*stages):
  """An image tower with learned positions, whose images change their size."""
  return settings.complete(tiny.config(
      image=dict(name="vit", width=8, depth=1, heads=2, patch=8),
      optimizer=dict(name="adamw", peak=1e-2, warmup=2, ema_decay=0.9),
      augment=dict(size=16), evals=None, stages=stages,
  ))


def test_a_change_of_resolution_keeps_what_was_learned(tmp_path):
  stages = build.run(
      resized(dict(steps=1), dict(steps=1, augment=dict(size=24))), tmp_path
  )
  build.check_stages(stages)
  with stages[0].program.layout.context():
    old = dataclasses.replace(stages[0].program.fresh(), step=jax.numpy.int32(1))
    new = train.enter(stages[1], old)
  before, after = (paths.flatten(s.params) for s in (old, new))
  where = "image/encoder/positions"
  assert (before[where].shape, after[where].shape) == ((2, 2, 8), (3, 3, 8))
  for path, leaf in after.items():
    expected = before[path]
    if path == where:
      expected = position_embeddings.resize(expected, 3, 3)
    # float32: the same sums, compiled with and without a jit around them.
    np.testing.assert_allclose(leaf, expected, rtol=1e-6, atol=1e-8, err_msg=path)


@pytest.mark.parametrize(("changes", "sentence"), [
    (dict(image=dict(width=16)), r"stages\[1\]: this stage cannot go on .*"
                                 r"image/encoder/.*: .*8\] before, .*16\] in"),
    (dict(image=dict(name="toy")), "image/encoder/positions: only the stage befo"),
    (dict(fresh=("images/.*",)), r"stages\[1\]: .*'images/\.\*' of fresh matches"),
    (dict(fresh=("(",)), r"stages\[1\]: .*'\(' is not a regular expression"),
])
def test_what_a_stage_would_lose_is_refused_before_the_first_step(
    tmp_path, changes, sentence
):
  whole = resized(dict(steps=1), dict(steps=1, **changes))
  with pytest.raises(ValueError, match=f"(?s){sentence}"):
    train.train(whole, tmp_path)
  assert not (tmp_path / "config.json").exists()


def test_what_a_stage_says_may_start_anew(tmp_path):
  changes = dict(image=dict(width=16), fresh=("image/(encoder|projection)/.*",))
  whole = resized(dict(steps=1), dict(steps=1, **changes))
  stages = build.run(whole, tmp_path)
  build.check_stages(stages)
  with stages[0].program.layout.context():
    old = dataclasses.replace(stages[0].program.fresh(), step=jax.numpy.int32(1))
    new = train.enter(stages[1], old)
  assert new.params["image"]["encoder"]["positions"].shape == (2, 2, 16)
  jax.tree.map(
      np.testing.assert_array_equal, new.params["text"], old.params["text"]
  )


def test_the_first_stage_has_nothing_to_start_anew():
  with pytest.raises(ValueError, match="the first stage sets `fresh`"):
    resized(dict(steps=1, fresh=("image/.*",)), dict(steps=1))


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

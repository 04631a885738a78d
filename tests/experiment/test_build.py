"""From a configuration to objects: vocabulary, stages, placement, refusals."""

import checks
import jax
import numpy as np
import pytest
import tiny

from basic.data import tokenizer
from basic.experiment import build, settings
from basic.sharding import layout


@pytest.fixture(autouse=True)
def toys(monkeypatch):
  tiny.install(monkeypatch)


def run(workdir, **changes):
  return build.run(
      settings.complete(tiny.config(evals={}, **changes)), workdir
  )


def begun(folder):
  """A folder in which a run has begun: it holds a configuration."""
  (folder / "config.json").write_text("{}")


def test_the_vocabulary_is_of_the_captions_and_stored_with_the_run(tmp_path):
  run(tmp_path)
  stored = (tmp_path / tokenizer.FILE).read_bytes()
  words = tokenizer.Tokenizer(stored, 12)
  assert words.decode(words("a three")) == "a three"
  assert words.vocab <= 64


def test_a_stored_vocabulary_is_used_again(tmp_path):
  stage, = run(tmp_path)
  begun(tmp_path)
  with stage.stream(0) as stream:
    expected = next(stream)["text"]
  # Other captions would make another vocabulary.
  shapes = dict(name="shapes", canvas=32)
  model = (tmp_path / tokenizer.FILE).read_bytes()
  run(tmp_path, source=shapes)
  assert (tmp_path / tokenizer.FILE).read_bytes() == model
  stage, = run(tmp_path, tokenizer=dict(captions=20))
  with stage.stream(0) as stream:
    np.testing.assert_array_equal(next(stream)["text"], expected)


def test_a_vocabulary_file_can_be_given(tmp_path):
  other = tmp_path / "other"
  run(other)
  model = other / tokenizer.FILE
  run(
      tmp_path / "mine", source=dict(name="shapes", canvas=32),
      tokenizer=dict(model=str(model)),
  )
  assert (tmp_path / "mine" / tokenizer.FILE).read_bytes() == model.read_bytes()
  with pytest.raises(ValueError, match=r"has \d+ tokens and text.vocab is 8; "
                                       r"set text.vocab to \d+ or more"):
    run(
        tmp_path / "few", text=dict(name="toy", vocab=8),
        tokenizer=dict(model=str(model)),
    )


def test_a_run_without_text_has_no_vocabulary(tmp_path):
  stage, = run(
      tmp_path, text=None,
      objective=dict(name="classification", classes=4),
  )
  assert not (tmp_path / tokenizer.FILE).exists()
  with stage.stream(0) as stream:
    assert "text" not in next(stream)
  params = jax.eval_shape(stage.program.fresh).params
  assert sorted(params) == ["image", "objective"]


def test_a_batch_has_the_shapes_that_were_promised(tmp_path):
  stage, = run(tmp_path)
  with stage.stream(0) as stream:
    batch = stage.program.layout.shard(next(stream))
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
      k: (v.shape, v.dtype) for k, v in stage.shapes.items()
  }


def test_steps_compile_once_and_the_state_is_where_it_was_placed(tmp_path):
  stage, = run(tmp_path)
  with stage.program.layout.context(), stage.stream(0) as stream:
    state = stage.program.fresh.lower().compile(compiler_options=checks.HASTE)()
    placed = stage.program.layout.place(state)
    batch = stage.program.layout.shard(next(stream))
    update = stage.program.update.lower(state, batch).compile(
        compiler_options=checks.HASTE
    )
    for _ in range(3):  # It refuses what is not placed as before.
      state, _ = update(state, batch)
      batch = stage.program.layout.shard(next(stream))
  for leaf, sharding in zip(
      jax.tree.leaves(state), jax.tree.leaves(placed), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def spans(stages):
  return [(s.start, s.end, s.rate_start) for s in stages]


def test_stages_follow_each_other_and_share_a_schedule_where_they_can(
    tmp_path
):
  stages = run(tmp_path, stages=(
      dict(steps=3, batch_size=8),
      dict(steps=4),
      dict(steps=2, frozen=("image/.*",)),
      dict(steps=1, frozen=("image/.*",), seed=1),
      dict(steps=5, optimizer=dict(peak=1e-3)),
  ))
  assert spans(stages) == [
      (0, 3, 0), (3, 7, 0), (7, 9, 7), (9, 10, 7), (10, 15, 10)
  ]
  assert [s.config["batch_size"] for s in stages] == [8, 16, 16, 16, 16]
  # One cosine over the first two stages: warm at 2, and near zero at 7.
  rate = [float(stages[0].program.rate(n)) for n in range(8)]
  assert rate == [float(stages[1].program.rate(n)) for n in range(8)]
  assert rate[0] == 0 and max(rate) == rate[2] > 20 * rate[7]
  assert np.isclose(float(stages[4].program.rate(2)), 1e-3)


def test_a_run_without_stages_is_one(tmp_path):
  assert spans(run(tmp_path)) == [(0, 12, 0)]


def test_a_frozen_tower_has_no_slots(tmp_path):
  stage, = run(tmp_path, frozen=("image/.*",))
  slots = [
      jax.tree_util.keystr(path) for path, _ in
      jax.tree_util.tree_leaves_with_path(jax.eval_shape(stage.program.fresh).opt_state)
  ]
  assert any("text" in slot for slot in slots)
  assert not any("image" in slot for slot in slots)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(source=dict(name="faulty", length=0)),
         "the source has no examples; check its name and split"),
        (dict(source=dict(name="faulty", length=0), text=None,
              objective=dict(name="classification", classes=4)),
         "the source has no examples"),
        (dict(frozen=("images/.*",)), "'images/.*' of frozen matches no"),
        (dict(views=dict(image="image", words="txt", text="text")),
         "view 'words' names the tower 'txt'"),
        (dict(views=dict(image="image")), "no view reads the tower 'text'"),
        (dict(mesh=dict(data=3)), "must multiply to"),
        (dict(optimizer=dict(name="adamw", lr_multipliers=[["txt/.*", 0.1]])),
         "'txt/.*' of lr_multipliers matches no trainable parameter"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_words(
    tmp_path, changes, sentence
):
  with pytest.raises(ValueError, match=sentence):
    run(tmp_path, **changes)


def test_a_batch_that_the_devices_do_not_divide_is_refused(
    tmp_path, monkeypatch
):
  config = settings.complete(tiny.config(batch_size=12))
  mesh = layout.mesh(jax.local_devices()[:8])
  monkeypatch.setattr(layout, "mesh", lambda **sizes: mesh)
  with pytest.raises(ValueError, match="batch_size is 12, which 8 devices do "
                                       "not divide"):
    build.run(config, tmp_path)

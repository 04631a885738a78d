"""Captions made of labels: every class once, drawn from the key alone."""

import itertools
import pickle

import numpy as np
import pytest
import tiny

from basic import types
from basic.data import captions, examples, pipeline, tokenizer
from basic.experiment import build, settings

ANIMALS = ("cat", "dog", "newt")


def drawn(caption, example, index, seed=0):
  return caption(example, np.random.default_rng((seed, index)))


def test_a_name_stands_in_each_template_in_turn():
  caption = captions.captions(
      classes=ANIMALS, templates=("a photo of a {}.", "{}, a {}"))
  found = {drawn(caption, {"label": np.int32(1)}, n) for n in range(40)}
  assert found == {"a photo of a dog.", "dog, a dog"}


@pytest.mark.parametrize("joiner", [" and ", ", "])
def test_every_class_stands_once_in_every_order(joiner):
  caption = captions.captions(classes=ANIMALS, joiner=joiner)
  example = {"label": np.array([2, -1, 0, 2, 1, -1])}
  found = {drawn(caption, example, n) for n in range(200)}
  assert found == {joiner.join(p) for p in itertools.permutations(ANIMALS)}


def test_a_caption_is_a_function_of_seed_and_index():
  caption = captions.captions(
      classes=tuple(map(str, range(30))), templates=("{}", "a {}"))
  example = {"label": np.arange(30)}
  again = pickle.loads(pickle.dumps(caption))
  assert drawn(caption, example, 5) == drawn(again, example, 5)
  assert drawn(caption, example, 5) != drawn(caption, example, 6)
  assert drawn(caption, example, 5) != drawn(caption, example, 5, seed=1)


def test_without_a_generator_nothing_is_drawn():
  caption = captions.captions(
      classes=ANIMALS, templates=("the {}", "a {}"), label="seen")
  assert caption({"seen": (2, 0)}, None) == "the newt and cat"
  assert caption({"seen": 1}, None) == "the dog"


@pytest.mark.parametrize(("wrong", "sentence"), [
    (dict(classes=()), "a source without `classes`"),
    (dict(templates=()), "no templates and needs one"),
    (dict(templates=("{}", "a photo")), "'a photo' without '{}'"),
])
def test_captions_that_cannot_be_made_are_refused(wrong, sentence):
  with pytest.raises(ValueError, match=sentence):
    captions.captions(**{"classes": ANIMALS, **wrong})


@pytest.mark.parametrize(("example", "sentence"), [
    ({"label": 3}, "'label' 3, and the source names 3 classes"),
    ({"label": [0, -2]}, "'label' -2, and"),
    ({"label": 1.0}, r"'label' float64\[\] and needs an integer"),
    ({"label": [[1]]}, r"int64\[1, 1\] and needs"),
    ({"image": 0}, r"the fields \['image'\] and needs 'label'"),
])
def test_labels_that_name_nothing_are_refused(example, sentence):
  caption = captions.captions(classes=ANIMALS)
  with pytest.raises(ValueError, match=sentence) as refusal:
    caption(example, None)
  assert not isinstance(refusal.value, types.Unreadable)


def test_an_example_without_a_class_is_unreadable():
  with pytest.raises(types.Unreadable, match=r"no label: 'label' is \[-1, -1\]"):
    captions.captions(classes=ANIMALS)({"label": [-1, -1]}, None)


def test_captions_spread_over_a_source_pass_over_what_is_unreadable():
  caption = captions.captions(classes=ANIMALS, templates=("{}", "a {}"))
  source = [{"label": n % 4 - 1, "text": ("x", 7, "y")} for n in range(40)]
  found = list(captions.spread(source, 40, caption=caption, seed=0))
  assert len(found) == 30 and set(found) == {
      f"{a}{name}" for a in ("", "a ") for name in ANIMALS}
  assert found == list(captions.spread(source, 40, caption=caption, seed=0))
  own = list(captions.spread(source, 3, caption=None, seed=0))
  assert own == ["x", "y"] * 3
  with pytest.raises(ValueError, match="no examples; check its name"):
    list(captions.spread([], 3, caption=None, seed=0))


def test_a_stream_reads_labels_in_place_of_text():
  words = []

  def tokenize(caption):
    words.append(caption)
    return np.array([len(caption)], np.int32)

  source = [{"label": n % 3, "text": "no"} for n in range(12)]
  ready = examples.prepare(
      tokenize=tokenize,
      caption=captions.captions(classes=ANIMALS, templates=("{}", "a {}")),
  )

  def batch(start):
    words.clear()
    with pipeline.stream(
        source, prepare=ready, batch_size=4, seed=3, start=start, threads=0
    ) as batches:
      labels = next(batches)["label"].tolist()
    return list(words), labels

  said, labels = batch(4)
  assert [w.removeprefix("a ") for w in said] == [ANIMALS[k] for k in labels]
  assert batch(4) == (said, labels)  # Resumed, the words are the same.


@pytest.fixture
def run(monkeypatch):
  tiny.install(monkeypatch)

  def run(folder, **changes):
    return build.run(
        settings.complete(tiny.config(**{"evals": {}, **changes})), folder
    )

  return run


LABELLED = tiny.scenes(kind="single")
PROMPTS = dict(templates=("xyz {}", "{} zyx"))


def test_a_labelled_source_trains_the_text_tower(run, tmp_path):
  stage, = run(tmp_path, source=LABELLED, captions=PROMPTS)
  # The vocabulary is that of the captions, of all templates.
  words = tokenizer.Tokenizer(tokenizer.load(tmp_path), 12)
  with stage.stream(0) as stream:
    batch = next(stream)
  for ids, label in zip(batch["text"], batch["label"], strict=True):
    name = stage.source.classes[label]
    assert words.decode(ids) in (f"xyz {name}", f"{name} zyx")


def test_evaluations_keep_their_own_text_or_caption_their_labels(run, tmp_path):
  how = dict(
      name="zeroshot", batch_size=8, limit=8,
      source=tiny.scenes(split="test", kind="single"))
  stage, = run(
      tmp_path, source=LABELLED, captions=PROMPTS,
      evals=dict(own=how, labels=dict(how, label_captions=PROMPTS)),
  )
  params = stage.program.fresh().params
  shown = {e.prefix: e.samples(params, 4).captions for e in stage.evals}
  assert all(said.startswith("xyz ") for said in shown["zeroshot/labels"])
  assert not any("xyz" in said for said in shown["zeroshot/own"])
  assert {s.removeprefix("xyz ") for s in shown["zeroshot/labels"]} <= set(
      stage.source.classes)


def test_settings_of_captions_are_checked(run, tmp_path):
  with pytest.raises(ValueError, match="no setting 'template'; did you mean"):
    run(tmp_path, captions=dict(template=("a {}",)))
  with pytest.raises(ValueError, match="no setting 'classes'"):
    run(tmp_path, captions=dict(classes=("a",)))
  with pytest.raises(ValueError, match="a source without `classes`"):
    run(tmp_path, source=dict(name="faulty"), captions={})


def test_a_stage_without_a_text_tower_reads_no_text(run, tmp_path):
  alone = dict(
      steps=1, text=None, objective=dict(name="classification", classes=10))
  first, second = run(
      tmp_path, source=LABELLED, captions=PROMPTS,
      stages=(alone, dict(steps=1)))
  assert "text" not in first.shapes and "caption_id" not in first.shapes
  assert "text" in second.shapes

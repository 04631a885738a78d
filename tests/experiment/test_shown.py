"""What the report shows of an evaluation is what the evaluation measures."""

import numpy as np
import pytest
import tiny

from basic import types
from basic.experiment import build, settings, shown
from basic.pages import report

NAMED = (
    "nine", "eight", "seven", "six", "five", "four", "three", "two", "one", "zero",
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    tiny.install(patch)
    single = dict(
        name="zeroshot", batch_size=8, limit=40,
        source=tiny.scenes(split="test", kind="single"))
    evals = dict(
        single=single,
        some=dict(single, subset=tuple(range(9, -1, -1)), templates=("a {}", "{}")),
        named=dict(single, classes=NAMED),
        scenes=dict(name="retrieval", batch_size=8, limit=16,
                    source=tiny.scenes(split="test", length=40)),
    )
    found, = build.run(
        settings.complete(tiny.config(evals=evals)), tmp_path_factory.mktemp("run"))
    yield found


def evaluation(stage, prefix):
  return next(each for each in stage.evals if each.prefix == prefix)


@pytest.mark.parametrize("prefix", ["zeroshot/single", "zeroshot/some"])
def test_answers_have_the_accuracy_that_the_evaluation_measures(stage, prefix):
  params = stage.program.fresh().params
  each = evaluation(stage, prefix)
  metrics = each.run(params)
  found = each.answers(params, 1000)
  assert found.examples == len(found.labels) == metrics["/count"] == 40
  hits = found.labels == found.answers
  assert hits.mean() == metrics["@1"]
  by_class = [hits[found.labels == c].mean() for c in set(found.labels.tolist())]
  np.testing.assert_allclose(np.mean(by_class), metrics["/per_class@1"])


def test_the_classes_of_a_subset_have_its_order(stage):
  params = stage.program.fresh().params
  whole = evaluation(stage, "zeroshot/single").answers(params, 40)
  other = evaluation(stage, "zeroshot/some").answers(params, 40)
  assert other.classes == whole.classes[::-1]
  assert [whole.classes[n] for n in whole.labels] == [
      other.classes[n] for n in other.labels]


def test_names_of_the_evaluation_take_the_place_of_those_of_its_data(stage):
  params = stage.program.fresh().params
  each = evaluation(stage, "zeroshot/named")
  found = each.answers(params, 1000)
  assert found.classes == NAMED
  assert (found.labels == found.answers).mean() == each.run(params)["@1"]


def test_only_zeroshot_has_answers(stage):
  assert evaluation(stage, "retrieval/scenes").answers is None


def test_held_out_data_is_that_of_retrieval_and_all_of_zeroshot(stage):
  params = stage.program.fresh().params
  with stage.program.layout.context():
    held = report.held_out(stage, params, count=12, images=20)
  assert len(held.samples.captions) == 12
  np.testing.assert_allclose(
      np.linalg.norm(held.samples.text_embeddings, axis=1), 1, rtol=1e-5)
  assert [each.name for each in held.classified] == [
      "zeroshot/named", "zeroshot/single", "zeroshot/some"]
  assert [len(each.labels) for each in held.classified] == [20, 20, 20]


def test_a_few_examples_of_a_sorted_source_are_of_every_class():
  source = [{"label": n // 100} for n in range(1000)]
  spread = shown.Spread(source, 10)
  assert [spread[n]["label"] for n in range(len(spread))] == list(range(10))
  limited = shown.Spread(source, 10, limit=500)
  assert {limited[n]["label"] for n in range(10)} == set(range(5))
  assert len(shown.Spread(source, 5000)) == 1000
  with pytest.raises(IndexError, match="example 10 of 10"):
    spread[10]


def embedded(rows):
  return lambda batch: types.Embedded(
      {"image": types.Features(rows[batch["image"]])}, {})


def test_an_embedding_that_is_nan_has_no_answer_and_masked_rows_do_not_count():
  rows = np.array([[1, 0], [0, 2], [np.nan, 0], [0, 1]], np.float32)
  known = shown.Classes(
      np.array([5, 3]), ("five", "three"), np.eye(2, dtype=np.float32))
  batch = {"image": np.arange(4), "label": np.array([5, 5, 3, 3])}
  found = shown.answers(
      embedded(rows), "image", known,
      [(batch, np.array([True, True, True, False]))], 4)
  assert found.labels.tolist() == [0, 0, 1]
  assert found.answers.tolist() == [0, 1, -1]


def test_labels_that_are_no_single_class_have_no_answers():
  known = shown.Classes(np.array([0]), ("a",), np.eye(1, dtype=np.float32))
  for label in (np.array([[0, -1]]), np.array([7])):
    batch = {"image": np.array([0]), "label": label}
    assert shown.answers(
        embedded(np.eye(1)), "image", known, [(batch, np.array([True]))], 1) is None


def test_images_with_labels_alone_have_the_text_of_their_class():
  batch = {"image": np.zeros((3, 2, 2, 3), np.uint8), "label": np.array([9, 7, 9])}
  source = shown.Spread([{}] * 3, 3)
  source.classes = tuple("abcdefghij")
  given = shown.samples(
      source, [(batch, np.array([True, True, False]))],
      lambda batch: types.Embedded(
          {"image": types.Features(np.arange(6.0).reshape(3, 2))}, {}),
      None, 3,
  )
  assert given.captions == ["j", "h"] and given.labels.tolist() == [9, 7]
  known = shown.Classes(
      np.array([7, 9]), ("hen", "jay"), np.arange(4.0).reshape(2, 2))
  found = shown.with_classes(given, known, "text")
  np.testing.assert_array_equal(found.views["text"], [[2, 3], [0, 1]])
  assert found.captions == ["jay", "hen"]
  strange = given._replace(labels=np.array([9, 8]))
  assert shown.with_classes(strange, known, "text") is strange


def test_pixels_in_floats_become_bytes():
  found = shown._pixels(np.array([[[[-1.0], [0.0], [1.0], [9.0]]]]))
  assert found.dtype == np.uint8 and found.ravel().tolist() == [0, 128, 255, 255]

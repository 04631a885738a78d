"""Embeddings of a source on disk: the numbers of the towers, computed once."""

import numpy as np
import pytest
import tiny
from PIL import Image

from basic import types
from basic.data import stored_rows
from basic.experiment import evaluation, features, settings, towers
from basic.recording import lock

SOURCE = tiny.scenes(split="test", kind="single")


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


@pytest.fixture(scope="module")
def trained():
  with pytest.MonkeyPatch.context() as patch:
    tiny.install(patch)
    yield towers.of_run(tiny.whole())


class Counted:
  """Towers that count the batches they encode, and may break at one of them."""

  def __init__(self, trained, breaks=None):
    self.calls, self._breaks, self._encode = 0, breaks, trained.encoder.encode
    self.towers = trained._replace(
        encoder=trained.encoder._replace(encode=self.encode)
    )

  def encode(self, params, batch):
    self.calls += 1
    if self.calls == self._breaks:
      raise KeyboardInterrupt
    return self._encode(params, batch)


def test_embeddings_are_those_of_each_example_in_order(trained, tmp_path):
  found = features.features(trained, SOURCE, tmp_path, limit=10, batch_size=4)
  source = features.schema.make("sources", settings.schema.complete(
      "source", features.schema.plugin("sources", "digits"), SOURCE
  ) | {"name": "digits"})
  assert len(found) == 10 and found.readable.all() and not found.unreadable
  for n in range(10):
    example = source[n]
    arrays = features.input_pipeline.to_arrays(
        source, trained.tokenizer, trained.config, None)(example, None)
    one = {k: np.stack([arrays[k]]) for k in ("image", "text")}
    z = trained.encoder.encode(trained.params, one).views
    for view in ("image", "text"):
      np.testing.assert_allclose(
          found.views[view][n], np.asarray(z[view].pooled)[0], rtol=1e-5, atol=1e-6
      )
    assert found.fields["label"][n] == example["label"]
  assert found.views["image"].dtype == np.float32
  assert isinstance(found.views["image"], np.memmap)


def test_they_are_computed_once_for_towers_source_and_limit(trained, tmp_path):
  counted = Counted(trained)

  def calls(source=SOURCE, change=None, **more):
    before = counted.calls
    asked = counted.towers if change is None else change(counted.towers)
    features.features(asked, source, tmp_path, **{"limit": 8, "batch_size": 4, **more})
    return counted.calls - before

  assert calls() == 2
  assert calls() == 0 and calls(batch_size=3) == 0
  assert calls(limit=4) == 1
  assert calls(source={**SOURCE, "split": "train"}) == 2
  assert calls(change=lambda t: t._replace(fingerprint="other")) == 2
  assert calls(label_captions=dict(templates=("a {}",))) == 2


def test_an_interrupted_pass_goes_on_where_it_was(trained, tmp_path, monkeypatch):
  whole = features.features(trained, SOURCE, tmp_path / "a", limit=20, batch_size=4)
  monkeypatch.setattr(features, "_KEPT_EVERY", 0.0)
  broken = Counted(trained, breaks=4)
  with pytest.raises(KeyboardInterrupt):
    features.features(broken.towers, SOURCE, tmp_path / "b", limit=20, batch_size=4)
  assert not (tmp_path / "b" / whole.folder.name).exists()
  rest = Counted(trained)
  found = features.features(
      rest.towers, SOURCE, tmp_path / "b", limit=20, batch_size=4)
  assert rest.calls == 2  # Of five batches, three were kept.
  for name in ("image", "text"):
    np.testing.assert_array_equal(found.views[name], whole.views[name])
  np.testing.assert_array_equal(found.fields["label"], whole.fields["label"])
  assert [p.name for p in (tmp_path / "b").iterdir()] == [whole.folder.name]


def test_examples_that_cannot_be_read_are_marked_and_counted(
    trained, tmp_path, monkeypatch
):
  monkeypatch.setattr(features, "_KEPT_EVERY", 0.0)
  source = dict(name="faulty", length=12, torn=5)
  broken = Counted(trained, breaks=3)
  with pytest.raises(KeyboardInterrupt):
    features.features(broken.towers, source, tmp_path, batch_size=4)
  found = features.features(trained, source, tmp_path, batch_size=4)
  assert found.readable.tolist() == [n % 5 != 0 for n in range(12)]
  assert found.unreadable == {"truncated image": 3}
  assert np.isnan(found.views["image"][5]).all()
  assert np.isfinite(found.views["image"][found.readable]).all()
  masks = [mask for _, mask in found.batches(5)]
  assert np.concatenate(masks)[:12].tolist() == found.readable.tolist()
  assert np.concatenate(masks)[12:].tolist() == [False] * 3


def test_an_evaluator_judges_what_is_stored_as_it_judges_towers(trained, tmp_path):
  config = settings.complete(tiny.config(evals=dict(near=dict(
      name="knn", neighbours=3, source=SOURCE, limit=30,
      reference={**SOURCE, "split": "train"}, reference_limit=50,
  ))))
  judged = evaluation.evaluation(
      "near", config["evals"]["near"], trained.encoder, trained.layout,
      trained.tokenizer, trained.config,
  ).run(trained.params)
  stored, reference = (
      features.features(trained, source, tmp_path, limit=limit)
      for source, limit in ((SOURCE, 30), ({**SOURCE, "split": "train"}, 50))
  )
  evaluate = features.schema.make("evals", config["evals"]["near"])
  assert judged == evaluate(stored.encode, stored.batches(7), reference.batches(9))
  assert judged["/count"] == 30 and judged["/reference_count"] == 50


def test_two_processes_do_not_compute_the_same(trained, tmp_path):
  path = features.features(trained, SOURCE, tmp_path, limit=4).folder
  path.rename(tmp_path / "away")
  with lock.hold(path.with_name(f"{path.name}.lock")), pytest.raises(
      lock.InUseError, match="in use"):
    features.features(trained, SOURCE, tmp_path, limit=4)


def test_what_another_process_finished_before_the_lock_is_read(
    trained, tmp_path, monkeypatch
):
  counted, hold = Counted(trained), lock.hold

  def slower(folder):
    monkeypatch.setattr(features.lock, "hold", hold)
    features.features(trained, SOURCE, tmp_path, limit=4)  # The other process.
    return hold(folder)

  monkeypatch.setattr(features.lock, "hold", slower)
  found = features.features(counted.towers, SOURCE, tmp_path, limit=4)
  assert counted.calls == 0 and found.readable.all()
  assert [path.name for path in tmp_path.iterdir()] == [found.folder.name]


@pytest.mark.parametrize("changes, sentence", [
    (dict(limit=0), "limit is 0"), (dict(batch_size=0), "batch_size 0"),
])
def test_what_cannot_be_meant_is_refused(trained, tmp_path, changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    features.features(trained, SOURCE, tmp_path, **changes)


def test_a_source_that_no_tower_reads_is_said(trained, tmp_path):
  only_text = trained._replace(
      encoder=trained.encoder._replace(
          encode=lambda params, batch: types.Embedded({}, {}))
  )
  with pytest.raises(ValueError, match="of which no tower reads one"):
    features.features(only_text, SOURCE, tmp_path, limit=4)


def test_rows_of_another_shape_are_not_mixed_in(tmp_path):
  writer = stored_rows.Writer(tmp_path / "x", 4)
  writer.append({"a": np.zeros((2, 3), np.float32)})
  writer.keep({})
  again = stored_rows.Writer(tmp_path / "x", 4)
  assert again.done == 2
  with pytest.raises(ValueError, match="make float32"):
    again.append({"a": np.zeros((2, 5), np.float32)})
  with pytest.raises(ValueError, match="2 of 4 rows"):
    again.finish({})


def captioned(folder, count):
  """A folder of pictures, each with a text file beside it."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  for n in range(count):
    pixels = rng.integers(0, 256, (24, 24), np.uint8)
    Image.fromarray(pixels).save(folder / f"{n:03}.png")
    (folder / f"{n:03}.txt").write_text("a three" if n % 2 else "a seven")
  return dict(name="folder", path=str(folder), channels=1)


def test_edited_captions_and_pictures_are_embedded_again(trained, tmp_path):
  source = captioned(tmp_path / "data", 200)

  def embedded():
    return features.features(trained, source, tmp_path / "kept", batch_size=100)

  first = embedded()
  assert embedded().folder == first.folder
  (tmp_path / "data/101.txt").write_text("a seven")  # As long as before.
  second = embedded()
  other = (tmp_path / "data/003.png").read_bytes()
  (tmp_path / "data/150.png").write_bytes(other)
  third = embedded()
  changed = [
      [np.flatnonzero((a.views[view] != b.views[view]).any(1)).tolist()
       for view in ("image", "text")]
      for a, b in ((first, second), (second, third))
  ]
  assert changed == [[[], [101]], [[150], []]]

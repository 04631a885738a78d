"""A loaded model embeds as evaluations do, and says in words what it cannot."""

import pathlib

import numpy as np
import pytest
import tiny
from PIL import Image

import basic
from basic import types
from basic.experiment import restore
from basic.experiment import shown as spread
from basic.interface import collection
from basic.interface import model as module
from basic.sources import digits


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


@pytest.fixture(scope="module")
def model():
  with pytest.MonkeyPatch.context() as patch:
    tiny.install(patch)
    return basic.load(tiny.whole(), batch_size=5)


@pytest.fixture(scope="module")
def scenes():
  return digits.digits(canvas=24, channels=1, split="test", length=40)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_embeddings_are_those_of_an_evaluation(model, scenes):
  stage, state = restore.load(tiny.whole())
  shown = next(e for e in stage.evals if "scenes" in e.prefix).samples(
      state.params, 12)
  chosen = spread.Spread(scenes, 12, 16)
  images = [chosen[n]["image"] for n in range(12)]
  # float32, compiled for batches of another size: sums of 576 terms.
  np.testing.assert_allclose(
      model.embed_images(images), unit(shown.views["image"]), atol=2e-6)
  np.testing.assert_allclose(
      model.embed_texts(shown.captions), unit(shown.views["text"]), atol=2e-6)


def test_any_number_at_once_gives_the_rows_of_one_by_one(model, scenes):
  images = np.stack([scenes[n]["image"] for n in range(11)])
  one_by_one = np.concatenate([model.embed_images(image) for image in images])
  assert one_by_one.dtype == np.float32 and one_by_one.shape == (11, 8)
  assert model.embed_images(images).flags.writeable
  for given in (images, list(images), (image for image in images)):
    np.testing.assert_allclose(model.embed_images(given), one_by_one, atol=2e-6)
  texts = ["a one", "two sevens", "an eight", "a one", "a two", "a three"]
  rows = np.concatenate([model.embed_texts(text) for text in texts])
  np.testing.assert_allclose(model.embed_texts(texts), rows, atol=2e-6)
  np.testing.assert_allclose(
      model.similarity(images, texts), one_by_one @ rows.T, atol=2e-6)


def test_two_shapes_are_compiled_for_each_tower(scenes):
  model = basic.load(tiny.whole(), batch_size=5)
  seen = set()
  encode = model.towers.encoder.encode

  def noted(params, batch):
    seen.update((name, len(rows)) for name, rows in batch.items())
    return encode(params, batch)

  model.towers = model.towers._replace(
      encoder=model.towers.encoder._replace(encode=noted))
  for count in (1, 2, 5, 6, 11):
    model.embed_images([scenes[0]["image"]] * count)
    model.embed_texts(["a one"] * count)
  assert seen == {("image", 1), ("image", 5), ("text", 1), ("text", 5)}


def test_pictures_in_every_form_have_the_same_embedding(model, scenes, tmp_path):
  pixels = scenes[3]["image"]
  image = Image.fromarray(pixels[..., 0])
  image.save(tmp_path / "a.png")
  expected = model.embed_images(pixels)
  for given in (
      image, image.convert("RGB"), image.convert("RGBA"), pixels[..., 0],
      tmp_path / "a.png", (tmp_path / "a.png").read_bytes(),
  ):
    np.testing.assert_array_equal(model.embed_images(given), expected)
  # Of another size, it is resized to that of training.
  assert model.embed_images(np.zeros((90, 40), np.uint8)).shape == (1, 8)


def test_probabilities_are_those_of_the_equation(model, scenes):
  names, templates = ["one", "seven", "nine"], ("a {}", "the digit {}")
  images = np.stack([scenes[n]["image"] for n in range(4)])
  found = model.classify(images, names, templates)
  x = model.embed_images(images).astype(np.float64)
  scale = np.exp(np.float64(model.towers.params["objective"]["log_scale"]))
  for i in range(4):
    logits = []
    for name in names:
      w = sum(model.embed_texts(t.replace("{}", name))[0] for t in templates)
      logits.append(scale * (x[i] @ w) / np.linalg.norm(w))
    p = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(found.probabilities[i], p, rtol=1e-4)
    assert found.best[i] == names[int(np.argmax(p))]
  assert f"image 3: {found.best[3]} {found.probabilities[3].max():.3f}" in repr(found)


def test_the_nearest_of_a_collection_are_found(model, tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (7, 24, 24)).astype(np.uint8)
  for n in range(7):
    Image.fromarray(noise[n]).save(tmp_path / f"{n}.png")
  (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
  index = model.index(tmp_path, cache=str(tmp_path / "cache"))
  assert len(index) == 8
  assert "8 items, of which 1 cannot be read (1 x broken image header)" in repr(index)
  z = np.concatenate([model.embed_images(tmp_path / f"{n}.png") for n in range(7)])
  query = model.embed_texts("a seven")
  order = np.argsort(-(z @ query[0]), kind="stable")
  found = model.search("a seven", index, k=20)
  assert found.names == [[f"{n}.png" for n in order]]  # the broken one never
  np.testing.assert_allclose(found.scores[0], (z @ query[0])[order], atol=2e-6)
  itself = model.search(tmp_path / "4.png", index, k=1)
  assert itself.names == [["4.png"]] and itself.indices == [[4]]
  assert "1.000  4.png" in repr(itself)
  shown = found._repr_html_()
  assert shown.count('<img src="data:image/jpeg;base64,') == 7
  assert all(f"<br>{n}.png<br>" in shown for n in range(7))
  names = ["<b>"] * 3
  z3 = collection.Index(index.embeddings[:3], names.__getitem__)
  assert "<br>&lt;b&gt;<br>" in model.search("a one", z3)._repr_html_()
  assert model.search(["a one", "a two"], z, k=2).indices == [
      model.search(text, z, k=2).indices[0] for text in ("a one", "a two")
  ]


def test_a_collection_is_embedded_once(model, scenes, tmp_path, monkeypatch):
  source = dict(name="digits", canvas=24, channels=1, split="test", length=9)
  first = model.index(source, cache=str(tmp_path))
  monkeypatch.setattr(
      type(model.towers.encoder), "encode",
      property(lambda self: pytest.fail("encoded again")))
  again = model.index(source, cache=str(tmp_path))
  np.testing.assert_array_equal(again.embeddings, first.embeddings)
  captions = model.index(source, view="text", cache=str(tmp_path))
  assert len(captions) == 9


@pytest.mark.parametrize(("call", "words"), [
    (lambda m: m.embed_images([]), "there are no images"),
    (lambda m: m.embed_texts([]), "there are no texts"),
    (lambda m: m.embed_texts(["a", " "]), r"texts\[1\] is ' '"),
    (lambda m: m.embed_texts([b"a"]), r"texts\[0\] is b'a'"),
    (lambda m: m.embed_texts(3), "found a int; expected"),
    (lambda m: m.embed_images([np.zeros((4, 4), np.uint8), b"x"]),
     r"unknown image format: images\[1\]"),
    (lambda m: m.embed_images([np.zeros((4, 4))]), r"images\[0\]: found an array"),
    (lambda m: m.classify(np.zeros((4, 4), np.uint8), ["a"]), "two or more"),
    (lambda m: m.classify(np.zeros((4, 4), np.uint8), ["a", "a"]), "all different"),
    (lambda m: m.classify(np.zeros((4, 4), np.uint8), ["a", " "]), "expected words"),
    (lambda m: m.classify(np.zeros((4, 4), np.uint8), ["a", "b"], "x"), "template"),
    (lambda m: m.search("a", np.zeros((3, 4), np.float32)), "another model"),
    (lambda m: m.search("a", np.zeros((0, 8), np.float32)), "one or more rows"),
    (lambda m: m.search("a", np.ones((3, 8), np.float32), k=0), "k of 1 or more"),
    (lambda m: m.search(__file__, np.ones((3, 8), np.float32)), r"pathlib\.Path\("),
    (lambda m: module.Model(m.towers, 0), "1 or more"),
])
def test_what_cannot_work_gets_a_sentence(model, call, words):
  with pytest.raises(ValueError, match=words):
    call(model)


def test_what_is_not_there_gets_a_sentence(model, tmp_path):
  with pytest.raises(FileNotFoundError, match=r"images\[1\]: there is no file"):
    model.embed_images([np.zeros((4, 4), np.uint8), "a cat"])
  with pytest.raises(FileNotFoundError, match="there is no folder"):
    model.index("pictures of nothing")
  with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
    basic.load(tmp_path)


def test_a_tower_that_is_not_there_is_named(model):
  views = {"image": model.towers.model.encode.views["image"]}
  network = model.towers.model
  alone = module.Model(model.towers._replace(
      model=network._replace(encode=types.Encode(views, network.encode.side))))
  with pytest.raises(ValueError, match="has no text tower"):
    alone.embed_texts("a")


def test_a_loss_without_logits_gives_no_probabilities(model):
  objective = model.towers.objective._replace(logits=None)
  without = module.Model(model.towers._replace(objective=objective))
  with pytest.raises(ValueError, match="use `similarity`"):
    without.classify(np.zeros((4, 4), np.uint8), ["a", "b"])


def test_a_model_says_what_it_is(model):
  said = repr(model)
  assert f"{tiny.whole()}, step 12" in said
  assert "image: toy" in said and "embeddings: 8 wide" in said
  parameters = 576 * 16 + 16 * 8 + 8 * 8
  assert f"{parameters:,} parameters" in said


def test_images_of_unequal_sides_are_not_resized_in_secret(model):
  reader = model._images._replace(shape=(24, 20, 1))
  with pytest.raises(ValueError, match=r"images\[0\] is \[24, 24, 1\] where"):
    list(reader.rows([np.zeros((24, 24), np.uint8)]))


def test_three_channels_are_found_for_a_tower_of_them(tmp_path, monkeypatch):
  config = tiny.config(
      steps=1, evals={}, augment=dict(size=16),
      source=dict(name="digits", canvas=24, channels=3, length=40),
  )
  basic.train(config, tmp_path)
  found = basic.load(pathlib.Path(tmp_path))
  assert found._images.shape == (16, 16, 3)
  assert found.embed_images(np.zeros((9, 5), np.uint8)).shape == (1, 8)


@pytest.mark.parametrize("least", [16, 60])
def test_only_the_items_asked_for_are_named(least):
  z, named = np.eye(70, dtype=np.float32), []
  index = collection.Index(collection.unit(z), lambda n: named.append(n) or str(n))
  found = collection.search(z[[5]] + 0.1 * z[[8]], index, 2, least=least)
  assert found.indices == [[5, 8]] and found.names == [["5", "8"]]
  assert named == [5, 8]

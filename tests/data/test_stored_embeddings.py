"""Embeddings of a locked tower, computed once."""

import pickle

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basic import train, types
from basic.data import stored_embeddings
from basic.encoders import vit
from basic.engine import model
from basic.experiment import build, settings


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


LOCKED = dict(
    image=dict(name="toy"), text=dict(name="toy", dropout=0.2),
    frozen=("image/.*",), evals={}, steps=4, checkpoint=dict(every=2),
)


def test_training_on_stored_embeddings_is_training_on_images(tmp_path):
  for name, leaves in (("plain", ()), ("stored", ("image",))):
    train.train(tiny.config(**LOCKED, stored=leaves), tmp_path / name)
  losses = [
      np.array([loss for _, loss in tiny.losses(tmp_path / name)])
      for name in ("plain", "stored")
  ]
  assert len(losses[0]) == 4
  # Logits of 8 features, losses of 16 columns over 16 rows, after 4 steps.
  np.testing.assert_allclose(losses[1], losses[0], rtol=checks.rounding(4 * 40))
  plain, kept = (tiny.parameters(tmp_path / n) for n in ("plain", "stored"))
  for path, leaf in plain.items():
    np.testing.assert_allclose(kept[path], leaf, rtol=1e-4, atol=1e-6)


def test_images_do_not_reach_the_step_and_the_tower_does_not_run(tmp_path):
  config = settings.complete(tiny.config(**LOCKED, stored=("image",)))
  stage, = build.run(config, tmp_path)
  assert stage.program.batch["image"].shape == (16, 8)
  assert stage.program.batch["image"].dtype == jnp.float32
  assert stage.shapes["image"].dtype == jnp.uint8  # What evaluations read.


def test_the_next_stage_encodes_again(tmp_path):
  stages = (
      dict(steps=2, frozen=("image/.*",), stored=("image",)), dict(steps=2),
  )
  config = tiny.config(**{**LOCKED, "frozen": ()}, stages=stages)
  train.train(config, tmp_path / "run")
  assert len(tiny.losses(tmp_path / "run")) == 4
  files = list((tmp_path / "run" / stored_embeddings.FOLDER).iterdir())
  assert [f.name for f in files] == ["image-0.npy"]
  assert np.load(files[0]).shape == (300, 8)


@pytest.mark.parametrize(("changes", "sentence"), [
    (dict(frozen=()), r"image/.* trains.*frozen=\('image/"),
    (dict(frozen=("image/encoder/.*",)), "image/projection/kernel trains"),
    (dict(augment=dict(size=24, crop="random")), "cropped or flipped at random"),
    (dict(augment=dict(mirror=True)), "cropped or flipped at random"),
    (dict(image=dict(name="toy", dropout=0.3)), "'image' is random.* to 0"),
    (dict(stored=("sound",)), r"'sound'; the views are \['image', 'text'\]"),
])
def test_what_differs_from_step_to_step_is_not_stored(
    tmp_path, changes, sentence
):
  given = {**LOCKED, "stored": ("image",), **changes}
  with pytest.raises(ValueError, match=sentence):
    build.run(settings.complete(tiny.config(**given)), tmp_path)


@pytest.mark.parametrize(("rates", "refused"), [
    ({}, False), (dict(dropout=0.3), True), (dict(drop_patches=0.3), True),
    # Of two blocks: the first is never skipped.
    (dict(stochastic_depth=0.3), True),
])
def test_a_frozen_tower_is_stored_unless_it_is_random(rates, refused):
  net = model.model({"image": vit.vit(
      width=8, depth=2, heads=2, patch=4, remat="full", **rates)}, width=4)
  batch = {"image": jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.uint8)}
  params = jax.eval_shape(net.init, jax.random.key(0), batch)
  given = (
      ("image",), net.encode, params, ("image/.*",),
      dict(crop="center", mirror=False), batch,
  )
  if refused:
    with pytest.raises(ValueError, match="is random even though it is frozen"):
      stored_embeddings.check(*given)
  else:
    stored_embeddings.check(*given)


def embedded(tmp_path, count=5, size=2, bad=()):
  """A file of the embeddings [n, 10 n] of examples n."""
  path = tmp_path / "folder" / "image-0.npy"
  batches = []
  for start in range(0, count, size):
    index = np.arange(start, start + size)
    mask = (index < count) & ~np.isin(index, bad)
    batches.append(({"image": index}, mask))
  stored_embeddings.write(
      path, count, batches,
      lambda b: jnp.stack([b["image"], 10 * b["image"]], 1).astype(jnp.float32),
  )
  return path


def test_every_example_meets_its_own_embedding(tmp_path):
  path = embedded(tmp_path)
  source = [{"image": None, "label": n} for n in range(5)]
  stored = stored_embeddings.Stored(source, {"image": str(path)})
  found = pickle.loads(pickle.dumps(stored))
  assert len(found) == 5
  for n in range(5):
    np.testing.assert_array_equal(found[n]["image"], [n, 10 * n])
    assert found[n]["label"] == n


def test_what_could_not_be_read_stays_unreadable(tmp_path):
  path = embedded(tmp_path, bad=(3,))
  found = stored_embeddings.Stored(
      [{"label": n} for n in range(5)], {"image": str(path)}
  )
  assert found[2]["label"] == 2
  with pytest.raises(types.Unreadable, match="no embedding"):
    found[3]


def test_a_whole_file_stays_and_one_begun_is_written_again(tmp_path):
  path = embedded(tmp_path)
  before = path.read_bytes()
  stored_embeddings.write(path, 5, iter(()), lambda batch: pytest.fail("embeds again"))
  assert path.read_bytes() == before
  path.rename(path.with_suffix(".unfinished"))
  assert embedded(tmp_path).read_bytes() == before


def test_an_embedding_needs_no_parameters():
  inner = types.Encode(
      {"image": types.View("image", "image", None)}, lambda batch: {}
  )
  views = stored_embeddings.encode(inner, ("image",)).views
  z = jax.jit(views["image"].apply)({}, jnp.ones((3, 2)), None)
  np.testing.assert_array_equal(z.pooled, np.ones((3, 2)))


def test_a_run_on_stored_embeddings_resumes(tmp_path):
  config = tiny.config(**LOCKED, stored=("image",))
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, "step", 3)
    with pytest.raises(tiny.Killed):
      train.train(config, tmp_path / "run")
  train.train(config, tmp_path / "run")
  assert [step for step, _ in tiny.losses(tmp_path / "run")] == [1, 2, 3, 4]

"""The evaluator of embeddings: which measures it gives, of which rows."""

import frozen
import jax.numpy as jnp
import numpy as np
import pytest

from basic import types
from basic.evals import health as module
from basic.ops import geometry


def data(n=12):
  rng = np.random.default_rng(0)
  return dict(
      image=rng.normal(size=(n, 5)).astype(np.float32) * 3,
      text=rng.normal(size=(n, 5)).astype(np.float32),
      label=np.arange(n) % 3 * 10,
  )


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def run(fields, rows=None, logits=None, **settings):
  return module.health(**settings)(
      frozen.encode, frozen.batches(rows, **fields), logits=logits)


def test_each_measure_is_that_of_unit_vectors_of_all_rows():
  fields = data()
  found = run(fields, 5, types.Logits(jnp.float32(20.0)), alpha=1.0, t=3.0, block=4)
  x, y = (jnp.asarray(unit(fields[k])) for k in ("image", "text"))
  raw, order = jnp.asarray(fields["image"]), jnp.arange(12)
  expected = {
      "/image/uniformity": geometry.uniformity(x, 3.0),
      "/image/effective_rank": geometry.effective_rank(raw),
      "/image/norm_mean": np.linalg.norm(raw, axis=1).mean(),
      "/image/norm_std": np.linalg.norm(raw, axis=1).std(),
      "/image/tolerance": geometry.tolerance(x, order % 3, 3),
      "/text/uniformity": geometry.uniformity(y, 3.0),
      "/alignment": geometry.alignment(x, y, 1.0),
      "/modality_gap": geometry.modality_gap(x, y),
      "/image_to_text_margin": geometry.margins(x, y, order).mean(),
      "/text_to_image_margin": geometry.margins(y, x, order).mean(),
      "/temperature": 1 / 20, "/count": 12,
  }
  assert {k: found[k] for k in expected} == pytest.approx(
      {k: float(v) for k, v in expected.items()}, rel=1e-5)
  assert found.keys() - expected.keys() == {
      "/text/effective_rank", "/text/norm_mean", "/text/norm_std", "/text/tolerance"}


def test_what_the_data_lack_is_left_out():
  fields = data()
  assert "/temperature" not in run(fields)
  only = run({"image": fields["image"]})
  assert set(only) == {
      "/image/uniformity", "/image/effective_rank", "/image/norm_mean",
      "/image/norm_std", "/count"}
  assert "/image/tolerance" not in run({**fields, "label": np.arange(12)})
  assert "/image/tolerance" not in run({**fields, "label": np.ones((12, 2), int)})


def test_equal_captions_are_no_negatives_of_each_other():
  table = unit(np.float32([[1, 0], [0, 1]]))

  def encode(batch):
    seen = {"image": lambda x: x, "text": lambda ids: table[ids[:, 0]]}
    return types.Embedded(
        {k: types.Features(jnp.asarray(seen[k](v))) for k, v in batch.items()}, {})

  text = np.array([[0], [0], [1]])
  # Another second caption makes no negative.
  captions = np.stack([text, [[5], [6], [7]]], axis=1)
  batch = dict(image=table[[0, 0, 1]], text=text, captions=captions)
  metrics = module.health()(encode, frozen.batches(**batch))
  assert metrics["/image_to_text_margin"] == metrics["/text_to_image_margin"] == 1
  del batch["captions"]
  metrics = module.health()(encode, frozen.batches(**batch))
  assert metrics["/image_to_text_margin"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("changes", [
    dict(views=()), dict(t=0.0), dict(alpha=-1.0), dict(block=0)])
def test_what_cannot_be_meant_is_refused_at_once(changes):
  with pytest.raises(ValueError, match="positive numbers"):
    module.health(**changes)


def test_data_without_any_view_are_said():
  with pytest.raises(ValueError, match=r"needs .*'image', 'label', 'text'\]"):
    run(dict(other=np.ones((2, 2))))

"""What configs/digits_clip.py trains is a CLIP to transformers and open_clip."""

import importlib
import importlib.util
import json

import experiments
import foreign
import jax
import numpy as np
import pytest

from basic import export, paths
from basic.engine import checkpoint
from basic.experiment import build, restore, towers

TEXTS = ["the digit seven", "a 3 and a 5", "NINE  on the left", "", "zero " * 20]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The folder of such a run, as small as it goes, without the training."""
  pytest.importorskip("tokenizers")
  folder = tmp_path_factory.mktemp("digits_clip") / "run"
  config = experiments.shrunk(experiments.read("digits_clip"))
  stage = build.run(config, folder)[0]
  (folder / "config.json").write_text(json.dumps(config))
  fresh, draw = stage.program.fresh(), np.random.default_rng(0)
  params = paths.map_paths(
      lambda path, x: jax.device_put(
          x + np.float32(0.2) * draw.normal(size=x.shape).astype("f4"), x.sharding),
      fresh.params)
  state = type(fresh)(
      fresh.step, params, fresh.opt_state, fresh.memory, fresh.rng)
  with checkpoint.Checkpoints(folder / restore.FOLDER, every=1) as saved:
    saved.save(0, state, {}, force=True)
  return folder


@pytest.fixture(scope="module")
def ours(run):
  """(images uint8, ids, logits) of the run itself."""
  found = towers.of_run(run)
  source = build.schema.make("sources", found.config["source"])
  photos = np.stack([source[n]["image"] for n in range(3)])
  ids = np.stack([found.tokenizer(text) for text in TEXTS])

  def embed(name, inputs):
    view = found.model.encode.views[name]
    apply = jax.jit(lambda params, x: view.apply(params, x, None).pooled)
    return foreign.unit(np.asarray(apply(found.params[view.tower], inputs)))

  scale, bias = found.objective.logits(found.params["objective"])
  logits = scale * embed("image", photos) @ embed("text", ids).T + bias
  return photos, ids, np.asarray(logits)


def test_transformers_gives_the_same_logits(run, ours, tmp_path):
  transformers = foreign.library()
  export.export(run, "hf_clip", tmp_path)
  photos, ids, logits = ours
  model = transformers.CLIPModel.from_pretrained(tmp_path).eval()
  words = transformers.AutoTokenizer.from_pretrained(tmp_path)(
      TEXTS, padding="max_length", truncation=True, max_length=ids.shape[1],
      return_tensors="pt")["input_ids"]
  np.testing.assert_array_equal(words, ids)
  pixels = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)(
      list(photos), return_tensors="pt")["pixel_values"]
  found = model(pixel_values=pixels, input_ids=words).logits_per_image
  # float32 sums of a few hundred terms, times a scale of 20.
  np.testing.assert_allclose(found.detach(), logits, atol=1e-4)


def test_open_clip_gives_the_same_logits(run, ours, monkeypatch, tmp_path):
  monkeypatch.syspath_prepend(experiments.ROOT / "benchmarks")
  library = open_clip()
  export.export(run, "open_clip", tmp_path)
  from PIL import Image  # which open_clip needs

  photos, ids, logits = ours
  name = f"local-dir:{tmp_path}"
  model, _, prepare = library.create_model_and_transforms(name)
  words = library.get_tokenizer(name)(TEXTS)
  np.testing.assert_array_equal(words, ids)
  pixels = foreign.library("torch").stack(
      [prepare(Image.fromarray(photo)) for photo in photos])
  image, text = (
      encoded.detach().numpy() for encoded in (
          model.eval().encode_image(pixels, normalize=True),
          model.encode_text(words, normalize=True)))
  found = model.logit_scale.exp().item() * image @ text.T
  np.testing.assert_allclose(found, logits, atol=1e-4)


def open_clip():
  """The library, or a skip that says why."""
  foreign.library("torch")
  if importlib.util.find_spec("open_clip") is None:
    pytest.skip("open_clip is not installed: the extra `bench` has it")
  # It knows what open_clip needs beside a torch for CPUs.
  return importlib.import_module("peers").open_clip_package()

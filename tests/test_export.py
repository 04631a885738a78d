"""What a run hands on: read by transformers, by plain jax, and by a new run."""

import json
import pathlib
import shutil
import subprocess
import sys

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import export, paths, train
from basic.data import images, tokenizer
from basic.engine import checkpoint
from basic.experiment import (
  build,
  pretrained,
  restore,
  schema,
  settings,
)
from basic.ops import normalize

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDE, LENGTH = 24, 12
TEXTS = ["the digit 7", "a 3 and a 5", "NINE  on the left", "", "zero" * 20]


def config(**changes):
  """A run whose towers are a CLIP's."""
  scenes = dict(name="digits", canvas=SIDE, length=64)
  size = dict(depth=1, heads=2, epsilon=1e-5, activation="quick_gelu")
  return dict(
      steps=1, batch_size=8, source=scenes,
      image=dict(
          size, name="vit", width=12, patch=8, pool="token", entry_norm=True,
          dtype="float32"),
      text=dict(
          size, name="text_transformer", width=8, vocab=64, length=LENGTH,
          causal=True, pool="last", dtype="float32"),
      projection=dict(width=8),
      objective=dict(name="softmax"),
      optimizer=dict(name="adamw", peak=1e-2, warmup=1),
      tokenizer=dict(captions=50),
      checkpoint=dict(every=1), record=dict(every=1, tensorboard=False),
  ) | changes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The folder of a run as training leaves it, without the training."""
  folder = tmp_path_factory.mktemp("runs")
  whole = settings.complete(config())
  stage = build.run(whole, folder)[0]
  (folder / "config.json").write_text(json.dumps(whole))
  with checkpoint.Checkpoints(folder / restore.FOLDER, every=1) as saved:
    saved.save(1, moved(stage.program.fresh()), {}, force=True)
  return folder


def moved(state):
  """As training would leave it: nothing at zero or one."""
  draw = np.random.default_rng(0)
  params = paths.map_paths(
      lambda path, leaf: jax.device_put(
          leaf + np.float32(0.2) * draw.normal(size=leaf.shape).astype("f4"),
          leaf.sharding),
      state.params)
  return type(state)(
      state.step + 1, params, state.opt_state, state.memory, state.rng)


@pytest.fixture(scope="module")
def embedded(run):
  """(images uint8, image embeddings, text embeddings) of the run itself."""
  stage, state = restore.load(run)
  batch = {
      "image": np.stack([stage.source[n]["image"] for n in range(3)]),
      "text": tokenizer.Tokenizer(tokenizer.load(run), LENGTH).batch(TEXTS),
  }
  tree = build.program(
      stage.config, stage.program.layout.mesh, stage.shapes, steps=1).model
  params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state.params)
  z = tree.encode(params, jax.tree.map(jnp.asarray, batch))
  return batch["image"], *(
      np.asarray(normalize.unit(z.views[k].pooled)) for k in ("image", "text"))


def test_a_folder_that_transformers_loads_embeds_as_the_run_does(
    run, embedded, tmp_path
):
  pytest.importorskip("torch", reason="the extra `parity` is not installed")
  import torch
  import transformers

  transformers.logging.disable_progress_bar()
  export.export(run, "hf_clip", tmp_path)
  made = transformers.CLIPModel.from_pretrained(tmp_path).eval()
  words = transformers.AutoTokenizer.from_pretrained(tmp_path)
  ids = words(
      TEXTS, padding="max_length", truncation=True, max_length=LENGTH,
      return_tensors="pt")
  from transformers.models.clip import image_processing_pil_clip as pixels

  processor = pixels.CLIPImageProcessorPil.from_pretrained(tmp_path)
  photos, image, text = embedded
  ready = processor(list(photos), return_tensors="pt")["pixel_values"]
  with torch.no_grad():
    z = made(pixel_values=ready, input_ids=ids["input_ids"])
  # Another framework's float32: 1e-4 of the length is the promise.
  np.testing.assert_allclose(z.image_embeds.numpy(), image, atol=1e-4)
  np.testing.assert_allclose(z.text_embeds.numpy(), text, atol=1e-4)


def test_functions_need_nothing_but_jax(run, embedded, tmp_path):
  pytest.importorskip("flatbuffers")
  export.export(run, "stablehlo", tmp_path)
  about = json.loads((tmp_path / "about.json").read_text())
  assert about["image"]["shape"] == [None, SIDE, SIDE, 3]
  assert about["text"]["shape"] == [None, LENGTH]
  photos, image, text = embedded
  np.save(tmp_path / "image.npy", photos[0])
  # None in sys.modules makes `import basic` fail wherever it is installed.
  lone = "import runpy, sys; sys.modules['basic'] = None; " \
         "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
  said = subprocess.run(
      [sys.executable, "-c", lone, str(ROOT / "examples" / "classify.py"),
       str(tmp_path), str(tmp_path / "image.npy"), *TEXTS],
      cwd=tmp_path, capture_output=True, text=True, timeout=120,
      env={"JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}, check=False,
  )
  assert said.returncode == 0, said.stderr
  found = dict(
      reversed(line.split(" ", 1)) for line in said.stdout.splitlines())
  score = about["scale"] * image[:1] @ text.T
  chance = np.exp(score - score.max())
  chance = (chance / chance.sum())[0]
  for label, share in zip(TEXTS, chance, strict=True):
    assert abs(float(found[label]) - share) < 2e-4  # four decimals


def test_weights_between_two_checkpoints_are_written(run, tmp_path):
  _, state = restore.load(run)
  folder = tmp_path / "run"
  shutil.copytree(run, folder)
  doubled = type(state)(
      state.step + 1, jax.tree.map(lambda a: 2 * a, state.params),
      state.opt_state, state.memory, state.rng)
  with checkpoint.Checkpoints(folder / restore.FOLDER, every=1) as saved:
    saved.save(2, doubled, {}, force=True)

  def written(name, *step, **between):
    out = export.export(folder, "hf_clip", tmp_path / name, *step, **between)
    return paths.flatten(schema.plugin("weights", "hf_clip")().read(out).params)

  one, two = written("one", 1), written("two", 2)
  for path, leaf in written("between", start=1, mix=0.25).items():
    expected = 0.75 * one[path] + 0.25 * two[path]
    np.testing.assert_allclose(
        leaf, expected, rtol=0, err_msg=path,
        atol=checks.rounding(4, size=max(np.abs(one[path]).max(), 1e-3)),
    )


def test_a_function_takes_any_number_of_rows(run, embedded, tmp_path):
  pytest.importorskip("flatbuffers")
  export.export(run, "stablehlo", tmp_path)
  call = jax.export.deserialize(
      bytearray((tmp_path / "image.stablehlo").read_bytes())).call
  photos, image, _ = embedded
  for rows in (1, 3):
    # The same graph at another batch size; float32.
    np.testing.assert_allclose(call(photos[:rows]), image[:rows], atol=1e-5)


def test_an_unknown_format_is_refused_with_those_there_are(run, tmp_path):
  with pytest.raises(ValueError, match=r"'stablehlo', .*'hf_clip'"):
    export.export(run, "onnx", tmp_path)


def test_towers_that_a_format_cannot_express_are_refused(run, tmp_path):
  pytest.importorskip("tokenizers")
  with pytest.raises(ValueError, match=r"(?s)image.pool is 'token'.*only"):
    export.export(run, "hf_siglip", tmp_path)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
  pytest.importorskip("tokenizers")
  return export.export(
      run, "hf_clip", tmp_path_factory.mktemp("exported") / "clip")


def started(exported, **changes):
  """A configuration that begins from an export, towers locked."""
  text = dict(config()["text"], pool="eos", eos=3, padding="read")
  return config(
      seed=1, text=text, frozen=("(image|text)/.*",),
      weights=dict(name="hf_clip", path=str(exported)),
  ) | changes


def test_a_run_begins_from_weights_and_needs_them_at_its_start_alone(
    run, exported, tmp_path
):
  train.train(started(exported), tmp_path / "second")
  assert (tmp_path / "second" / "tokenizer.json").exists()
  moved = exported.rename(tmp_path / "elsewhere")
  try:
    _, second = restore.load(tmp_path / "second")
  finally:
    moved.rename(exported)
  _, first = restore.load(run)
  before, after = (
      {k: np.asarray(x) for k, x in paths.flatten(state.params).items()}
      for state in (first, second))
  stem = "image/encoder/stem/bias"
  places = "image/encoder/positions"
  # The format has no bias of the stem: the places take it in.
  before[places] = before[places] + before[stem]
  before[stem] = 0 * before[stem]
  for path in sorted(before):
    if not path.startswith("objective/"):  # the one thing that trained
      np.testing.assert_allclose(
          after[path], before[path], atol=1e-6, err_msg=path)


def test_places_of_another_resolution_are_resized(exported, tmp_path):
  whole = settings.complete(started(
      exported, augment=dict(size=32),
      weights=dict(name="hf_clip", path=str(exported), paths=("image/.*",))))
  stage = build.run(whole, tmp_path)[0]
  fresh = stage.program.fresh()
  state = pretrained.begin(fresh, stage.config)
  assert state.params["image"]["encoder"]["positions"].shape == (4, 4, 12)
  for path, leaf in paths.flatten(state.params).items():
    old = paths.flatten(fresh.params)[path]
    assert leaf.sharding == old.sharding and leaf.dtype == old.dtype
    if path.startswith("text/"):
      np.testing.assert_array_equal(leaf, old)
    elif path.endswith("attention/query/kernel"):
      assert not np.allclose(leaf, old)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(activation="gelu"), "text.activation is 'gelu', the weights "
         "need 'quick_gelu'"),
        (dict(width=16), r"text/encoder/vocabulary is \[64, 16\] here"),
    ],
)
def test_weights_for_other_towers_are_refused(
    exported, tmp_path, changes, said
):
  wanted = started(exported)
  wanted["text"] = {**wanted["text"], **changes}
  stage = build.run(settings.complete(wanted), tmp_path)[0]
  shapes = jax.eval_shape(stage.program.fresh)  # refused before anything is made
  with pytest.raises(ValueError, match=said):
    pretrained.begin(shapes, stage.config)


def test_an_unknown_format_of_weights_is_refused_before_anything_runs():
  with pytest.raises(ValueError, match="'hf_clip'"):
    settings.complete(config(weights=dict(name="hf_clop", path="x")))


def test_images_that_are_not_square_are_refused(run):
  stage, _ = restore.load(run)
  shape = jax.ShapeDtypeStruct((1, 8, 9, 3), np.uint8)
  with pytest.raises(ValueError, match="8 by 9 pixels"):
    export.preprocessing(stage._replace(shapes={"image": shape}))


def test_the_same_pixels_come_out_of_the_preprocessing(run):
  stage, _ = restore.load(run)
  ready = export.preprocessing(stage)
  photo = stage.source[0]["image"]
  own = {k: ready[k] for k in ("size", "crop", "method")}
  np.testing.assert_array_equal(images.augment(**own)(photo, None), photo)

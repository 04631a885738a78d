"""What an exported folder says of itself is true, and enough to use it."""

import json
import logging
import pathlib
import runpy
import sys

import jax
import numpy as np
import pytest
import tiny

from basic import export, types
from basic.data import tokenizer, vocabulary
from basic.experiment import build, restore, settings

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "classify.py"


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


def begun(patch, folder, stage=None, **changes):
  """A folder that holds a run with parameters, without any training."""
  stage = stage or build.run(
      settings.complete(tiny.config(**changes)), folder)[0]
  draw = np.random.default_rng(0)
  params = jax.tree.map(
      lambda x: draw.normal(size=x.shape).astype(np.float32),
      jax.eval_shape(stage.program.fresh).params)
  state = types.TrainState(np.int32(1), params, (), (), None)
  patch.setattr(restore, "load", lambda workdir, step=None: (stage, state))
  return stage


def about(folder, out):
  return json.loads(
      (export.export(folder, "stablehlo", out) / "about.json").read_text())


def foreign(folder):
  """The run's words, as a run has them that began from foreign weights."""
  pytest.importorskip("tokenizers")
  words = vocabulary.from_sentencepiece(
      tokenizer.load(folder), 12, pad="<pad>", end="</s>")
  (folder / tokenizer.FILE).unlink()
  vocabulary.save(words.content, folder)


def test_both_kinds_of_words_give_the_example_the_same_answer(
    monkeypatch, capsys, tmp_path
):
  pytest.importorskip("flatbuffers")
  monkeypatch.setattr(export, "PLATFORMS", ("cpu",))  # It takes less long.
  begun(monkeypatch, tmp_path)
  np.save(tmp_path / "x.npy", np.full((24, 24, 1), 7, np.uint8))
  said, found = [], []
  for kind in ("sentencepiece", "tokenizers"):
    if kind == "tokenizers":
      foreign(tmp_path)
    known = about(tmp_path, tmp_path / kind)
    found.append(known["text"])
    assert known["text"]["kind"] == kind
    monkeypatch.setattr(sys, "argv", [
        str(EXAMPLE), str(tmp_path / kind), str(tmp_path / "x.npy"),
        "a seven", "", "a 3 and a 5"])
    runpy.run_path(str(EXAMPLE))
    said.append(capsys.readouterr().out)
  assert said[0] == said[1] and said[0].count("\n") == 3
  assert found[0]["eos"] == tokenizer.EOS and "eos" not in found[1]


def test_pixels_go_in_as_they_were_decoded(monkeypatch, tmp_path):
  pytest.importorskip("flatbuffers")
  monkeypatch.setattr(export, "PLATFORMS", ("cpu",))
  stage = begun(monkeypatch, tmp_path)
  known = about(tmp_path, tmp_path / "out")["image"]
  assert not known.keys() & {"mean", "std"}  # Somebody would normalise twice.
  assert (known["dtype"], known["range"]) == ("uint8", [0, 255])
  assert known["shape"] == [None, 24, 24, 1] and known["channels"] == "gray"
  assert known["layout"] == "batch, height, width, channels"
  assert known["normalization"].startswith("none")
  call = jax.export.deserialize(bytearray(
      (tmp_path / "out" / "image.stablehlo").read_bytes())).call
  low, high = known["range"]
  pixels = np.full((2, 24, 24, 1), low, np.uint8)
  pixels[1] = high
  # The signal of a tower is in [-1, 1], and so are its two ends.
  kernel = restore.load(tmp_path)[1].params["image"]
  view = stage.program.model.encode.views["image"]
  found = view.apply(kernel, np.stack([
      np.full((24, 24, 1), -1, np.float32), np.full((24, 24, 1), 1, np.float32)
  ]), None).pooled
  expected = found / np.linalg.norm(found, axis=1, keepdims=True)
  np.testing.assert_allclose(call(pixels), expected, atol=1e-6)
  with pytest.raises(ValueError, match="uint8"):
    call(pixels.astype(np.float32))


def test_views_of_other_names_are_described(monkeypatch, tmp_path):
  monkeypatch.setattr(export, "portable", lambda function, shape: b"")
  stage = build.run(settings.complete(tiny.config()), tmp_path)[0]
  names = {"photo": "image", "words": "text"}
  config = {**stage.config, "views": names}
  shapes = {field: stage.shapes[tower] for field, tower in names.items()}
  begun(monkeypatch, tmp_path, stage._replace(
      config=config, shapes=shapes, program=build.program(
          config, stage.program.layout.mesh, shapes, steps=stage.end)))
  known = about(tmp_path, tmp_path / "out")
  assert known["photo"]["size"] == 24 and known["photo"]["crop"] == "none"
  assert known["words"]["tokenizer"] == tokenizer.FILE
  monkeypatch.setattr(
      sys, "argv", [str(EXAMPLE), str(tmp_path / "out"), "x.npy", "a"])
  with pytest.raises(SystemExit, match=r"\['photo', 'words'\]; expected image"):
    runpy.run_path(str(EXAMPLE))


def test_a_classifier_has_no_scale_and_says_what_is_left_out(
    monkeypatch, caplog, tmp_path
):
  monkeypatch.setattr(export, "portable", lambda function, shape: b"")
  begun(
      monkeypatch, tmp_path, text=None, evals=None,
      source=tiny.scenes(kind="single", length=64),
      projection=dict(width=None),
      objective=dict(name="classification", classes=10))
  with caplog.at_level(logging.WARNING):
    known = about(tmp_path, tmp_path / "out")
  assert known["views"] == ["image"]
  assert not known.keys() & {"scale", "bias", "text"}
  assert "left out: ['bias', 'kernel']" in caplog.text
  with pytest.raises(ValueError, match="text is None"):
    export.export(tmp_path, "hf_clip", tmp_path / "clip")


def test_a_run_without_images_has_no_preprocessing(monkeypatch, tmp_path):
  stage = begun(monkeypatch, tmp_path)
  lone = stage._replace(config={**stage.config, "image": None})
  with pytest.raises(ValueError, match="no image tower"):
    export.preprocessing(lone)

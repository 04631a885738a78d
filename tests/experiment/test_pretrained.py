"""Foreign weights bring their words and say how they saw images."""

import io
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
import tiny

from basic import interpolate, paths, train, types
from basic.data import tokenizer, vocabulary
from basic.engine import checkpoint
from basic.experiment import (
  build,
  input_pipeline,
  pretrained,
  restore,
  schema,
  settings,
)
from basic.pages import report
from basic.weights import _format

CAPTIONS = ["a red cat on a mat", "two blue dogs, running", "the brown fox"] * 3
TEXTS = ["A red CAT.", "two dogs", ""]
LENGTH = 9
SEEN = {"size": 8, "crop": "center", "method": "bicubic", "offset": "round"}


def needs_tokenizers():
  pytest.importorskip(
      "tokenizers", reason="the tokenizers library is not installed")


def words(clean=None):
  """A vocabulary of others."""
  needs_tokenizers()
  model = tokenizer.train(CAPTIONS, vocab=60)
  return vocabulary.from_sentencepiece(
      model, LENGTH, pad="<pad>", end="</s>", clean=clean)


def siglip():
  """A SentencePiece model whose ids are T5's: pad 0, end 1, unknown 2."""
  needs_tokenizers()
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(CAPTIONS), model_writer=written, vocab_size=40,
      model_type="unigram", hard_vocab_limit=False, pad_id=0, eos_id=1,
      unk_id=2, bos_id=-1, minloglevel=2)
  return written.getvalue()


@pytest.fixture
def weights(monkeypatch):
  """Weights of a format of our own; their fields may be changed."""
  found = {
      "settings": {"image": {}, "text": {}, "augment": SEEN},
      "params": {
          "image": {"encoder": {"kernel": np.ones(2, np.float32)}},
          "text": {"encoder": {"vocabulary": np.ones((60, 2), np.float32)}},
      },
      "vocabulary": None,
      "preprocessing": {},
  }
  kind = _format.Format(lambda path: _format.Weights(**found), lambda *x: None)
  plugin = schema.plugin
  monkeypatch.setattr(
      schema, "plugin", lambda folder, name:
      (lambda: kind) if folder == "weights" else plugin(folder, name))
  return found


def config(model=None, taken=(".*",), **changes):
  return {
      "text": {"vocab": 60, "length": LENGTH}, "image": {}, "seed": 0,
      "tokenizer": {"model": model, "captions": 30, "clean": None}, "captions": None,
      "source": dict(name="digits", canvas=24, length=64),
      "augment": {"size": None, "crop": "none", "method": "area"},
      "weights": {"name": "x", "path": "there", "paths": taken}, **changes,
  }


def test_weights_that_are_not_finite_are_refused(weights):
  bad = np.array([1, np.nan], np.float32)
  weights["params"]["image"]["encoder"]["kernel"] = bad
  ours = {"image": {"encoder": {"kernel": np.ones(2, np.float32)}}}
  state = types.TrainState(0, ours, (), (), None)
  with pytest.raises(ValueError, match=r"not finite, in \['image/encoder/kern"):
    pretrained.begin(state, config(taken=("image/.*",)))


def test_a_text_tower_without_its_vocabulary_is_refused(weights, tmp_path):
  with pytest.raises(ValueError, match=r"no vocabulary.*tokenizer\.model"):
    input_pipeline.run_tokenizer([config()], tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("without", ["path", "tower"])
def test_a_text_tower_of_ones_own_learns_its_words(weights, tmp_path, without):
  if without == "tower":
    del weights["params"]["text"]
  taken = ("image/.*",) if without == "path" else (".*",)
  assert isinstance(
      input_pipeline.run_tokenizer([config(taken=taken)], tmp_path),
      tokenizer.Tokenizer)


def test_the_words_of_the_weights_are_kept_with_the_run(weights, tmp_path):
  weights["vocabulary"] = words()
  (tmp_path / tokenizer.FILE).write_bytes(b"left from a start that failed")
  first = input_pipeline.run_tokenizer([config()], tmp_path)
  assert not (tmp_path / tokenizer.FILE).exists()
  (tmp_path / "config.json").write_text("{}")
  weights["vocabulary"] = None  # Needed at the start alone.
  again = input_pipeline.run_tokenizer([config()], tmp_path)
  np.testing.assert_array_equal(again.batch(TEXTS), first.batch(TEXTS))
  np.testing.assert_array_equal(again.batch(TEXTS), words().batch(TEXTS))


def test_more_words_than_rows_are_refused(weights, tmp_path):
  weights["vocabulary"] = words()
  few = config(text={"vocab": 20, "length": LENGTH})
  with pytest.raises(ValueError, match=r"tokens and text\.vocab is 20"):
    input_pipeline.run_tokenizer([few], tmp_path)


def text(**given):
  """Settings of a text tower that `words` fits, in the parts that matter."""
  return {"vocab": 60, "length": LENGTH, "pool": "eos", "eos": 3,
          "padding": "masked", "causal": True, **given}


def made(single, pad="<pad>", side="right"):
  """A word-level vocabulary with another template, padding token or side."""
  import tokenizers

  ids = {"<pad>": 0, "<bos>": 1, "<unk>": 2, "<eos>": 3, "a": 4, "cat": 5}
  model = tokenizers.Tokenizer(
      tokenizers.models.WordLevel(ids, unk_token="<unk>"))
  model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  if single:
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, special_tokens=list(ids.items()))
  return vocabulary.Vocabulary(model.to_str().encode(), LENGTH, pad, side)


@pytest.mark.parametrize(("found", "settings", "said"), [
    (dict(single="$A <eos>"), dict(eos=2),
     r"text\.eos=2, and the vocabulary ends texts with id 3.*Set text\.eos=3"),
    (dict(single=None), {}, r"text\.eos=3, .* has no end token"),
    (dict(single="<bos> $A"), dict(eos=1), "has no end token"),
    (dict(single="<eos> $A <eos>"), {}, "also begins texts with it"),
    (dict(single="$A <eos>", pad="<eos>", side="left"), dict(padding="read"),
     "or pads them with it on the left"),
    (dict(single="$A <eos>", pad="<eos>"), {}, "pads with id 3 and .*masked"),
    (dict(single="$A <eos>", pad="<eos>"), dict(pool="last"),
     "pads with id 3 and .*masked"),
    (dict(single="$A <eos>", pad="<eos>"), dict(pool="mean"),
     "pads with id 3 and .*masked"),
    (dict(single="<bos> $A", side="left"), dict(pool="first", causal=False),
     "padding on the left"),
    (dict(single="$A <eos>"), dict(vocab=4), r"6 tokens and text\.vocab is 4"),
])
@pytest.mark.parametrize("given", [True, False])
def test_a_vocabulary_that_the_tower_would_misread_is_refused(
    weights, tmp_path, found, settings, said, given
):
  needs_tokenizers()
  weights["vocabulary"] = made(**found)
  file = tmp_path / "their.json"
  file.write_bytes(weights["vocabulary"].content)
  how = config(str(file) if given else None, text=text(**settings))
  with pytest.raises(ValueError, match=said):
    input_pipeline.run_tokenizer([how], tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("found", "settings"), [
    (dict(single="$A <eos>"), {}),
    (dict(single="<bos> $A <eos>", pad="<eos>"), dict(padding="read")),
    (dict(single="<bos> $A <eos>", side="left"), {}),
    (dict(single=None), dict(pool="last")),
    (dict(single="$A <eos>", pad="<eos>"), dict(pool="last", padding="read")),
    (dict(single="<bos> $A"), dict(pool="first", causal=False)),
])
def test_a_vocabulary_that_the_tower_reads_is_taken(
    weights, tmp_path, found, settings
):
  needs_tokenizers()
  weights["vocabulary"] = made(**found)
  how = config(text=text(**settings))
  assert input_pipeline.run_tokenizer([how], tmp_path).vocab == 6


def test_every_stage_of_texts_is_checked_against_the_vocabulary(tmp_path):
  stages = [config(taken=("image/.*",), text=text(eos=eos)) for eos in (3, 7)]
  with pytest.raises(ValueError, match=r"text\.eos=7, .* with id 3"):
    input_pipeline.run_tokenizer(stages, tmp_path)


def test_a_vocabulary_without_room_for_its_own_tokens_is_refused(
    weights, tmp_path
):
  needs_tokenizers()
  weights["vocabulary"] = made("<bos> $A <eos>")
  with pytest.raises(ValueError, match=r"adds 2 tokens.*raise text\.length"):
    input_pipeline.run_tokenizer([config(text=text(length=1))], tmp_path)


def test_the_words_of_the_weights_come_at_the_length_of_the_run(
    weights, tmp_path
):
  weights["vocabulary"] = words()
  short = input_pipeline.run_tokenizer(
      [config(text={"vocab": 60, "length": 4})], tmp_path)
  assert short.batch(TEXTS).shape == (3, 4)
  assert short(TEXTS[0])[-1] == short.end


def begun(weights, theirs, ours, weights_given=None, **settings):
  """Position embeddings of a run of `ours` ids from weights of `theirs`."""
  table = np.random.default_rng(0).normal(size=(theirs, 2)).astype(np.float32)
  weights["settings"]["text"] = {"length": theirs}
  weights["params"] = {"text": {"encoder": {
      "vocabulary": np.ones((60, 2), np.float32), "positions": table}}}
  params = {"text": {"encoder": {
      "vocabulary": jnp.zeros((60, 2)), "positions": jnp.zeros((ours, 2))}}}
  state = types.TrainState(jnp.int32(0), params, (), (), None)
  how = config(text=text(length=ours, **settings))
  how["weights"] = weights_given or how["weights"]
  return table, pretrained.begin(state, how).params["text"]["encoder"][
      "positions"]


def test_shorter_texts_begin_from_the_first_position_embeddings(weights):
  for changes in ({}, dict(padding="read"), dict(causal=False)):
    table, found = begun(weights, 8, 5, **changes)
    np.testing.assert_array_equal(found, table[:5])


def test_longer_texts_begin_from_all_position_embeddings_and_new_ones(weights):
  # A text that fits both lengths keeps its embedding; `begun` starts at zero.
  table, positions = begun(weights, 4, 8)
  np.testing.assert_array_equal(positions[:4], table)
  np.testing.assert_array_equal(positions[4:], 0)


def test_a_tower_that_reads_its_padding_keeps_its_text_length(weights):
  with pytest.raises(ValueError, match=r"text\.length is 5, the weights need 8"):
    begun(weights, 8, 5, causal=False, padding="read")


def test_another_length_is_said_and_can_be_asked_for(weights, caplog):
  with caplog.at_level(logging.WARNING):
    begun(weights, 8, 5)
    begun(weights, 4, 8)
  assert "the first 5 of 8 positions are kept, the rest is cut" in caplog.text
  assert "all 4 positions are kept, and 4 new ones begin" in caplog.text
  asked = {"name": "x", "path": "there", "paths": (".*",), "other_length": True}
  with caplog.at_level(logging.WARNING):
    table, found = begun(
        weights, 8, 5, causal=False, padding="read", weights_given=asked)
  np.testing.assert_array_equal(found, table[:5])
  assert "every text has another embedding" in caplog.text


def test_a_tokenizer_json_can_be_given(weights, tmp_path):
  (tmp_path / "theirs").mkdir()
  file = tmp_path / "theirs" / "tokenizer.json"
  file.write_bytes(words().content)
  found = input_pipeline.run_tokenizer([config(str(file))], tmp_path / "run")
  np.testing.assert_array_equal(found.batch(TEXTS), words().batch(TEXTS))
  assert (tmp_path / "run" / "tokenizer.json").exists()


def test_a_sentencepiece_model_of_others_can_be_given(weights, tmp_path):
  file = tmp_path / "spiece.model"
  file.write_bytes(siglip())
  with pytest.raises(ValueError, match=r"padding token must be named.*pad_token"):
    input_pipeline.run_tokenizer([config(str(file))], tmp_path / "run")
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(
      {"pad_token": "</s>", "tokenizer_class": "SiglipTokenizer"}))
  found = input_pipeline.run_tokenizer([config(str(file))], tmp_path / "run")
  pieces = sentencepiece.SentencePieceProcessor(model_proto=siglip())
  for text, clean in zip(TEXTS, ["a red cat", "two dogs", ""], strict=True):
    ids = [*pieces.encode(clean), 1][:LENGTH]
    assert found(text).tolist() == ids + [1] * (LENGTH - len(ids))


def test_what_is_no_vocabulary_is_refused(weights, tmp_path):
  (tmp_path / "a.model").write_bytes(b"nonsense")
  with pytest.raises(ValueError, match="not a SentencePiece model"):
    input_pipeline.run_tokenizer([config(str(tmp_path / "a.model"))], tmp_path / "run")


def test_a_model_that_ends_no_text_is_refused(weights, tmp_path):
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(CAPTIONS), model_writer=written, vocab_size=40,
      hard_vocab_limit=False, eos_id=-1, minloglevel=2)
  (tmp_path / "a.model").write_bytes(written.getvalue())
  (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<s>"}')
  with pytest.raises(ValueError, match="no piece that ends a text"):
    input_pipeline.run_tokenizer([config(str(tmp_path / "a.model"))], tmp_path / "run")


@pytest.mark.parametrize(("augment", "said"), [
    (dict(size=8, crop="none", method="area"),
     "augment.crop is 'none', theirs is 'center'; "
     "augment.method is 'area', theirs is 'bicubic'"),
    (dict(size=8, crop="random", method="bilinear", offset="round"),
     "augment.method is 'bilinear', theirs is 'bicubic'"),
    (dict(size=16, crop="random", method="bicubic", offset="round"), None),
    (dict(size=16, crop="random", method="bicubic", offset="floor"),
     "augment.offset is 'floor', theirs is 'round'"),
    (dict(size=None, crop="none", method="area"), None),
])
def test_images_scaled_otherwise_are_named(weights, caplog, augment, said):
  state = types.TrainState(
      jnp.int32(0), {"image": {"encoder": {"kernel": jnp.zeros(2)}}}, (), (),
      None)
  how = config(taken=("image/.*",), augment=augment)
  with caplog.at_level(logging.WARNING):
    begun = pretrained.begin(state, how)
  np.testing.assert_array_equal(begun.params["image"]["encoder"]["kernel"], 1)
  found = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
  assert len(found) == (said is not None)
  assert said is None or found[0].endswith(said)


def test_what_a_run_begins_from_is_one_end_of_a_line(
    monkeypatch, weights, tmp_path
):
  tiny.install(monkeypatch)
  monkeypatch.setattr(report, "held_out", lambda *args: None)
  monkeypatch.setattr(report, "write", lambda folder, samples: folder)
  how = tiny.config(
      steps=3, checkpoint=dict(every=1, keep=1), evals=None,
      image=dict(name="toy"), text=dict(name="toy"),
      gradient=dict(name="direct"), optimizer=dict(name="sgd", peak=1e-2),
      weights=dict(name="x", path="there", paths=("image/.*",)))
  shapes = jax.eval_shape(
      build.run(settings.complete(how), tmp_path / "shapes")[0].program.fresh).params
  draw = np.random.default_rng(0)
  weights["params"] = {"image": jax.tree.map(
      lambda x: draw.normal(size=x.shape).astype(np.float32),
      shapes["image"])}
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, "step", 1)
    with pytest.raises(tiny.Killed):
      train.train(how, tmp_path / "run")
  train.train(how, tmp_path / "run")
  folder = str(tmp_path / "run" / restore.FOLDER)
  with checkpoint.Checkpoints(folder, every=None) as kept:
    assert kept.latest() == 3
  first = tiny.parameters(tmp_path / "run", 0)
  for path, leaf in paths.flatten(weights["params"]).items():
    np.testing.assert_array_equal(first[path], leaf, err_msg=path)
  assert interpolate.interpolate(tmp_path / "run", 0, (0.5,))[0] == 3


@pytest.mark.parametrize(("set_to", "found"), [
    (None, "lower"), ("whitespace", "whitespace"), ("none", "none"),
])
def test_captions_are_cleaned_as_the_weights_say_unless_a_setting_does(
    weights, tmp_path, set_to, found
):
  weights["vocabulary"] = words("lower")
  given = config()
  given["tokenizer"]["clean"] = set_to
  assert input_pipeline.run_tokenizer([given], tmp_path).clean == found
  (tmp_path / "config.json").write_text("{}")  # It has begun.
  assert input_pipeline.run_tokenizer([given], tmp_path).clean == found

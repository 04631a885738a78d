"""A run keeps the vocabulary that it began with, or stops in a sentence."""

import functools
import json
import shutil

import numpy as np
import pytest
import tiny

from basic import evaluate, export, files, interpolate, report, train
from basic.data import _sentencepiece, tokenizer, vocabulary
from basic.engine import checksums
from basic.experiment import build, input_pipeline, restore, settings

MODEL = tokenizer.FILE


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


@pytest.fixture
def folder(tmp_path):
  shutil.copytree(tiny.whole(), tmp_path / "run")
  return tmp_path / "run"


def other_scores(content):
  """The same pieces, of which two change places in the order of merges."""
  spec = _sentencepiece.parse(content)
  first, second = [p for p in spec.pieces if p.type == 1 and len(p.piece) > 1][:2]
  first.score, second.score = second.score, first.score
  return spec.SerializeToString()


def all_programs(folder):
  return {
      "train": functools.partial(train.train, tiny.config(), folder),
      "evaluate": functools.partial(evaluate.evaluate, folder),
      "report": functools.partial(report.rebuild, folder),
      "export": functools.partial(
          export.export, folder, "stablehlo", folder.parent / "out"),
      "interpolate": functools.partial(interpolate.interpolate, folder, 10, [0.5]),
  }


def test_every_program_refuses_another_vocabulary(folder):
  content = (folder / MODEL).read_bytes()
  tokenizer.Tokenizer(other_scores(content), 8)  # Nothing else would notice.
  (folder / MODEL).write_bytes(other_scores(content))
  before = tiny.files(folder)
  for name, program in all_programs(folder).items():
    with pytest.raises(ValueError, match=rf"is not the one that checkpoint 1[02] .*"
                                         rf"{MODEL}.*Restore"):
      program()
    assert tiny.files(folder) == before, name


def test_no_program_trains_a_vocabulary_that_is_missing(folder, monkeypatch):
  (folder / MODEL).unlink()
  monkeypatch.setattr(tokenizer, "train", None)
  before = tiny.files(folder)
  for name, program in all_programs(folder).items():
    with pytest.raises(FileNotFoundError, match="restore the file that the run"):
      program()
    assert tiny.files(folder) == before, name


def test_no_flipped_bit_of_a_vocabulary_is_accepted(folder):
  content = (folder / MODEL).read_bytes()
  saved, draw = input_pipeline.fingerprint(folder), np.random.default_rng(0)
  for _ in range(250):
    flipped = bytearray(content)
    flipped[draw.integers(len(content))] ^= 1 << int(draw.integers(8))
    (folder / MODEL).write_bytes(bytes(flipped))
    assert input_pipeline.fingerprint(folder) != saved
  (folder / MODEL).write_bytes(content)
  assert input_pipeline.fingerprint(folder) == saved


def test_another_cleaning_is_another_vocabulary(folder):
  saved = input_pipeline.fingerprint(folder)
  vocabulary.save_settings({"clean": "lower"}, folder)
  assert input_pipeline.fingerprint(folder) != saved
  with pytest.raises(ValueError, match=vocabulary.SETTINGS):
    restore.load(folder)


def test_a_checkpoint_that_does_not_name_its_vocabulary_is_read(folder):
  found = list((folder / "checkpoints").rglob("integrity/metadata"))
  assert found
  for path in found:
    position, table = checksums.unseal(json.loads(path.read_text()))
    assert position.pop("vocabulary") == input_pipeline.fingerprint(folder)
    files.replace(
        path, json.dumps(checksums.seal([position, table])).encode())
  _, state = restore.load(folder)
  assert int(state.step) == 12


def test_the_cleaning_is_stored_and_used_again(tmp_path):
  config = settings.complete(tiny.config(tokenizer=dict(clean="whitespace")))
  stages = build.run(config, tmp_path)
  (tmp_path / "config.json").write_text("{}")  # It has begun.
  again = input_pipeline.run_tokenizer([config], tmp_path)
  assert again.clean == "whitespace"
  assert again("a &amp;amp; b").tolist() == again("a & b").tolist()
  assert stages[0].vocabulary == input_pipeline.fingerprint(tmp_path)
  (tmp_path / "out").mkdir()
  longer = input_pipeline.at_length(
      again, {"text": {**config["text"], "length": 20}})
  assert (longer.clean, longer.length) == ("whitespace", 20)
  about = export._copy_vocabulary(tmp_path, files.checked("out", tmp_path / "out"))
  assert about["clean"] == "whitespace"
  pytest.importorskip("tokenizers")
  exported = export.text_vocabulary(config, tmp_path)
  assert exported is not None and exported.clean == "whitespace"


def test_no_cleaning_is_written_over_that_of_a_failed_start(tmp_path):
  vocabulary.save_settings({"clean": "lower"}, tmp_path)
  build.run(settings.complete(tiny.config()), tmp_path)
  assert not (tmp_path / vocabulary.SETTINGS).exists()


def test_a_broken_model_of_ours_is_called_that(tmp_path):
  model = tokenizer.train(["a red cat"] * 3, vocab=30)
  config = settings.complete(tiny.config(
      tokenizer=dict(model=str(tmp_path / "mine.model"))))
  for broken in (b"", model[: len(model) // 2], b"\0" + model[1:]):
    (tmp_path / "mine.model").write_bytes(broken)
    with pytest.raises(ValueError, match=r"mine\.model: .*SentencePiece model"):
      input_pipeline.run_tokenizer([config], tmp_path / "run")


def test_a_broken_file_of_others_names_itself(tmp_path):
  pytest.importorskip("tokenizers")
  config = settings.complete(tiny.config(
      tokenizer=dict(model=str(tmp_path / "theirs.json"))))
  (tmp_path / "theirs.json").write_bytes(b'{"model": ')
  with pytest.raises(ValueError, match=r"theirs\.json: .*not a tokenizer\.json"):
    input_pipeline.run_tokenizer([config], tmp_path / "run")

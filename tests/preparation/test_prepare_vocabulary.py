"""`python -m basic.prepare vocabulary` trains a vocabulary and reports on it."""

import numpy as np
import pytest

from basic import prepare
from basic.data import tokenizer, vocabulary
from basic.experiment import input_pipeline

SOURCE = ("--source.name=shapes", "--source.length=60")


def run(out, *arguments):
  return prepare.prepare("vocabulary", [
      *SOURCE, "--size=120", f"--out={out}", *arguments])


def test_the_same_command_writes_the_same_file(tmp_path):
  first, again = tmp_path / "a" / "tokenizer.model", tmp_path / "b.model"
  run(first)
  run(again)
  assert first.read_bytes() == again.read_bytes()
  assert [p.name for p in first.parent.iterdir()] == ["tokenizer.model"]


def test_the_report_counts_ids_as_a_run_has_them(tmp_path):
  found = run(tmp_path / "t.model", "--length=9")
  words = input_pipeline.from_file(tmp_path / "t.model", 1000)
  from basic.sources import shapes

  texts = [t for example in map(shapes.shapes(length=60).__getitem__, range(60))
           for t in np.atleast_1d(example["text"])]
  lengths = [int((words(text) != 0).sum()) for text in texts]
  assert found["captions judged"] == found["captions learned from"] == len(texts)
  assert found["pieces"] == words.vocab <= 120
  assert found["ids of a caption, mean"] == round(sum(lengths) / len(lengths), 2)
  assert found["ids of a caption, 100%"] == max(lengths)
  beyond = 100 * sum(n > 9 for n in lengths) / len(lengths)
  assert found["% of captions beyond 9 ids"] == pytest.approx(beyond, abs=1e-3)
  assert 0 < beyond < 100


def test_unknown_text_and_bytes_are_counted(tmp_path):
  from basic.preparation import vocabulary as command

  for size, name in ((40, "% of ids unknown"), (600, "% of ids single bytes")):
    words = tokenizer.Tokenizer(
        tokenizer.train(["aa bb cc a b c"] * 4, vocab=size), 64)
    some = command._coverage(words, ["aa bb", "漢"], 8)
    none = command._coverage(words, ["aa bb"], 8)
    assert some[name] > 0 and none[name] == 0


def test_its_cleaning_goes_with_the_file(tmp_path):
  run(tmp_path / "t.model", "--clean=lower")
  assert vocabulary.settings(tmp_path) == {"clean": "lower"}
  words = input_pipeline.from_file(tmp_path / "t.model", 16)
  assert words.clean == "lower"
  assert words("A &amp;amp; B").tolist() == words("a & b").tolist()
  run(tmp_path / "t.model")
  assert input_pipeline.from_file(tmp_path / "t.model", 16).clean is None


def test_captions_may_be_made_of_labels(tmp_path):
  found = prepare.prepare("vocabulary", [
      "--source.name=digits", "--source.length=20", "--size=60",
      "--templates=a picture of {}", f"--out={tmp_path / 't.model'}"])
  assert found["captions learned from"] == 20


def test_the_cleaning_of_another_vocabulary_in_the_folder_is_not_changed(tmp_path):
  run(tmp_path / "lower.model", "--clean=lower")
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  for arguments in ((), ("--clean=whitespace",)):
    with pytest.raises(ValueError, match=r"by 'lower', also for lower\.model"):
      run(tmp_path / "other.model", *arguments)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
  run(tmp_path / "other.model", "--clean=lower")
  assert vocabulary.settings(tmp_path) == {"clean": "lower"}


def test_a_path_that_cannot_be_written_is_refused_before_any_work(tmp_path):
  (tmp_path / "file").write_text("")
  for out, sentence in (
      (tmp_path, r"which is a folder; name the file in it, .*tokenizer\.model"),
      (tmp_path / "file" / "t.model", r"file is a file; it takes a folder"),
  ):
    with pytest.raises(ValueError, match=sentence):
      run(out, "--source.length=1_000_000_000")


def test_a_vocabulary_that_is_not_there_is_said(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"nope\.model', and there is no such"):
    input_pipeline.from_file(tmp_path / "nope.model", 8)
  with pytest.raises(ValueError, match=r"which is a folder\. Give the file"):
    input_pipeline.from_file(tmp_path, 8)


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--length=0"], "length is 0"), (["--clean=soap"], "no cleaning of captions"),
    (["--size=5"], "cannot hold every character"), (["--out="], "--out is empty"),
])
def test_what_cannot_be_is_said(tmp_path, arguments, sentence):
  with pytest.raises(ValueError, match=sentence):
    run(tmp_path / "t.model", *arguments)
  assert list(tmp_path.iterdir()) == []

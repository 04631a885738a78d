"""Captions are cleaned as open_clip cleans them.

What open_clip gives is in tests/fixtures/open_clip_texts.json.
"""

import json
import pathlib
import pickle

import pytest

from basic.data import cleaning, tokenizer

ROWS = json.loads(
    (pathlib.Path(__file__).parents[1] / "fixtures/open_clip_texts.json")
    .read_text())["rows"]
CAPTIONS = ["salt & pepper", "a café, it's open", "A red CAT's mat"] * 3


@pytest.mark.parametrize("name", ["whitespace", "lower", "canonicalize"])
def test_odd_texts_are_cleaned_as_open_clip_does(name):
  clean = cleaning.cleaner(name)
  assert len(ROWS) == 200
  assert [clean(row["text"]) for row in ROWS] == [row[name] for row in ROWS]


def test_no_cleaning_is_no_function():
  assert cleaning.cleaner(None) is None
  assert cleaning.cleaner("none") is None


@pytest.mark.parametrize("name", ["openai", "", "Lower"])
def test_an_unknown_cleaning_is_refused(name):
  with pytest.raises(ValueError, match="there is no cleaning of captions"):
    cleaning.cleaner(name)


def test_only_the_beginning_of_a_huge_caption_is_cleaned():
  read = []

  def clean(text):
    read.append(len(text))
    return text

  assert cleaning.cleaned(clean, " " * 10_000 + "cat" * 10_000, 2)[:3] == "cat"
  assert read == [2048]
  assert cleaning.cleaned(clean, "\x85cat", 2) == "\x85cat"


def test_our_tokenizer_cleans_as_it_is_told():
  model = tokenizer.train(CAPTIONS, vocab=80)
  plain = tokenizer.Tokenizer(model, 24)
  clean = tokenizer.Tokenizer(model, 24, "whitespace")
  odd = "salt &amp;amp; pepper"
  assert clean(odd).tolist() == plain("salt & pepper").tolist()
  assert plain(odd).tolist() != plain("salt & pepper").tolist()
  assert clean.batch([odd])[0].tolist() == clean(odd).tolist()
  again = pickle.loads(pickle.dumps(clean))
  assert again(odd).tolist() == clean(odd).tolist()
  assert len({plain.fingerprint, clean.fingerprint}) == 2

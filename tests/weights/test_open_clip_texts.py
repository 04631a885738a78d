"""Texts of OpenAI-style weights have the ids that open_clip gives them.

tests/fixtures/open_clip_texts.json holds 200 odd texts and what open_clip made of
them, with the first 400 merges of CLIP's vocabulary.
"""

import json
import logging
import pathlib

import numpy as np
import pytest

from basic.data import tokenizer, vocabulary
from basic.weights import _hugging_face, _open_clip

tokenizers = pytest.importorskip(
    "tokenizers", reason="the tokenizers library is not installed")

KNOWN = json.loads(
    (pathlib.Path(__file__).parents[1] / "fixtures/open_clip_texts.json")
    .read_text())
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
NAMES = r"<\|startoftext\|>|<\|endoftext\|>|"


def alphabet():
  """The 256 bytes as characters, in CLIP's order."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [b for b in range(256) if b not in shown]
  return [*map(chr, shown), *(chr(256 + n) for n in range(len(hidden)))]


def folder(path, names=NAMES):
  """The vocabulary as transformers writes CLIP's: the published files."""
  merges = [tuple(merge.split()) for merge in KNOWN["merges"]]
  pieces = [*alphabet(), *(f"{c}</w>" for c in alphabet()),
            *map("".join, merges), START, END]
  ids = {piece: n for n, piece in enumerate(pieces)}
  file = tokenizers.Tokenizer(tokenizers.models.BPE(
      ids, merges, unk_token=END, end_of_word_suffix="</w>",
      continuing_subword_prefix=""))
  file.add_special_tokens([START, END])
  each, regex = tokenizers.normalizers, tokenizers.Regex
  file.normalizer = each.Sequence(
      [each.NFC(), each.Replace(regex(r"\s+"), " "), each.Lowercase()])
  file.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
      tokenizers.pre_tokenizers.Split(regex(names + WORDS), "removed", invert=True),
      tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
  ])
  file.post_processor = tokenizers.processors.RobertaProcessing(
      (END, ids[END]), (START, ids[START]), add_prefix_space=False,
      trim_offsets=False)
  path.mkdir(exist_ok=True)
  file.save(str(path / "tokenizer.json"))
  (path / "tokenizer_config.json").write_text(json.dumps(
      {"tokenizer_class": "CLIPTokenizer", "pad_token": END, "eos_token": END}))
  return path


def read(path, config=None, **more):
  config = {"model_cfg": {"text_cfg": config or {}}}
  return _hugging_face.words(
      path, 77, clean=_open_clip.clean(config), convert=_open_clip.as_trained,
      **more)


@pytest.mark.parametrize("names", [NAMES, ""])
def test_200_odd_texts_have_the_ids_of_open_clip(tmp_path, names):
  words = read(folder(tmp_path / "clip", names))
  assert words.clean == "lower"
  wrong = []
  for row in KNOWN["rows"]:
    ids = words(row["text"]).tolist()
    # Both end in the last id; open_clip then has zeros, which no position before
    # them attends to.
    if ids[: ids.index(words.end) + 1] != row["ids"]:
      wrong.append(row["text"])
  assert (len(KNOWN["rows"]), wrong) == (200, [])


def test_transformers_does_not_clean_and_neither_do_its_folders(tmp_path):
  words = _hugging_face.words(folder(tmp_path), 77)
  assert words.clean is None
  assert words("a &amp; b").tolist() != words("a & b").tolist()


def test_other_vocabularies_are_left_as_they_are():
  made = vocabulary.from_sentencepiece(
      tokenizer.train(["a red cat"] * 3, vocab=30), 8, pad="<pad>", end="</s>")
  assert _open_clip.as_trained(made.content) == made.content
  for odd in (b"[1]", b"{}", b'{"pre_tokenizer": {"pretokenizers": [1]}}'):
    assert _open_clip.as_trained(odd) == odd


@pytest.mark.parametrize(("text", "clean"), [
    ({}, "lower"), ({"hf_tokenizer_name": "bert"}, "whitespace"),
    ({"tokenizer_kwargs": {"clean": "canonicalize"}}, "canonicalize"),
])
def test_the_configuration_says_how_texts_are_cleaned(text, clean):
  assert _open_clip.clean({"model_cfg": {"text_cfg": text}}) == clean


@pytest.mark.parametrize("clean", [None, "lower", "whitespace", "canonicalize"])
def test_a_vocabulary_written_is_read_again_with_its_cleaning(
    tmp_path, clean, caplog
):
  made = vocabulary.from_sentencepiece(
      tokenizer.train(["a red cat &"] * 3, vocab=30), 77, pad="<pad>", end="</s>",
      clean=clean)
  _hugging_face.save_words(tmp_path, made)
  with caplog.at_level(logging.WARNING):
    config = _open_clip._tokenizer(made)
  assert ("open_clip always does" in caplog.text) == (clean is None)
  assert config["hf_tokenizer_name"]  # Or open_clip would take CLIP's vocabulary.
  again = read(tmp_path, config)
  texts = ["A cat &amp;amp; a Red", "a red cat", "\u2019cat\u2019"]
  np.testing.assert_array_equal(again.batch(texts), made.batch(texts))


def test_an_unknown_cleaning_of_a_configuration_is_refused():
  for found in ({"clean": "x"}, {"strip": 1}, "lower"):
    assert "tokenizer_kwargs" in _open_clip._cleaning_faults(found)[0]
  assert _open_clip._cleaning_faults({"clean": "lower"}) == []

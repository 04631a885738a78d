"""Vocabularies from elsewhere give the ids that they gave there."""

import io
import pickle

import numpy as np
import pytest
import sentencepiece

from basic import types
from basic.data import tokenizer, vocabulary

pytest.importorskip(
    "tokenizers", reason="the tokenizers library is not installed")

CAPTIONS = [
    "a red cat on a mat", "A photo of the digit 7", "two blue dogs, running",
    "the quick brown fox", "éclair café au lait", "bananas and banana",
] * 3
TEXTS = [
    "", "  a  RED cat", "Ünïcode ﬁ ½ ", "日本 語 emoji 😀😀", "a\tb\nc",
    "aaaaaa bananana", "x" * 200, "the digit 7 " * 9, "A\u00a0B",
    "<s> </s> <unk>", "a\u200bb", "e\u0301clair",
    "\uff46\uff55\uff4c\uff4c \uff57\uff49\uff44\uff45",  # in full width
  # Accents of their own, in upper case too; separators that only Python strips.
  "E\u0301clair", "A\u030a Q\u0325 q\u0325", "\u00a9\ufe0f 7\ufe0f", "a\x1cb\x1f c",
]


def random_texts(count=100):
  draw = np.random.default_rng(0)
  letters = list("abcdefghijkl nop qrst é7")
  return ["".join(draw.choice(letters, 20)) for _ in range(count)]


@pytest.mark.parametrize("vocab", [60, 700])  # without and with byte pieces
def test_our_own_vocabulary_gives_the_same_ids_elsewhere(vocab):
  model = tokenizer.train(CAPTIONS, vocab=vocab)
  ours = tokenizer.Tokenizer(model, 12)
  there = vocabulary.from_sentencepiece(model, 12, pad="<pad>", end="</s>")
  texts = TEXTS + random_texts()
  np.testing.assert_array_equal(there.batch(texts), ours.batch(texts))
  assert there.vocab == ours.vocab


def unigram():
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(CAPTIONS), model_writer=written, vocab_size=50,
      model_type="unigram", hard_vocab_limit=False, pad_id=0, eos_id=1,
      unk_id=2, bos_id=-1, minloglevel=2)
  return written.getvalue()


def test_a_unigram_model_gives_the_same_ids():
  model = unigram()
  pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
  there = vocabulary.from_sentencepiece(model, 30, pad="<pad>", end="</s>")
  for text in ["a red cat", "two   dogs", "the quick éclair 9", "bananas"]:
    want = [*pieces.encode(text), 1]
    assert there(text)[: len(want)].tolist() == want
    assert not there(text)[len(want):].any()


def made():
  model = tokenizer.train(CAPTIONS, vocab=60)
  return vocabulary.from_sentencepiece(model, 8, pad="<pad>", end="</s>")


def test_its_content_and_its_pickle_are_all_of_it():
  words = made()
  again = vocabulary.Vocabulary(words.content, 8)
  copy = pickle.loads(pickle.dumps(words))
  for other in (again, copy):
    np.testing.assert_array_equal(other.batch(TEXTS), words.batch(TEXTS))
    assert other.fingerprint == words.fingerprint


def test_a_row_may_be_filled_up_on_the_left():
  words = vocabulary.Vocabulary(made().content, 8, "</s>", "left")
  assert words("a").tolist()[:5] == [tokenizer.EOS] * 5
  assert (words.pad, words.side) == ("</s>", "left")


def test_no_texts_are_no_rows():
  assert made().batch([]).shape == (0, 8)


def test_what_is_no_text_is_unreadable():
  with pytest.raises(types.Unreadable, match="not text"):
    made()(b"bytes")


@pytest.mark.parametrize(
    ("content", "given", "said"),
    [
        (b"{", {}, "not a tokenizer.json"),
        (None, dict(pad="<nothing>"), "'<nothing>' is not in this vocab"),
        (None, dict(length=0), "at least 1"),
    ],
)
def test_what_cannot_be_a_vocabulary_is_refused(content, given, said):
  content = made().content if content is None else content
  with pytest.raises(ValueError, match=said):
    vocabulary.Vocabulary(content, **{"length": 8, **given})


def test_a_file_without_padding_needs_to_be_told():
  import tokenizers

  bare = tokenizers.Tokenizer.from_str(made().content.decode())
  bare.no_padding()
  with pytest.raises(ValueError, match="does not name a padding token"):
    vocabulary.Vocabulary(bare.to_str().encode(), 8)


def test_what_is_no_sentencepiece_model_is_refused():
  with pytest.raises(ValueError, match="SentencePiece"):
    vocabulary.from_sentencepiece(b"nonsense", 8, pad="<pad>", end="</s>")

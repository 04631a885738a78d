"""The tokenizer reads any text, and says what it cannot use."""

import pickle
import threading
import unicodedata

import numpy as np
import pytest

from basic import types
from basic.data import tokenizer

CAPTIONS = [
    f"A photo of {count} {colour} {thing} {place}."
    for count in ("one", "two", "three")
    for colour in ("red", "green", "blue")
    for thing in ("cats", "dogs", "birds", "squares")
    for place in ("on a mat", "in the rain", "above a circle")
]


@pytest.fixture(scope="module")
def small():
  return tokenizer.train(CAPTIONS, vocab=120)


@pytest.fixture(scope="module")
def large():
  return tokenizer.train(CAPTIONS, vocab=600)


def test_round_trip_is_the_folded_text(small):
  tokenize = tokenizer.Tokenizer(small, 64)
  for caption in CAPTIONS[::7]:
    assert tokenize.decode(tokenize(caption)) == caption.lower()


def test_row_is_ids_then_eos_then_padding(small):
  row = tokenizer.Tokenizer(small, 64)("two red cats")
  assert row.dtype == np.int32 and row.shape == (64,)
  end = int(np.flatnonzero(row == tokenizer.EOS)[0])
  assert (row[:end] > tokenizer.EOS).all()
  assert (row[end + 1 :] == tokenizer.PAD).all()


def test_special_ids_are_fixed(large):
  tokenize = tokenizer.Tokenizer(large, 8)
  names = [tokenize._pieces.id_to_piece(i) for i in range(4)]
  assert names == ["<pad>", "<unk>", "<s>", "</s>"]


def test_case_and_width_do_not_matter(small):
  tokenize = tokenizer.Tokenizer(small, 32)
  plain = tokenize("two red cats")
  np.testing.assert_array_equal(plain, tokenize("TWO  Red\tCATS\n"))
  # Full-width letters are the same letters under NFKC.
  np.testing.assert_array_equal(plain, tokenize("\uff54\uff57\uff4f red cats"))


def test_empty_text_still_has_a_token(small):
  tokenize = tokenizer.Tokenizer(small, 4)
  for text in ("", "   ", "\n\t"):
    assert tokenize(text).tolist() == [tokenizer.EOS, 0, 0, 0]


def test_long_text_loses_its_end_and_keeps_eos(small):
  long = tokenizer.Tokenizer(small, 64)("two red cats on a mat")
  short = tokenizer.Tokenizer(small, 5)("two red cats on a mat")
  np.testing.assert_array_equal(short[:4], long[:4])
  assert short[4] == tokenizer.EOS
  assert tokenizer.Tokenizer(small, 1)("two").tolist() == [tokenizer.EOS]


def test_a_megabyte_of_text_gives_the_ids_of_its_beginning(small):
  tokenize = tokenizer.Tokenizer(small, 16)
  huge = tokenize(" " * 500_000 + "two red cats " * 40_000)
  np.testing.assert_array_equal(huge, tokenize("two red cats " * 20))


@pytest.mark.parametrize("text", [
    "a\0b", "漢字 🙂", "\u202eabc", "e\u0301" * 50, "\ud800 lone", "\ufffe",
    "\U0010ffff", "<s></s><pad>", "▁", "\u200d", "\u0300" * 1000,
])
def test_odd_text_never_fails(small, large, text):
  for model in (small, large):
    tokenize = tokenizer.Tokenizer(model, 16)
    row = tokenize(text)
    assert row.shape == (16,)
    assert ((row >= 0) & (row < tokenize.vocab)).all()
    assert (row == tokenizer.EOS).sum() == 1
    tokenize.decode(row)


def test_written_special_tokens_are_only_text(large):
  tokenize = tokenizer.Tokenizer(large, 32)
  assert tokenize.decode(tokenize("</s> <pad> two")) == "</s> <pad> two"


def test_bytes_spell_what_training_never_showed(large):
  tokenize = tokenizer.Tokenizer(large, 64)
  text = unicodedata.normalize("NFKC", "漢字 🙂 ñ")
  row = tokenize(text)
  assert tokenizer.UNK not in row
  assert tokenize.decode(row) == text


def test_small_vocabulary_has_no_bytes_and_uses_unk(small):
  tokenize = tokenizer.Tokenizer(small, 8)
  assert tokenizer.UNK in tokenize("漢")
  assert not tokenize._pieces.is_byte(10)


@pytest.mark.parametrize("vocab", [40, 100, 299, 512, 5000])
def test_pieces_never_exceed_the_vocabulary(vocab):
  tokenize = tokenizer.Tokenizer(tokenizer.train(CAPTIONS, vocab=vocab), 8)
  assert 30 < tokenize.vocab <= vocab
  assert tokenize.batch(CAPTIONS).max() < tokenize.vocab


def test_training_twice_gives_the_same_pieces(small):
  again = tokenizer.Tokenizer(tokenizer.train(iter(CAPTIONS), vocab=120), 8)
  first = tokenizer.Tokenizer(small, 8)
  assert again.fingerprint == first.fingerprint
  other = tokenizer.Tokenizer(tokenizer.train(CAPTIONS, vocab=121), 8)
  assert other.fingerprint != first.fingerprint


def test_seed_picks_the_captions_where_there_are_too_many(monkeypatch):
  monkeypatch.setattr(tokenizer, "_MOST_CAPTIONS", 50)
  captions = [f"{i:b} {i * i} {i:x}" for i in range(1000)]

  def pieces(seed):
    model = tokenizer.train(captions, vocab=120, seed=seed)
    return tokenizer.Tokenizer(model, 8).fingerprint

  assert pieces(1) == pieces(1)
  assert pieces(1) != pieces(2)


def test_an_error_among_the_captions_comes_through():
  def broken():
    yield "a cat"
    raise OSError("disk gone")

  with pytest.raises(OSError, match="disk gone"):
    tokenizer.train(broken(), vocab=20)


def test_training_is_quiet_and_leaves_no_files(tmp_path, monkeypatch, capfd):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  tokenizer.train(CAPTIONS, vocab=64)
  assert list(tmp_path.iterdir()) == []
  assert capfd.readouterr() == ("", "")


def test_a_very_long_caption_is_learned_from():
  model = tokenizer.train(["zebra " * 20_000], vocab=30)
  assert tokenizer.UNK not in tokenizer.Tokenizer(model, 8)("zebra")


@pytest.mark.parametrize("captions", [[], [""], ["  ", "\n"]])
def test_training_on_nothing_says_so(captions):
  with pytest.raises(ValueError, match="no caption has a visible character"):
    tokenizer.train(captions, vocab=100)


@pytest.mark.parametrize("vocab", [4, 20])
def test_impossible_vocabulary_says_so(vocab):
  with pytest.raises(ValueError, match=f"a vocabulary of {vocab} pieces cannot"):
    tokenizer.train(CAPTIONS, vocab=vocab)


@pytest.mark.parametrize("vocab", [0, -5])
def test_no_vocabulary_says_so(vocab):
  with pytest.raises(ValueError, match=f"vocabulary of {vocab} pieces"):
    tokenizer.train(CAPTIONS, vocab=vocab)


@pytest.mark.parametrize("text", [b"bytes", None, 3, ["a"]])
def test_what_is_not_text_is_unreadable(small, text):
  tokenize = tokenizer.Tokenizer(small, 8)
  for use in (tokenize, lambda t: tokenize.batch([t]),
              lambda t: tokenizer.train(iter(["a", t]), vocab=20)):
    with pytest.raises(types.Unreadable, match="caption is not text") as caught:
      use(text)
    assert caught.value.reason == "caption is not text"
    assert type(text).__name__ in str(caught.value)


def test_batch_is_the_rows(small):
  tokenize = tokenizer.Tokenizer(small, 8)
  rows = tokenize.batch(CAPTIONS[:3])
  assert rows.dtype == np.int32
  for row, caption in zip(rows, CAPTIONS[:3], strict=True):
    np.testing.assert_array_equal(row, tokenize(caption))
  assert tokenize.batch([]).shape == (0, 8)


def test_decoding_a_foreign_id_says_so(small):
  tokenize = tokenizer.Tokenizer(small, 8)
  for foreign in (tokenize.vocab, -1):
    with pytest.raises(ValueError, match=f"id {foreign} is not in a vocab"):
      tokenize.decode([5, foreign])


def test_pickling_keeps_the_ids(small):
  tokenize = tokenizer.Tokenizer(small, 8)
  again = pickle.loads(pickle.dumps(tokenize))
  np.testing.assert_array_equal(again(CAPTIONS[0]), tokenize(CAPTIONS[0]))
  assert again.fingerprint == tokenize.fingerprint


def test_threads_share_a_tokenizer(small):
  tokenize = tokenizer.Tokenizer(small, 32)
  expected = tokenize.batch(CAPTIONS)
  found = [None] * 4

  def work(i):
    found[i] = [tokenize.batch(CAPTIONS) for _ in range(5)]

  threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for results in found:
    for rows in results:
      np.testing.assert_array_equal(rows, expected)


def test_saved_model_comes_back(small, tmp_path):
  path = tokenizer.save(small, tmp_path / "run")
  assert path.name == "tokenizer.model"
  assert [p.name for p in (tmp_path / "run").iterdir()] == ["tokenizer.model"]
  assert tokenizer.load(tmp_path / "run") == small


def test_loading_nothing_says_so(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"tokenizer\.model does not exist"):
    tokenizer.load(tmp_path)


def test_loading_garbage_says_so(tmp_path):
  for garbage in (b"", b"garbage", b"\0" * 100):
    (tmp_path / tokenizer.FILE).write_bytes(garbage)
    with pytest.raises(ValueError, match=r"tokenizer\.model: .*model"):
      tokenizer.load(tmp_path)


def test_a_cut_file_is_refused(small, tmp_path):
  for cut in range(1, len(small), len(small) // 50):
    (tmp_path / tokenizer.FILE).write_bytes(small[:cut])
    with pytest.raises(ValueError, match="model"):
      tokenizer.load(tmp_path)


def test_saving_garbage_is_refused(tmp_path):
  with pytest.raises(ValueError, match="not a SentencePiece model"):
    tokenizer.save(b"garbage", tmp_path)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, -1])
def test_a_row_needs_a_place(small, length):
  with pytest.raises(ValueError, match="at least 1 id"):
    tokenizer.Tokenizer(small, length)

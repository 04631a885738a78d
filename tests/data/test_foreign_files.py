"""What a tokenizer.json of any kind may do to a run: nothing but give ids."""

import base64
import json
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from basic import types
from basic.data import _rust, tokenizer, vocabulary

tokenizers = pytest.importorskip(
    "tokenizers", reason="the tokenizers library is not installed")

NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LETTERS = [*"abcdefgx", "cat", "[", "]", "S", "E", "P"]


def model(kind):
  """A model of each kind that the library has."""
  models = tokenizers.models
  ids = {name: n for n, name in enumerate([*NAMES, *LETTERS])}
  if kind == "BPE":
    return models.BPE(ids, [], unk_token="[UNK]", fuse_unk=True)
  if kind == "WordPiece":
    ids |= {f"##{name}": len(ids) + n for n, name in enumerate(LETTERS)}
    return models.WordPiece(ids, unk_token="[UNK]")
  if kind == "Unigram":
    return models.Unigram([(name, -1.0 * (n > 3)) for name, n in ids.items()],
                          unk_id=1)
  return models.WordLevel(ids, unk_token="[UNK]")


def made(kind, words=True, template=True, marked=True, **options):
  """A vocabulary with the special tokens of BERT."""
  file = tokenizers.Tokenizer(model(kind))
  if marked:
    file.add_special_tokens(NAMES)
  if words:
    file.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  if template:
    file.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
  content = json.loads(file.to_str())
  content.update(options.pop("parts", {}))
  return vocabulary.Vocabulary(
      json.dumps(content).encode(), options.pop("length", 12), "[PAD]", **options)


KINDS = ("BPE", "WordPiece", "Unigram", "WordLevel")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", [True, False])
def test_every_kind_of_file_gives_rows(kind, template):
  words = made(kind, template=template)
  rows = words.batch(["cat", "", "cat cat a b"])
  cat = [*NAMES, *LETTERS].index("cat")
  start, last = ([2], [3]) if template else ([], [])
  found = [[*start, cat, *last], start + last]
  if kind != "BPE":
    assert rows[0].tolist() == found[0] + [0] * (12 - len(found[0]))
  assert rows[1].tolist() == found[1] + [0] * (12 - len(found[1]))
  assert (rows[2] == cat).sum() in (0, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("words", [True, False])
def test_special_tokens_in_a_caption_are_text(kind, marked, words):
  vocab = made(kind, marked=marked, words=words, length=40)
  pure = set(vocab("cat").tolist()) - {0}
  for caption in ("[SEP]", "cat [SEP] cat", "[PAD] cat [CLS]", "[SEP][SEP]"):
    row = vocab(caption).tolist()
    # One begins it, one ends it, and padding is at the end alone.
    assert (row.count(2), row.count(3), row[0]) == (1, 1, 2), (caption, row)
    end = row.index(3)
    assert 0 not in row[:end] and set(row[end + 1 :]) == {0}
    # All of it is read, for nothing ends at the first name. (Without words, two
    # of the models know whole captions only.)
    if "cat" in caption and (words or kind in ("BPE", "Unigram")):
      assert pure & set(row[1:end])


@pytest.mark.parametrize("caption", ["cat [SEP] cat", "cat [sep] cat"])
def test_the_name_of_a_special_token_keeps_its_letters(caption):
  # This kind of model finds it in text, whatever the library is told.
  upper = caption.isupper() or "S" in caption
  folded = {} if upper else {"normalizer": {
      "type": "Replace", "pattern": {"String": "sep"}, "content": "SEP"}}
  words = made("Unigram", marked=False, parts=folded, length=20)
  row = words(caption).tolist()
  letters = [[*NAMES, *LETTERS].index(letter) for letter in "SEP"]
  assert [i for i in row if i in letters] == letters
  assert row.count(3) == 1


def test_no_more_than_the_beginning_reaches_the_library():
  words, seen = made("WordLevel", length=10), []

  class Spy:
    """Notes how long the texts are that the library is given."""

    def __init__(self, pieces):
      self.pieces = pieces

    def encode_batch(self, texts):
      seen.extend(map(len, texts))
      return self.pieces.encode_batch(texts)

    def __getattr__(self, name):
      return getattr(self.pieces, name)

  words._pieces = Spy(words._pieces)
  words("cat " * 100_000)
  words("cat" + " " * 100_000)
  assert seen == [640, 640, 10_240]


def test_unknown_text_keeps_its_id():
  assert made("WordLevel")("dog [UNK] cat").tolist()[1:4] == [1, 1, 12]


def test_unknown_text_that_has_the_id_of_the_end_is_left_out():
  file = tokenizers.Tokenizer(
      tokenizers.models.WordLevel({"</s>": 0, "cat": 1}, unk_token="</s>"))
  file.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  file.post_processor = tokenizers.processors.TemplateProcessing(
      single="$A </s>", special_tokens=[("</s>", 0)])
  vocab = vocabulary.Vocabulary(file.to_str().encode(), 6, "</s>", "left")
  assert vocab("cat dog cat").tolist() == [0, 0, 0, 1, 1, 0]
  assert vocab("cat </s> cat").tolist() == [0, 0, 0, 1, 1, 0]


def test_a_sentencepiece_model_that_finds_its_end_in_captions_does_not_end():
  import io

  import sentencepiece

  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(["a red cat on a mat"] * 4), model_writer=written,
      vocab_size=40, model_type="bpe", hard_vocab_limit=False, pad_id=0, unk_id=1,
      bos_id=2, eos_id=3, user_defined_symbols=["<s>", "</s>"], minloglevel=2)
  model = written.getvalue()
  with pytest.raises(ValueError, match="of another project"):
    tokenizer.Tokenizer(model, 12)
  words = vocabulary.from_sentencepiece(model, 30, pad="<pad>", end="</s>")
  row, plain = words("cat </s> cat").tolist(), words("cat").tolist()
  assert (row.count(3), plain.count(3)) == (1, 1)
  cat = plain[: plain.index(3)]
  assert row[row.index(3) - len(cat) : row.index(3)] == cat


def part(kind, **parts):
  return made(kind, parts=parts)


def growing(*steps):
  return {"type": "Sequence", "normalizers": [
      {"type": "Replace", "pattern": pattern, "content": content}
      for pattern, content in steps]}


HOSTILE = {
    "slow regex": dict(pre_tokenizer={
        "type": "Split", "pattern": {"Regex": "(x+x+)+y"},
        "behavior": "Isolated", "invert": False}),
    "template": dict(post_processor={
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[NO]", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {}}),
    "table": dict(normalizer={
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(
            struct.pack("<I", 4) + b"\xff\xff\xff\xff").decode()}),
    "growing": dict(normalizer=growing(
        *[({"String": "a"}, "a" * 1000)] * 4)),
    "growing regex": dict(normalizer=growing(
        *[({"Regex": ""}, "ab")] * 40)),
    "growing table": dict(normalizer={
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(
            struct.pack("<I", 4) + b"\0\0\0\0" + b"a" * 100_000 + b"\0").decode()}),
    "no unknown": dict(model={
        "type": "WordLevel", "vocab": {"[PAD]": 0}, "unk_token": "[GONE]"},
        added_tokens=[], post_processor=None),
    "no model": dict(model=None),
    "other model": dict(model={"type": "Magic", "vocab": {}}),
    "list": dict(normalizer=[1], model=[]),
    "empty": dict(model={"type": "BPE", "vocab": {}, "merges": []},
                  added_tokens=[], post_processor=None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence(name, capfd):
  said = "times longer" if "growing" in name else "tokenizer.json|not in this vocab"
  with pytest.raises(ValueError, match=said):
    part("WordLevel", **HOSTILE[name])
  capfd.readouterr()  # The library reports its panics there as well.


def test_a_panic_at_one_caption_makes_that_one_unreadable(capfd):
  words = part("WordLevel", pre_tokenizer={
      "type": "Split", "pattern": {"Regex": "(e+e+)+y"}, "behavior": "Isolated",
      "invert": False})
  with pytest.raises(types.Unreadable, match="caption without ids") as caught:
    words("e" * 64)
  assert caught.value.reason == "caption without ids"
  assert words("cat").tolist()[1] == 12
  capfd.readouterr()


def test_ctrl_c_is_no_panic():
  with pytest.raises(KeyboardInterrupt), _rust.no_panics("this"):
    raise KeyboardInterrupt


def test_the_vocabularies_that_we_write_grow_little():
  made_here = vocabulary.from_sentencepiece(
      tokenizer.train(["a red cat"] * 3, vocab=30), 8, pad="<pad>", end="</s>",
      canonical=True)
  content = json.loads(made_here.content)
  assert _rust._growth(content["normalizer"]) <= _rust._MOST_GROWTH / 2


def test_ten_megabytes_cost_what_their_beginning_costs():
  words = made("WordLevel", length=16)
  text = "cat a " * 1_700_000
  tracemalloc.start()
  try:
    row = words(text)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert row.tolist() == words("cat a " * 20).tolist()
  assert peak < 2**20


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_does_not_change_ids(kind):
  # Spaces are dropped, so that the first 64 a row are too few.
  words, room = made(kind, length=10), made(kind, length=1000)
  for gap in (1, 50, 120, 400):
    text = (" " * gap).join(["cat", "a", "b"] * 40)
    want = room(text).tolist()
    short = words(text).tolist()
    assert short[:9] == want[:9] and short[9] == 3


def test_a_pickle_reads_captions_alike():
  words = made("Unigram", clean="lower")
  again = pickle.loads(pickle.dumps(words))
  texts = ["CAT &amp; [SEP]", "cat"]
  np.testing.assert_array_equal(again.batch(texts), words.batch(texts))
  assert again.clean == "lower"

"""The language of each caption travels with it from a source to an evaluation."""

import json
import tarfile

import numpy as np
import pyarrow
import pytest
import tar_shards
from PIL import Image
from pyarrow import parquet as writer

from basic import sources, types
from basic.data import examples, pipeline
from basic.sources import _stable, folder, mixture, parquet, subset, tar

# As of Crossmodal-3600: some captions of each picture in each language.
ROWS = [
    {"file_name": "0.png", "en": ["a cat", " "], "de": ["eine Katze", "Katze"]},
    {"file_name": "1.png", "en": ["a dog"], "de": []},
    {"file_name": "2.png", "en": ["an owl", "owl"], "de": ["eine Eule"]},
]
TEXTS = [("a cat", "eine Katze", "Katze"), ("a dog",), ("an owl", "owl", "eine Eule")]
LANGUAGES = [("en", "de", "de"), ("en",), ("en", "en", "de")]


@pytest.fixture
def pictures(tmp_path):
  for number in range(3):
    Image.new("RGB", (5, 4), (number, 0, 9)).save(tmp_path / f"{number}.png")
  return tmp_path


def lines(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def columns(pictures):
  lines(pictures / "metadata.jsonl", ROWS)
  return folder.folder(
      path=str(pictures), text=("en", "de"), language=("en", "de"))


def assert_spoken(source):
  assert [source[n]["text"] for n in range(3)] == TEXTS
  assert [source[n]["text_languages"] for n in range(3)] == LANGUAGES
  assert sources.check(source) == []


def test_a_column_of_captions_for_each_language(pictures):
  assert_spoken(columns(pictures))


def test_a_column_with_the_language_of_each_caption(pictures):
  lines(pictures / "metadata.jsonl", [
      {"file_name": f"{n}.png", "caption": [*texts, ""], "said": [*spoken, "en"]}
      for n, (texts, spoken) in enumerate(zip(TEXTS, LANGUAGES, strict=True))
  ])
  assert_spoken(folder.folder(path=str(pictures), language="said"))


def test_a_row_a_language(pictures):
  # As of LAION's tables: the same picture in several rows, some unknown.
  (pictures / "all.csv").write_text(
      "file_name,caption,LANGUAGE\n0.png,a cat,en\n0.png,eine Katze,de\n1.png,x,\n")
  source = folder.folder(path=str(pictures), language="LANGUAGE")
  found = [source[n]["text_languages"] for n in range(3)]
  assert found == [("en",), ("de",), ("",)]


def test_parquet_with_lists(pictures):
  writer.write_table(pyarrow.table({
      "file_name": [row["file_name"] for row in ROWS],
      "en": [row["en"] for row in ROWS], "de": [row["de"] for row in ROWS],
  }), pictures / "a.parquet")
  assert_spoken(parquet.parquet(
      files=str(pictures / "a.parquet"), text=("en", "de"), language=("en", "de")))


def test_tar_with_json_as_img2dataset_writes_it(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  with tarfile.open(tmp_path / "0.tar", "w"):
    pass
  (tmp_path / "0.tar").write_bytes(tar_shards.archive([
      member for n, row in enumerate(ROWS) for member in [
          (f"{n}.png", tar_shards.png(n)), (f"{n}.txt", b"alt"),
          (f"{n}.json", json.dumps({**row, "LANGUAGE": "en"}).encode()),
      ]
  ]))
  shards = str(tmp_path / "0.tar")
  assert_spoken(tar.tar(
      shards=shards, text=("json/en", "json/de"), language=("en", "de")))
  alone = tar.tar(shards=shards, language="json/LANGUAGE")
  assert alone[2]["text"] == ("alt",) and alone[2]["text_languages"] == ("en",)


@pytest.mark.parametrize("settings, message", [
    ({"text": ("en", "de"), "language": ("en",)}, "language is .* of each"),
    ({"text": "en", "language": "nothing"}, "no column 'nothing'"),
])
def test_settings_that_do_not_fit_are_refused(pictures, settings, message):
  lines(pictures / "metadata.jsonl", ROWS)
  with pytest.raises(ValueError, match=message):
    folder.folder(path=str(pictures), **settings)


def test_languages_of_tar_need_places_in_order(tmp_path):
  with pytest.raises(ValueError, match="which then are a tuple"):
    tar.tar(shards="x.tar", text={"txt": 1, "json/de": 2}, language=("en", "de"))


def test_more_languages_than_captions_are_unreadable(pictures):
  lines(pictures / "metadata.jsonl", [
      {"file_name": "0.png", "caption": ["a", "b"], "said": ["en"]},
      {"file_name": "1.png", "caption": ["a", "b"], "said": ["en", "de"]},
  ])
  source = folder.folder(path=str(pictures), language="said")
  with pytest.raises(types.Unreadable, match="languages do not fit"):
    source[0]


def test_fingerprints_change_with_the_language_and_stay_without(pictures):
  lines(pictures / "metadata.jsonl", ROWS)
  one, other = columns(pictures), folder.folder(
      path=str(pictures), text=("en", "de"))
  assert one.fingerprint != other.fingerprint
  # Hashed by older runs, which must resume.
  assert repr(other._rows._columns) == (
      "Columns(image='file_name', text=('en', 'de'), weights=None, label=None)")


def tokenize(text):
  return np.array([len(text), ord(text[0])], np.int32)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_batches_of_an_evaluation_hold_the_language_of_each_caption(
    pictures, batch_size):
  ready = examples.prepare(tokenize=tokenize)
  spoken = []
  passed = pipeline.once(
      columns(pictures), prepare=ready, batch_size=batch_size, threads=0)
  for batch, mask in passed:
    names, captions = batch["caption_languages"], batch["captions"]
    assert names.shape == captions.shape[:2]
    assert ((names == "") == ~captions.any(axis=2)).all()
    spoken += [tuple(n for n in row if n) for row in names[mask].tolist()]
  assert spoken == LANGUAGES


def test_a_blank_caption_takes_its_language_with_it():
  ready = examples.prepare(tokenize=tokenize)
  example = {"text": ("a", " ", "b"), "text_languages": ("en", "de", "fr")}
  assert ready(example, None)["caption_languages"].tolist() == ["en", "fr"]
  # A caption made from a label has no language.
  named = examples.prepare(tokenize=tokenize, caption=lambda example, rng: "c")
  assert "caption_languages" not in named(example, None)


def test_training_reads_captions_of_all_languages_without_their_names(pictures):
  ready = examples.prepare(tokenize=tokenize)
  with pipeline.stream(
      columns(pictures), prepare=ready, batch_size=3, seed=0, threads=0) as stream:
    assert set(next(stream)) == {"id", "image", "text", "caption_id"}


class Listed:
  """Two examples, of which one says its language."""

  classes = ()

  def __init__(self, *languages):
    self._languages = dict(zip(["text_languages"], languages, strict=False))

  def __len__(self):
    return 2

  def __getitem__(self, index):
    index = _stable.position(index, 2)
    example = {"image": np.zeros((4, 4, 3), np.uint8), "text": ("a", "b")}
    return {**example, **self._languages}


def test_a_mixture_has_languages_if_all_of_its_sources_have_them():
  one, other, silent = Listed(("en", "de")), Listed(("fr", "")), Listed()
  mixed = mixture.mixture(sources={"a": one, "b": other}, fields=("image", "text"))
  assert {mixed[n]["text_languages"] for n in range(4)} == {
      ("en", "de"), ("fr", "")}
  mixed = mixture.mixture(sources={"a": one, "b": silent}, fields=("image", "text"))
  assert all("text_languages" not in mixed[n] for n in range(4))


def test_a_subset_keeps_the_languages_of_the_captions_that_it_keeps(pictures):
  source, kept = columns(pictures), pictures / "kept"
  kept.mkdir()
  np.save(kept / subset.EXAMPLES, np.array([0, 2]))
  np.save(kept / subset.CAPTIONS, np.array([[0b110], [0b001]], np.uint64))
  content = [(kept / name).read_bytes() for name in (subset.EXAMPLES, subset.CAPTIONS)]
  (kept / subset.REPORT).write_text(json.dumps({
      "examples": 3, "fingerprint": source.fingerprint, "kept": 2,
      "captions": True, "digest": subset.digest(*content),
  }))
  part = subset.subset(source=source, kept=str(kept))
  assert part[0]["text_languages"] == ("de", "de")
  assert part[1]["text"] == ("an owl",) and part[1]["text_languages"] == ("en",)


@pytest.mark.parametrize("languages", [("en",), "de", (1, 2)])
def test_the_check_of_sources_says_which_languages_do_not_fit(languages):
  assert any("text_languages" in each for each in sources.check(Listed(languages)))

"""Paths and tables that are nearly right: read if unambiguous, or what is meant."""

import logging
import unicodedata

import numpy as np
import pytest
import tar_shards
from PIL import Image

from basic import sources
from basic.sources import _storage, folder, tar


def picture(path, red=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", (5, 4), (red, 0, 9)).save(path)


def table(path, *names):
  path.write_text("\n".join(["filepath,title", *(f"{n},a" for n in names)]) + "\n")


def red(example):
  return int(np.asarray(example["image"])[0, 0, 0])


NFC, NFD = (unicodedata.normalize(form, "ä.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("stored", "written"), [
    (NFC, NFD), (NFD, NFC), ("sub/0.png", "sub\\0.png"),
    (f"sub/{NFC}", f"sub\\{NFD}"), (f"sub/{NFD}", f"sub\\{NFC}"),
])
def test_another_spelling_of_the_same_name_is_read(tmp_path, stored, written):
  picture(tmp_path / "one" / stored, 7)
  table(tmp_path / "one" / "t.csv", written)
  source = folder.folder(path=str(tmp_path / "one"))
  assert red(source[0]) == 7 and sources.check(source) == []
  before = source.fingerprint
  picture(tmp_path / "one" / stored, 8)  # A change of its content is noticed.
  assert folder.folder(path=str(tmp_path / "one")).fingerprint != before


def test_a_file_of_exactly_that_name_is_read_and_no_other(tmp_path):
  for red_of, name in enumerate((NFC, NFD, "a\\b.png", "a/b.png")):
    picture(tmp_path / name, red_of)
  table(tmp_path / "t.csv", NFC, NFD, "a\\b.png", "a/b.png")
  source = folder.folder(path=str(tmp_path))
  assert [red(source[i]) for i in range(4)] == [0, 1, 2, 3]


def test_an_ambiguous_name_is_missing(tmp_path):
  mixed = f"{NFC}{NFD}"
  for form in ("NFC", "NFD"):
    picture(tmp_path / unicodedata.normalize(form, mixed))
  table(tmp_path / "t.csv", mixed)
  with pytest.raises(FileNotFoundError, match="1 missing file"):
    folder.folder(path=str(tmp_path))


def test_paths_may_start_where_the_training_starts(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  picture(tmp_path / "data" / "pictures" / "0.png", 3)
  table(tmp_path / "data" / "t.csv", "data/pictures/0.png")
  assert red(folder.folder(path="data")[0]) == 3
  picture(tmp_path / "data" / "data" / "pictures" / "0.png", 4)
  assert red(folder.folder(path="data")[0]) == 4  # The folder of the table is first.


@pytest.mark.parametrize(("stored", "written"), [
    ("a/Cat.PNG", "a/cat.png"), ("a/cat.png", "a/cat"), ("a/cat.jpg", "a/cat.png"),
    ("a/cat.png", "old/disk/a/cat.png"), ("a/cat.png", "a/a/cat.png"),
    ("a/cat.png", "cat.png"), ("a/b/cat.png", "b/cat.png"),
    ("a/cat.png", "old\\a\\cat.png"), ("a/cat.dog.png", "a/cat.dog"),
])
def test_the_file_that_is_probably_meant_is_named(tmp_path, stored, written):
  picture(tmp_path / stored)
  (tmp_path / "a" / "cat.txt").write_text("no picture")
  table(tmp_path / "t.csv", written, written)
  with pytest.raises(FileNotFoundError, match="2 missing file") as raised:
    folder.folder(path=str(tmp_path))
  assert str(raised.value).endswith(
      f"Is {tmp_path}/{stored} meant? Then write {stored!r}.")


def test_nothing_is_named_where_nothing_is_alike(tmp_path):
  picture(tmp_path / "0001.png")
  table(tmp_path / "t.csv", "0002.png")
  with pytest.raises(FileNotFoundError) as raised:
    folder.folder(path=str(tmp_path))
  assert str(raised.value).endswith(f"Relative paths start at {tmp_path}.")


def test_the_first_missing_file_of_several_is_named(tmp_path, caplog):
  picture(tmp_path / "0.png")
  table(tmp_path / "t.csv", "0.png", "1.png", "2.png")
  caplog.set_level(logging.WARNING)
  folder.folder(path=str(tmp_path))
  assert "2 missing file; the first of each reason: example 1 (" in caplog.text
  assert "captions in 'title', no labels;" in caplog.text


@pytest.mark.parametrize(("name", "separator"), [("t.tsv", ","), ("t.tab", ";")])
def test_a_table_with_another_separator_than_its_name_says(tmp_path, name, separator):
  picture(tmp_path / "0.png", 5)
  (tmp_path / name).write_text(separator.join(("filepath", "title")) + "\n"
                               + separator.join(("0.png", "a")) + "\n")
  with pytest.raises(ValueError, match=f"Set separator='{separator}'"):
    folder.folder(path=str(tmp_path))
  assert red(folder.folder(path=str(tmp_path), separator=separator)[0]) == 5


def test_a_table_beside_the_folder_is_found_for_the_message(tmp_path, monkeypatch):
  picture(tmp_path / "mine" / "0.png", 6)
  with pytest.raises(ValueError, match=r"set `table` to the path of one") as raised:
    folder.folder(path=str(tmp_path / "mine"))
  assert "Beside it" not in str(raised.value)
  table(tmp_path / "mine.csv", "0.png")
  with pytest.raises(ValueError) as raised:
    folder.folder(path=str(tmp_path / "mine"))
  advice = f"set table='{tmp_path}/mine.csv'"
  assert advice in str(raised.value) and "filepath" in str(raised.value)
  taken = folder.folder(path=str(tmp_path / "mine"), table=f"{tmp_path}/mine.csv")
  assert red(taken[0]) == 6
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=r"set table='mine\.csv'"):
    folder.folder(path="mine/")
  assert red(folder.folder(path="mine", table="mine.csv")[0]) == 6


def test_a_table_that_is_not_utf_8_says_what_to_do(tmp_path):
  picture(tmp_path / "0.png")
  (tmp_path / "t.csv").write_bytes("filepath,title\n0.png,träume\n".encode("latin-1"))
  with pytest.raises(ValueError, match="save the table as UTF-8"):
    folder.folder(path=str(tmp_path))


def test_a_range_in_brackets_and_a_list_with_commas_get_a_hint(tmp_path):
  for name in ("a.tar", "b.tar"):
    (tmp_path / name).touch()
  with pytest.raises(FileNotFoundError, match=r"in braces: '.*/\{00\.\.02\}\.tar'"):
    _storage.expand(f"{tmp_path}/[00..02].tar")
  both = f"{tmp_path}/a.tar,{tmp_path}/b.tar"
  with pytest.raises(FileNotFoundError, match=r"a tuple, \('.*a\.tar', '.*b\.tar'"):
    _storage.expand(both)
  with pytest.raises(FileNotFoundError) as raised:
    _storage.expand(both + "x")
  assert "tuple" not in str(raised.value)


def test_extensions_that_shards_have_are_listed(tmp_path):
  path = tmp_path / "a.tar"
  path.write_bytes(tar_shards.archive([
      *tar_shards.pairs(0, 1), ("00002.png", tar_shards.png(2)), ("00003.cls", b"1"),
  ]))
  with pytest.raises(ValueError, match=r"extensions png \(3\), txt \(2\), cls \(1\);"):
    tar.tar(shards=str(path), text="title")

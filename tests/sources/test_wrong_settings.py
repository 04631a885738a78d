"""Settings of sources that cannot be meant are refused in a sentence."""

import errno
import io
import os
import shutil
import tarfile

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet as writer

from basic import files
from basic.experiment import schema
from basic.sources import _storage, folder, mixture, parquet, subset, tar


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A folder with one picture as a.tar, a.parquet, a.jpg and two tables."""
  root = tmp_path_factory.mktemp("data")
  content = io.BytesIO()
  Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(content, "JPEG")
  with tarfile.open(root / "a.tar", "w") as shard:
    for name, data in (("1.jpg", content.getvalue()), ("1.txt", b"red")):
      member = tarfile.TarInfo(name)
      member.size = len(data)
      shard.addfile(member, io.BytesIO(data))
  rows = {"image": [content.getvalue()], "text": ["red"], "label": [0]}
  writer.write_table(pyarrow.table(rows), root / "a.parquet")
  (root / "a.jpg").write_bytes(content.getvalue())
  (root / "a.csv").write_text("filepath,title\na.jpg,red\n")
  (root / "a.jsonl").write_text('{"file_name": "a.jpg", "text": "red"}\n')
  return root


@pytest.fixture
def here(made, monkeypatch):
  monkeypatch.chdir(made)
  monkeypatch.setenv("HOME", str(made))
  monkeypatch.setenv("XDG_CACHE_HOME", str(made / "cache"))
  yield made
  shutil.rmtree(made / "cache", ignore_errors=True)


def refuses(sentence, function, **settings):
  with pytest.raises((ValueError, FileNotFoundError), match=sentence):
    function(**settings)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("settings", "sentence"), [
    (dict(text=".txt"), r"text names '\.txt'; .* without its dot, such as 'txt'"),
    (dict(image=".jpg"), r"image names '\.jpg'; .* such as 'jpg'"),
    (dict(label=".cls"), r"label names '\.cls'; .* such as 'cls'"),
    (dict(text=""), "text names ''"),
    (dict(max_pixels=0), "max_pixels is 0, so that every image"),
    (dict(label="cls", classes=("a", "b", "a")), "classes has 'a' twice among 3"),
    (dict(label="cls", classes=("a", " ")), "classes has a blank name among 2"),
    (dict(classes="none.txt"), r"classes is 'none\.txt', and there is no such file; "
                               r".*\('cat', 'dog'\)"),
    (dict(classes="."), r"classes is '\.', which cannot be read"),
    (dict(index="a.csv"), r"index is 'a\.csv', which is a file; it takes a local"),
    (dict(index="gs://a/b"), "index is 'gs://a/b', which is a URL"),
    (dict(index="~/indexes"), "index is '~/indexes', whose ~ no shell has expanded"),
    (dict(shards="~/a.tar"), "shards is '~/a.tar', whose ~ no shell .*give '/.*a.tar"),
    (dict(shards="~/*.tar"), "shards is '~/.*tar', whose ~ no shell has expanded"),
    (dict(shards="$HOME/a.tar"), r"whose \$ no shell has expanded"),
    (dict(shards=""), "shards is empty"),
])
def test_of_tar(settings, sentence):
  refuses(sentence, tar.tar, **{"shards": "a.tar", **settings})


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("settings", "sentence"), [
    (dict(separator=";;"), "separator is ';;'; it takes one character"),
    (dict(separator=""), "separator is ''; it takes one character"),
    (dict(separator="\n"), r"separator is '\\n'; it takes one character"),
    (dict(separator=",", table="a.jsonl"), r"fields of .*a\.jsonl have none"),
    (dict(table=""), "table is empty"),
    (dict(table="."), r"table is '\.', which is a folder; it takes the file"),
    (dict(table="~/a.csv"), "table is '~/a.csv', whose ~"),
    (dict(path="~"), "path is '~', whose ~"),
    (dict(max_pixels=-5), "max_pixels is -5"),
    (dict(label="title", classes=("a", "a")), "expected names that differ"),
])
def test_of_folder(settings, sentence):
  refuses(sentence, folder.folder, **{"path": ".", "table": "a.csv", **settings})


@pytest.mark.parametrize(("settings", "sentence"), [
    (dict(files="."), r"\. is a folder; name its files: '\./\*\.parquet'"),
    (dict(files="~/a.parquet"), "files is '~/a.parquet', whose ~"),
    (dict(folder="~/pictures"), "folder is '~/pictures', whose ~"),
    (dict(max_pixels=0), "max_pixels is 0"),
    (dict(classes=("a", "a")), "expected names that differ"),
])
@pytest.mark.usefixtures("here")
def test_of_parquet(settings, sentence):
  refuses(sentence, parquet.parquet, **{"files": "a.parquet", **settings})


def test_of_subset_and_mixture(here):
  source = tar.tar(shards="a.tar")
  refuses(r"a\.csv/report\.json does not exist; kept is the folder",
          subset.subset, source=source, kept=str(here / "a.csv"))
  refuses("kept is '~/kept', whose ~", subset.subset, source=source, kept="~/kept")
  refuses("kept is empty", subset.subset, source=source, kept="")
  for fields in ((), ("id",)):
    refuses("fields is .*, which leaves nothing of an example",
            mixture.mixture, sources={"a": source}, fields=fields)
  pictures = folder.folder(path=".", table="a.csv")
  refuses("the source 'b': shuffle is 'shards', but", mixture.mixture,
          sources={"a": source, "b": pictures}, shuffle="shards")


def test_a_place_that_is_no_text_is_refused_with_the_settings():
  with pytest.raises(ValueError, match=r"source\.text is \{3: 1\}"):
    schema.complete("source", tar.tar, {"shards": "a.tar", "text": {3: 1}})


def test_an_index_that_cannot_be_written_says_what_to_do(here, monkeypatch):
  def fails(path, content):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

  monkeypatch.setattr(files, "replace", fails)
  with pytest.raises(PermissionError) as raised:
    tar.tar(shards="a.tar", index=str(here / "indexes"))
  assert "set `index` to a folder that can be written" in raised.value.__notes__[0]
  with pytest.raises(ValueError, match="set `index` to a folder"):
    tar.build_indexes(shards="a.tar", index=str(here / "indexes"), workers=1)


def test_what_is_right_is_read(here):
  assert tar.tar(shards="a.tar", index="indexes")[0]["text"] == ("red",)
  assert folder.folder(path=".", table="a.csv", separator=",")[0]["text"] == ("red",)
  assert parquet.parquet(files="./a.parquet")[0]["text"] == ("red",)
  assert _storage.expand("./*.tar") == ("./a.tar",)
  assert (here / "indexes").is_dir()

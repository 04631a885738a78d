"""`python -m basic.prepare check` says what keeps a run from using a source."""

import numpy as np
import pytest
import tar_shards
from PIL import Image

from basic import cli, prepare, types
from basic.data import captions
from basic.experiment import schema
from basic.preparation import check
from basic.sources import folder, tar


class Torn:
  """Examples of which those below `torn` cannot be read."""

  classes = ()

  def __init__(self, torn, length=50):
    self.torn, self.length = torn, length
    self.fingerprint = f"{torn} {length}"

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    if not 0 <= index < self.length:
      raise IndexError(index)
    if index < self.torn:
      raise types.Unreadable("truncated image", f"number {index}")
    return {"image": np.zeros((4, 4, 3), np.uint8), "text": (f"a {index}",)}


def test_a_source_of_which_nothing_can_be_read_is_refused_with_the_reasons():
  with pytest.raises(ValueError, match="none of 50 examples") as error:
    check.check(source=Torn(50))
  assert "50 x truncated image" in str(error.value)
  assert "\n  example 0: truncated image: number 0\n" in str(error.value)


@pytest.mark.parametrize(("torn", "stops"), [(0, False), (5, False), (6, True)])
def test_more_than_a_tenth_unreadable_stops_it_as_it_would_a_run(torn, stops, caplog):
  if stops:
    with pytest.raises(cli.DamagedData, match=r"12% of the 50 .* stops above 10%"):
      check.check(source=Torn(torn))
  else:
    assert check.check(source=Torn(torn)) == {
        "examples": 50, "read": 50 - torn, "caption": repr(f"a {torn}"),
        "captions": "1 an example",
        "images": f"4 by 4 pixels (height by width), {50 - torn} x pixels",
    } | ({"unreadable/truncated image": torn} if torn else {})
  assert ("example 0: truncated image: number 0" in caplog.text) == bool(torn)


def test_the_program_ends_with_the_status_of_damaged_data(monkeypatch, capsys):
  monkeypatch.setattr(
      schema, "_made",
      lambda value, hint: Torn(6) if hint == types.Source else value)
  with pytest.raises(SystemExit) as ended:
    prepare.main(["check", "--source.name=shapes"])
  assert ended.value.code == cli.DAMAGED
  assert "a run stops above 10%" in capsys.readouterr().err


def test_what_is_found_in_a_folder_is_said(tmp_path):
  for number, (width, height) in enumerate([(9, 4), (30, 20), (5, 8)]):
    path = tmp_path / f"class_{number % 2}" / f"{number}.{'jpg' if number else 'png'}"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
  found = check.check(source=folder.folder(path=str(tmp_path)))
  assert found == {
      "examples": 3, "read": 3,
      "layout": f"{tmp_path}: pictures in 2 folders, which are classes, whose names "
      "are the captions; 0 pictures outside of them are left out",
      "classes": "2: 'class 0', 'class 1'", "caption": "'class 0'",
      "captions": "1 an example",
      "images": "4 by 9 to 20 by 30 pixels (height by width), 2 x JPEG, 1 x PNG",
  }


def test_what_is_found_in_shards_and_tables_is_said(tmp_path):
  shard = tmp_path / "a.tar"
  shard.write_bytes(tar_shards.archive(tar_shards.pairs(0, 1)))
  found = check.check(source=tar.tar(shards=str(shard)))
  assert found["layout"] == "members with the extensions png (2), txt (2)"
  (tmp_path / "0.png").write_bytes(tar_shards.png(0))
  (tmp_path / "t.csv").write_text("file_name,title\n0.png,a cat\n")
  found = check.check(source=folder.folder(path=str(tmp_path)))
  assert found["layout"].endswith(
      "a table with paths of images in 'file_name', captions in 'title', no labels")
  assert found["caption"] == "'a cat'" and "labels" not in found
  (tmp_path / "t.csv").write_text("file_name,title\n0.png," + "word " * 40)
  found = check.check(source=folder.folder(path=str(tmp_path)))
  assert found["caption"].endswith("word...'") and len(found["caption"]) < 90


@pytest.mark.parametrize("examples", [0, -1])
def test_it_reads_at_least_one_example(examples):
  with pytest.raises(ValueError, match=f"examples is {examples}"):
    check.check(source=Torn(0), examples=examples)


def test_captions_that_cannot_be_read_give_their_reasons():
  found = captions.spread(Torn(50), 10, caption=None, seed=0)
  with pytest.raises(ValueError, match=r"10 of 10 examples .*10 x truncated image"):
    list(found)
  found = captions.spread(Torn(49), 10, caption=None, seed=0)
  assert list(found) == ["a 49"]


def test_a_vocabulary_of_unreadable_data_names_the_reasons(tmp_path, monkeypatch):
  monkeypatch.setattr(
      schema, "_made",
      lambda value, hint: Torn(50) if hint == types.Source else value)
  with pytest.raises(ValueError, match="truncated image: number 0"):
    prepare.prepare("vocabulary", [
        "--source.name=shapes", f"--out={tmp_path / 't.model'}"])
  assert list(tmp_path.iterdir()) == []

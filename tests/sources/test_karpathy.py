"""Karpathy's splits of COCO and Flickr30K are read from his JSON."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from basic import sources, types
from basic.sources import folder

SPLITS = ("train", "test", "restval", "test", "val")


def sentence(n, k):
  raw = f"A picture {n}, seen {k} times."
  return {"tokens": raw.lower().split(), "raw": raw, "imgid": n, "sentid": 9 * n + k}


def image(n, **fields):
  return {
      "filename": f"{n}.png", "imgid": n, "split": SPLITS[n],
      "sentids": list(range(5 + n)), "cocoid": 100 + n,
      "sentences": [sentence(n, k) for k in range(5 + n)], **fields,
  }


def texts(n):
  return tuple(sentence(n, k)["raw"] for k in range(5 + n))


def red(example):
  return int(np.asarray(example["image"])[0, 0, 0])


@pytest.fixture
def coco(tmp_path):
  """Pictures in two folders, the red of each is its number."""
  listed = []
  for n in range(5):
    name = "train2014" if n == 0 else "val2014"
    (tmp_path / name).mkdir(exist_ok=True)
    Image.new("RGB", (5, 4), (n, 0, 9)).save(tmp_path / name / f"{n}.png")
    listed.append(image(n, filepath=name))
  (tmp_path / "dataset_coco.json").write_text(
      json.dumps({"images": listed, "dataset": "coco"}))
  return tmp_path


def opened(path, **settings):
  return folder.folder(path=str(path), table="dataset_coco.json", **settings)


@pytest.mark.parametrize("split, numbers", [
    ("test", [1, 3]), ("val", [4]), ("train+restval", [0, 2]),
])
def test_a_split_of_coco_has_its_pictures_with_all_captions(coco, split, numbers):
  source = opened(coco, split=split)
  assert [red(example) for example in map(source.__getitem__, range(len(source)))] == (
      numbers)
  assert [source[n]["text"] for n in range(len(source))] == list(map(texts, numbers))
  assert sources.check(source) == []
  copy = pickle.loads(pickle.dumps(source))
  assert copy.fingerprint == source.fingerprint
  assert copy.fingerprint != opened(coco, split="val+test").fingerprint


def test_pictures_may_lie_in_one_folder_and_have_no_folder_in_the_list(tmp_path):
  for n in range(5):
    Image.new("RGB", (5, 4), (n, 0, 9)).save(tmp_path / f"{n}.png")
  for fields in {}, {"filepath": "val2014"}:
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(
        {"images": [image(n, **fields) for n in range(5)], "dataset": "flickr30k"}))
    source = folder.folder(
        path=str(tmp_path), table="dataset_flickr30k.json", split="test")
    for each in source, pickle.loads(pickle.dumps(source)):
      assert [red(each[0]), red(each[1])] == [1, 3]


def test_a_picture_that_is_missing_is_unreadable(coco):
  (coco / "val2014" / "3.png").unlink()
  source = opened(coco, split="test")
  with pytest.raises(types.Unreadable, match="missing file"):
    source[1]


@pytest.mark.parametrize("settings, message", [
    ({}, "split is None, .* 'test': 2"), ({"split": "dev"}, "no split 'dev'"),
    ({"split": "test+dev"}, "no split 'dev'"),
    ({"split": "test", "text": "caption"}, "settings of tables with columns"),
])
def test_settings_that_do_not_fit_are_refused(coco, settings, message):
  with pytest.raises(ValueError, match=message):
    opened(coco, **settings)


def test_a_split_without_the_list_is_refused(coco):
  with pytest.raises(ValueError, match="set `table` to the JSON"):
    folder.folder(path=str(coco), split="test")


@pytest.mark.parametrize("content", [
    "{", "[]", '{"images": []}', '{"images": [{"filename": "a.png"}]}',
    '{"annotations": [{"image_id": 1, "caption": "a"}]}',
    '{"images": [{"filename": "a.png", "split": 3, "sentences": []}]}',
])
def test_another_json_is_refused_in_words(coco, content):
  (coco / "dataset_coco.json").write_text(content)
  with pytest.raises(ValueError, match=r"as in Karpathy's dataset_coco\.json"):
    opened(coco, split="test")

"""A subset reads what a filter kept, and refuses what was not filtered."""

import dataclasses
import json

import numpy as np
import pytest

from basic import types
from basic.preparation import filter as command
from basic.sources import shapes, subset


@dataclasses.dataclass
class Listed:
  """Examples in memory."""

  examples: list
  fingerprint: str = "1"

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, index):
    return self.examples[index]


class Sharded(Listed):
  shards = (0, 3, 4, 8, 9)


class Ordered(Listed):
  def order(self, seed):
    return lambda position: position % len(self.examples)


def listed(kind=Listed, count=10):
  """Every third example is too small to be kept."""
  images = [
      np.full((2 if k % 3 == 0 else 5, 5, 3), k, np.uint8) for k in range(count)
  ]
  return kind([
      {"image": image, "text": ("a red cat", "cat", "a blue dog"),
       "text_weights": (0.5, 0.25, 0.25), "id": np.int64(k)}
      for k, image in enumerate(images)
  ])


def run(source, out, **rules):
  return command.filter(
      source=source, out=str(out), workers=1, shorter_side=3, text_images=None,
      **rules,
  )


def test_it_reads_the_kept_examples_with_their_kept_captions(tmp_path):
  source = listed()
  run(source, tmp_path)
  kept = subset.subset(source=source, kept=str(tmp_path))
  assert [int(kept[i]["id"]) for i in range(len(kept))] == [1, 2, 4, 5, 7, 8]
  assert kept.where(0) == ""
  source.where = "shelf {}".format
  assert [kept.where(i) for i in (0, 2, 5)] == ["shelf 1", "shelf 4", "shelf 8"]
  assert kept[0]["text"] == ("a red cat", "a blue dog")
  assert kept[0]["text_weights"] == (0.5, 0.25)
  assert source[1]["text_weights"] == (0.5, 0.25, 0.25)


def test_captions_are_left_alone_where_all_are_kept(tmp_path):
  source = listed()
  run(source, tmp_path, fewest_words=1)
  assert not (tmp_path / subset.CAPTIONS).exists()
  kept = subset.subset(source=source, kept=str(tmp_path))
  assert kept[0] is source[1]


def test_captions_of_weight_0_are_equal_where_only_they_are_kept(tmp_path):
  source = listed()
  source.examples[1]["text_weights"] = (0.0, 1.0, 0.0)
  run(source, tmp_path)
  kept = subset.subset(source=source, kept=str(tmp_path))
  assert kept[0]["text_weights"] == (1.0, 1.0)


def test_shards_begin_at_their_first_kept_example(tmp_path):
  source = listed(Sharded)  # of the last one nothing is kept
  run(source, tmp_path)
  kept = subset.subset(source=source, kept=str(tmp_path))
  assert kept.shards == (0, 2, 5)  # 1, 4 and 8
  assert not hasattr(subset.subset(
      source=listed(), kept=str(tmp_path)
  ), "shards")


def test_an_earlier_choice_of_captions_is_forgotten(tmp_path):
  source = listed()
  run(source, tmp_path)
  run(source, tmp_path, fewest_words=1)
  kept = subset.subset(source=source, kept=str(tmp_path))
  assert kept[0]["text"] == source[1]["text"]


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda s: Listed(s.examples, fingerprint="2"), "whose fingerprint is 1, and"),
    (lambda s: Listed(s.examples[:-1]), "whose examples is 10, and"),
    (lambda s: Ordered(s.examples), "filter its parts, and mix the subsets"),
])
def test_a_source_that_was_not_filtered_is_refused(tmp_path, change, sentence):
  source = listed()
  run(source, tmp_path)
  with pytest.raises(ValueError, match=sentence):
    subset.subset(source=change(source), kept=str(tmp_path))


@pytest.mark.parametrize("name", [subset.EXAMPLES, subset.CAPTIONS])
def test_files_of_another_run_than_the_report_are_refused(tmp_path, name):
  source = listed()
  run(source, tmp_path / "one")
  run(source, tmp_path / "two", most_words=2, fewest_words=1)
  run(listed(count=13), tmp_path / "three")
  other = "three" if name == subset.EXAMPLES else "two"
  (tmp_path / "one" / name).write_bytes((tmp_path / other / name).read_bytes())
  with pytest.raises(ValueError, match="Run the filter again"):
    subset.subset(source=source, kept=str(tmp_path / "one"))


@pytest.mark.parametrize("name", [subset.EXAMPLES, subset.CAPTIONS])
def test_a_missing_file_is_named(tmp_path, name):
  source = listed()
  run(source, tmp_path)
  (tmp_path / name).unlink()
  with pytest.raises(FileNotFoundError, match=name):
    subset.subset(source=source, kept=str(tmp_path))


@pytest.mark.parametrize(("content", "error", "sentence"), [
    (None, FileNotFoundError, "prepare filter --out=FOLDER"),
    (b"{", ValueError, "is damaged"),
    (b"[]", ValueError, "is not the report of a filter"),
    (b'{"kept": 3}', ValueError, "is not the report of a filter"),
])
def test_a_folder_without_a_report_is_refused(tmp_path, content, error, sentence):
  if content is not None:
    (tmp_path / subset.REPORT).write_bytes(content)
  with pytest.raises(error, match=sentence):
    subset.subset(source=listed(), kept=str(tmp_path))


def test_a_filter_that_keeps_nothing_says_so(tmp_path):
  source = listed()
  run(source, tmp_path, fewest_words=9)
  with pytest.raises(ValueError, match="keeps no example"):
    subset.subset(source=source, kept=str(tmp_path))
  report = json.loads((tmp_path / subset.REPORT).read_text())
  assert report["counts"]["image/no caption left"] == 6


def test_unreadable_examples_stay_unreadable(tmp_path):
  source = shapes.shapes(length=6)
  run(source, tmp_path)

  class Broken(Listed):
    fingerprint = source.fingerprint

    def __getitem__(self, index):
      raise types.Unreadable("truncated image")

  broken = Broken([None] * 6, source.fingerprint)
  kept = subset.subset(source=broken, kept=str(tmp_path))
  with pytest.raises(types.Unreadable, match="truncated image"):
    kept[0]

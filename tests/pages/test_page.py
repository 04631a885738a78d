"""The page is complete, self-contained and safe whatever the captions are."""

import math
import re

import made
import numpy as np
import pytest

from basic.pages import (
    nearest,
    page,
    plots,
    samples,
    similarities,
    style,
    summary,
)


def test_the_page_is_self_contained():
  text = made.whole()
  links = made.Reader(text).links
  assert links
  for link in links:
    assert re.match("data:image/(png|jpeg);base64,|#", link) or link in (
        "config.json", "run.json", "metrics.jsonl"
    )
  assert not re.search(r"url\((?!#)|@import|http:|https:", text)


def test_every_link_inside_the_page_has_a_target():
  found = made.Reader(made.whole())
  names = {a["id"] for _, a in found.tags if "id" in a}
  assert {x[1:] for x in found.links if x.startswith("#")} <= names
  ids = [a["id"] for _, a in found.tags if "id" in a]
  assert len(ids) == len(set(ids))


def test_every_curve_is_drawn_and_labelled():
  found = made.Reader(made.whole())
  labels = [a["aria-label"] for tag, a in found.tags if tag == "svg"]
  for name in (*made.TRAINING, *made.RESULTS):
    assert name in found.text
  # @1 and @5 of one metric share a plot; two more are the histogram and the map.
  assert len(labels) == len(made.TRAINING) + len(made.RESULTS) - 1 + 2
  assert "nats per row by step: loss" in labels
  assert "recall by step: @1, @5" in labels


def test_colours_are_css_variables_so_that_dark_mode_works():
  drawing = plots.curves(
      {"a": (np.arange(3), np.arange(3.0))}, unit="u"
  )
  assert "var(--series-0)" in drawing and "var(--muted)" in drawing
  assert not re.search(r"#0[123]0[123]0", drawing)
  for name in set(re.findall(r"var\((--[\w-]+)\)", made.whole())):
    assert style.SHEET.count(f"{name}:") == 2  # light, and dark


@pytest.mark.parametrize("where", ["title", "command", "config", "caption",
                                   "metric", "meta"])
def test_html_in_strings_is_escaped(where):
  changes = {
      "title": dict(title=made.HOSTILE),
      "command": dict(command=made.HOSTILE),
      "config": dict(config={made.HOSTILE: made.HOSTILE}),
      "caption": dict(samples=made.samples(captions=[made.HOSTILE, *"abcde"])),
      "metric": dict(rows=[{"step": 1, "x/" + made.HOSTILE: 1.0, made.HOSTILE: 2.0}]),
      "meta": dict(meta={"device_kind": made.HOSTILE, "started": [made.HOSTILE]}),
  }[where]
  text = made.build(**changes)
  found = made.Reader(text)
  assert "alert('x')" in found.text
  assert "script" not in {tag for tag, _ in found.tags}
  assert [tag for tag, _ in found.tags].count("style") == 1


def test_a_page_without_metrics_still_builds():
  found = made.Reader(made.build(rows=[], samples=None, config={}, command=""))
  assert "No numbers have been written yet." in found.text
  assert "built without samples" in found.text


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1e9, 1e9])
def test_a_page_with_extreme_numbers_still_builds(value):
  text = made.Reader(made.build(rows=made.rows(2, value), samples=None)).text
  assert ("2 values are not finite" in text) == (not math.isfinite(value))


def test_one_example_of_one_channel_is_enough():
  made.Reader(made.build(samples=made.samples(n=1, channels=1)))


def test_samples_of_unequal_number_or_width_are_refused():
  good = made.samples()
  with pytest.raises(ValueError, match="same number of each"):
    made.build(samples=good._replace(captions=["one"]))
  with pytest.raises(ValueError, match="16 wide and text embeddings 4"):
    made.build(samples=good._replace(text_embeddings=good.text_embeddings[:, :4]))


def test_the_right_caption_is_marked_and_counted():
  x = np.eye(4, dtype=np.float32)
  images = np.zeros((4, 8, 8, 3), np.uint8)
  # Nearest to image 3 is the caption of image 0; 1 and 2 share a caption.
  found = nearest.captions_of_images(
      page.Samples(images, ["a", "b", "b", "c"], x[[0, 1, 1, 0]], x, 5.0)
  )
  assert (
      "For 3 of 4 images their own caption is the nearest of 3 different "
      "captions."
  ) in found
  reverse = nearest.images_of_captions(
      page.Samples(images, ["a", "b", "b", "c"], x[[0, 1, 1, 0]], x, 5.0)
  )
  assert (
      "For 2 of 3 captions the nearest of 4 images is one of their own."
  ) in reverse


def test_an_own_caption_of_low_rank_is_shown_with_its_rank():
  x = np.eye(6, dtype=np.float32)
  away = (0.5 * x[1] + 0.4 * x[2] + 0.3 * x[3] + 0.2 * x[4])[None]
  images = np.zeros((6, 8, 8, 3), np.uint8)
  found = nearest.captions_of_images(page.Samples(
      images, list("abcdef"), np.concatenate([away, x[1:]]), x, 5.0
  ))
  assert "5. a" in found


def test_pairs_with_the_same_caption_are_no_negatives():
  x = np.eye(3, dtype=np.float32)
  text = x[[0, 0, 1]]
  found = similarities.histogram(page.Samples(
      np.zeros((3, 8, 8, 3), np.uint8), ["a", "a", "b"], text, text, 1.0
  ))
  assert "<dt>unmatched, mean</dt><dd>0.000</dd>" in found
  assert "<dt>matched above unmatched</dt><dd>100.0%</dd>" in found


def test_thumbnails_are_small_and_keep_their_pixels():
  image = np.zeros((200, 100, 3), np.uint8)
  image[:100] = 255
  uri = plots.thumbnail(image, 50)
  assert uri.startswith("data:image/png;base64,") and len(uri) < 1000


def test_long_curves_are_binned_and_keep_their_spikes():
  steps, values = np.arange(5000), np.zeros(5000)
  values[2500] = 70.0
  x, mean, low, high = plots._binned(steps, values, 300)
  assert len(x) == 300
  assert high.max() == 70.0 and low.max() == 0.0
  assert 0 < mean.max() < 70.0


@pytest.mark.parametrize("name, is_result", [
    ("loss", False), ("throughput/examples_per_second", False),
    ("zeroshot@1", True), ("retrieval/test/count", True),
])
def test_evaluation_results_are_distinguished_from_training_metrics(name, is_result):
  found = summary.table([{"step": 1, name: 0.5}])
  assert ("No evaluation" not in found) == is_result


def test_cards_show_the_strictest_metric_of_the_last_evaluation():
  written = [
      {"step": 1, "r/to_text@10": 0.9, "r/to_text@1": 0.25, "r/count": 7.0},
      {"step": 2, "r/to_text@10": 0.95, "r/to_text@1": 0.375},
  ]
  found = summary.cards(written)
  assert "37.5%" in found and "from 25.0%" in found
  assert "95.0%" not in found and "count" not in found


def test_best_is_the_smallest_rank_and_the_largest_recall():
  written = [
      {"step": n, "r/median_rank": rank, "r/a_to_b@1": recall}
      for n, rank, recall in ((1, 9.0, 0.1), (2, 1.0, 0.8), (3, 4.0, 0.5))
  ]
  found = summary.table(written)
  assert "<td>1 <small>at 2</small></td>" in found
  assert "<td>80.0% <small>at 2</small></td>" in found


def test_two_metrics_of_the_same_predictions_share_one_card():
  names = ("zeroshot/pairs@1", "zeroshot/pairs/per_class@1",
           "retrieval/scenes/image_to_text@1", "zeroshot/single@1")
  found = summary.cards([{"step": 1, **dict.fromkeys(names, .5)}])
  assert found.count('class="figure"') == 3 and "per class" not in found


def entry(index, message="truncated image: shard-0003.tar, key 00031"):
  reason = message.partition(":")[0]
  return {"index": index, "reason": reason, "message": message, "source": None}


def test_a_run_whose_data_could_be_read_says_so():
  found = made.Reader(made.whole())
  assert "Every example that this run asked for could be read." in found.text
  assert "Data" in found.text


def test_what_could_not_be_read_is_counted_and_named():
  damaged = [
      {"step": 1, "data/unreadable/truncated image": 900, "data/substituted": 880,
       "data/unreadable_fraction": 0.5},
      {"step": 2, "data/unreadable/truncated image": 1234,
       "data/unreadable/no caption": 7, "data/substituted": 1200,
       "data/unreadable_fraction": 0.0625,
       "retrieval/test/unreadable/no caption": 3},
  ]
  found = made.Reader(made.build(
      rows=made.rows() + damaged, quarantine=[entry(n) for n in range(1000, 1031)]
  ))
  text = found.text[found.text.index("In training, 1,200 examples"):]
  assert "Of the latest examples these are 6.25%" in text
  for row in ("trainingno caption7", "trainingtruncated image1,234",
              "retrieval/testno caption3"):
    assert row in text
  assert "first 20 of 31." in text
  assert "1,019truncated imageshard-0003.tar, key 00031" in text
  assert "1,020t" not in text
  assert "quarantine.jsonl" in found.links


def test_only_an_evaluation_may_have_been_unreadable():
  damaged = [{"step": 2, "zeroshot/x/unreadable/no caption": 3}]
  text = made.Reader(made.build(rows=made.rows() + damaged)).text
  assert "In training, every example could be read." in text
  assert "zeroshot/xno caption3" in text


def test_names_of_files_are_text_and_not_markup():
  text = made.build(quarantine=[entry(1, f"torn: {made.HOSTILE}\ud800\0")])
  assert "<script>alert" not in text
  text.encode()
  assert made.HOSTILE in made.Reader(text).text


def test_the_nearest_image_is_another_one():
  x = np.eye(3, dtype=np.float32)[[0, 1, 1]]
  shown = made.samples(3)._replace(image_embeddings=x)
  cards = nearest.images_of_images(shown).split('<div class="card query">')[1:]
  second = made.Reader("<div>" + cards[1]).text
  assert second.startswith("caption 11.000caption 2")
  assert "only one image" in nearest.images_of_images(made.samples(1))


def test_samples_of_a_diverged_run_are_left_out():
  shown = made.samples(4)
  shown.image_embeddings[1] = np.nan
  shown.text_embeddings[2] = np.inf
  found = samples.finite(shown)
  assert found.captions == ["caption 0", "caption 3"]
  assert len(found.images) == len(found.text_embeddings) == 2
  shown.image_embeddings[:] = np.nan
  assert "built without samples" in made.build(rows=[], samples=shown)


def test_without_text_there_are_images_alone():
  shown = made.samples()._replace(text_embeddings=None)
  found = made.Reader(made.build(rows=[], samples=shown))
  names = {a["id"] for _, a in found.tags if "id" in a}
  assert {"map", "gallery", "data"} <= names
  assert not {"similarities", "hardest-pairs"} & names

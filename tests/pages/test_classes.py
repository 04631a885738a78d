"""Answers by class are counted as a double loop counts them."""

import made
import numpy as np
import pytest

from basic.pages import classes


def drawn(number, images, seed=0):
  draw = np.random.default_rng(seed)
  labels = draw.integers(0, number, images)
  answers = np.where(draw.random(images) < 0.5, labels,
                     draw.integers(-1, number, images))
  return made.classified([f"class {i}" for i in range(number)], labels, answers)


@pytest.mark.parametrize(("number", "images"), [(4, 50), (7, 3), (1000, 300)])
def test_counts_are_those_of_a_loop(number, images):
  found = drawn(number, images)
  tally = classes.counts(found)
  for label in range(number):
    mine = [int(a) for y, a in zip(found.labels, found.answers, strict=True)
            if y == label]
    assert tally.images[label] == len(mine)
    assert tally.right[label] == mine.count(label)
    for answer in {*mine} - {label}:
      assert tally.wrong[label, answer] == mine.count(answer)
  assert sum(tally.wrong.values()) + tally.right.sum() == images


def test_the_worst_classes_come_first_and_those_without_images_not_at_all():
  # Accuracies: 0 of 1, 1 of 2, 0 of 2, 1 of 1; no image of the last class.
  found = made.classified("abcde", [0, 1, 1, 2, 2, 3], [1, 1, 0, 0, 1, 3])
  tally = classes.counts(found)
  assert classes.worst(tally, 9) == [2, 0, 1, 3]
  assert classes.worst(tally, 2) == [2, 0]


def test_a_block_has_the_most_frequent_other_answers():
  found = made.classified(
      "abcdef", [0, 0, 0, 1, 1, 2, 0], [5, 5, 4, 3, 3, 4, -1])
  tally = classes.counts(found)
  assert classes.block(tally, [0, 1], 2) == [0, 1, 3, 5]
  assert classes.block(tally, [0, 1], 9) == [0, 1, 3, 5, 4]


def cells(page):
  """Text of the cells of every row of the first matrix of a page."""
  body = page.split("<tbody>")[1].split("</tbody>")[0]
  return [
      [cell.split(">")[1].split("<")[0] for cell in row.split("<td")[1:]]
      for row in body.split("<tr>")[1:]
  ]


def test_four_classes_have_the_whole_matrix_with_its_numbers():
  found = made.classified(
      ["cat", "dog", "cow", "hen"], [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, -1])
  page = classes.section([found])
  assert cells(page) == [
      ["2", "1", "", "", ""], ["", "1", "1", "", ""],
      ["", "", "", "", "1"], ["", "", "", "", ""],
  ]
  text = made.Reader(page).text
  assert "50.0% of 6 images have their own of 4 classes as answer" in text
  assert "the mean over classes is 38.9%" in text  # of 2/3, 1/2 and 0
  assert "1 classes have no image here." in text
  assert "1 images have an embedding that is not a number." in text


def test_without_other_answers_a_matrix_has_no_column_for_them():
  page = classes.section([made.classified("ab", [0, 1], [1, 1])])
  assert cells(page) == [["", "1"], ["", "1"]]
  assert "all others" not in page


def test_of_a_thousand_classes_the_worst_forty_are_shown():
  labels = np.repeat(np.arange(1000), 3)
  answers = labels.copy()
  answers[: 3 * 50] = np.arange(150) % 7 + 900  # the first 50 are all wrong
  names = [f"class {i}" for i in range(1000)]
  page = classes.section([made.classified(names, labels, answers, examples=9000)])
  rows = cells(page)
  assert len(rows) == 40
  assert all(len(row) == 40 + 7 for row in rows)
  assert "They are evenly spaced among the 9,000 of the evaluation." in page
  assert "the 40 classes of lowest accuracy" in page
  assert "class 39<" in page and "class 40<" not in page.split("<details")[1]


def test_pairs_that_are_confused_most_come_first():
  page = classes.section([made.classified(
      ["cat", "dog"], [0, 0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1])])
  text = made.Reader(page).text
  assert text.index("dogcat375%") < text.index("catdog133%")


def test_a_run_without_zeroshot_says_so():
  assert "no zero-shot evaluation" in classes.section([])


def test_many_large_evaluations_do_not_fill_the_page():
  found = [drawn(60, 5000, seed)._replace(classes=['"' * 200] * 60)
           for seed in range(6)]
  page = classes.section(found)
  assert len(page.encode()) < classes._BYTES + 50_000
  assert page.count("<h3>") == 6 and "no room for more" in page

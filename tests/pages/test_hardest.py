"""Hardest pairs, against loops over all pairs."""

import made
import numpy as np

from basic.pages import hardest, samples


def example():
  shown = made.samples(12, captions=[f"caption {i % 9}" for i in range(12)])
  return samples.similarities(shown), samples.same(shown), shown


def test_margins_are_those_of_a_loop():
  s, same, shown = example()
  found, best = hardest.margins(s, same)
  for i in range(len(s)):
    wrong = {j: s[i, j] for j in range(len(s))
             if shown.captions[j] != shown.captions[i]}
    j = max(wrong, key=lambda j: wrong[j])
    assert best[i] == j
    np.testing.assert_allclose(found[i], s[i, i] - wrong[j], rtol=1e-6)


def test_false_friends_are_found_in_the_order_of_all_wrong_pairs():
  s, _, shown = example()
  said = shown.captions
  pairs = sorted(
      ((i, j) for i in range(len(s)) for j in range(len(s)) if said[i] != said[j]),
      key=lambda pair: -s[pair],
  )
  expected, images, captions = [], set(), set()
  for i, j in pairs:
    if i not in images and said[j] not in captions:
      expected.append((i, j))
      images.add(i)
      captions.add(said[j])
  s, same, _ = example()
  assert hardest.false_friends(s, same, 99) == expected
  assert hardest.false_friends(s, same, 2) == expected[:2]


def test_the_hardest_example_is_shown_first_with_both_captions():
  x = np.eye(4, dtype=np.float32)
  text = x[[0, 2, 1, 3]]  # the captions of 1 and 2 are swapped
  shown = samples.Samples(
      np.zeros((4, 8, 8, 3), np.uint8), list("abcd"), x, text, 1.0)
  page = hardest.positives(shown)
  assert "below 0 for 2 of 4 images" in page
  first = made.Reader(page.split('<div class="card">')[1].split("</ul>")[0] + "</ul>")
  assert first.text.split() == ["\N{CHECK MARK}", "b0.000c1.000"]
  wrong = made.Reader(hardest.negatives(shown)).text
  assert wrong.index("c1.000") < wrong.index("b1.000")


def test_equal_captions_have_no_wrong_pair():
  shown = made.samples(3, captions=["a", "a", "a"])
  assert "none can be wrong" in hardest.positives(shown)
  assert "no pair is wrong" in hardest.negatives(shown)

"""Retrieval on a resample of images: with their captions, among all items."""

import numpy as np
import pytest
import test_retrieval as written

from basic.evals import retrieval as module
from basic.ops import bootstrap

COUNTS = (1, 5, 2, 3)
AT = (1, 2, 3)


def measured():
  """The hand-made set with fewer captions of some images: metrics, scores, owners."""
  encode, images, captions = written.hand_made()
  for row, count in enumerate(COUNTS):
    captions[row, count:] = 0
  present = np.concatenate([5 * i + np.arange(n) for i, n in enumerate(COUNTS)])
  found = module.retrieval(at=AT)(encode, written.whole(images, captions))
  return found, written.HUNDREDTHS[:, present], written.OWNER[present]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 3, 0, 1], [2] * 4, [1, 3, 1, 0]])
def test_images_are_drawn_with_all_of_their_captions(rows):
  found, scores, owner = measured()
  assert isinstance(found, bootstrap.Measured) and found.examples == 4
  own = [np.flatnonzero(owner == i) for i in range(4)]
  drawn = np.concatenate([own[i] for i in rows])
  assert found.again(np.array(rows)) == {
      **written.direction(
          "/image_to_text", scores[rows], [own[i] for i in rows], AT),
      **written.direction(
          "/text_to_image", scores.T[drawn], owner[drawn][:, None], AT),
  }


def test_all_images_once_are_the_result():
  found, *_ = measured()
  assert found.items() >= found.again(np.arange(4)).items()
  assert found["/count"] == 4 and found["/captions"] == sum(COUNTS)

"""Duplicates are grouped as a comparison of all pairs groups them."""

import made
import numpy as np

from basic.data import hashing
from basic.pages import duplicates


def reachable(near, start):
  found, todo = {start}, [start]
  while todo:
    i = todo.pop()
    new = {int(j) for j in np.flatnonzero(near[i])} - found
    found |= new
    todo += new
  return frozenset(found)


def test_similar_hashes_are_grouped_by_way_of_those_between():
  draw = np.random.default_rng(0)
  hashes = [int(h) for h in draw.integers(0, 2**9, 60)]
  hashes[7] = hashes[40] = None
  near = np.array([
      [a is not None and b is not None and (a ^ b).bit_count() <= 1
       for b in hashes] for a in hashes
  ])
  expected = {reachable(near, i) for i in range(60) if near[i].any()}
  found = duplicates.similar(hashes, 1)
  assert {frozenset(group) for group in found} == {
      group for group in expected if len(group) > 1}
  assert [len(g) for g in found] == sorted((len(g) for g in found), reverse=True)


def test_equal_and_nearly_equal_images_are_shown_apart():
  shown = made.samples(7)
  images = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3)).astype(np.uint8)
  images[4] = images[1]
  images[6] = images[2]
  images[6, 0, 0] ^= 255  # another picture to the pixel, the same to the eye
  assert hashing.perceptual(images[6]) == hashing.perceptual(images[2])
  text = duplicates.section(shown._replace(
      images=images, captions=["a", "b", "c", "c", "d", "e", "f"]))
  plain = made.Reader(text).text
  assert "images equal in every pixel2 in 1 group" in plain
  assert "images nearly equal2 in 1 group" in plain
  assert "captions said more than once2 in 1 group" in plain
  equal = text[text.index("<h4>Equal"):text.index("<h4>Nearly")]
  assert "<small>b</small>" in equal and "<small>d</small>" in equal
  nearly = text[text.index("<h4>Nearly"):]
  assert "<small>c</small>" in nearly and "<small>f</small>" in nearly


def test_different_images_with_different_captions_are_no_duplicates():
  plain = made.Reader(duplicates.section(made.samples(5))).text
  assert plain.count("none") == 3


def test_images_without_captions_are_not_called_repeated():
  plain = made.Reader(duplicates.section(made.samples(5, captions=[""] * 5))).text
  assert "captions said more than oncenone" in plain

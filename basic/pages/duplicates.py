"""Shows equal and nearly equal examples among the samples."""

import collections
from collections.abc import Hashable, Sequence

import numpy as np

from basic.data import hashing
from basic.pages import markup, samples

Samples = samples.Samples

# Bits of 64 in which the perceptual hashes of near-duplicates may differ; the
# default of `python -m basic.prepare filter`.
_DISTANCE = 6
_SHOWN = 6  # groups of each kind
_MEMBERS = 4  # images shown of a group


def equal(values: Sequence[Hashable]) -> list[list[int]]:
  """Groups of two and more indices of equal values, the largest first.

  Example:
    >>> equal(["a", "b", "a", "c"])
    [[0, 2]]
  """
  groups = collections.defaultdict(list)
  for i, value in enumerate(values):
    groups[value].append(i)
  return sorted((g for g in groups.values() if len(g) > 1), key=len, reverse=True)


def similar(hashes: Sequence[int | None], distance: int) -> list[list[int]]:
  """Groups of indices that are joined by hashes which differ in few bits.

  Args:
    hashes: perceptual hashes of 64 bits; None is similar to nothing.
    distance: bits in which two hashes of a group may differ; a group may hold
      others that differ in more, by way of those between.

  Returns:
    Groups of two and more indices, the largest first.

  Example:
    >>> similar([0b1111, 0b1110, None, 0xFFFF], 1)
    [[0, 1]]
  """
  known = [i for i, each in enumerate(hashes) if each is not None]
  bits = hashing.unsigned(each for each in hashes if each is not None)
  near = np.bitwise_count(bits[:, None] ^ bits[None]) <= distance
  group = np.arange(len(known))
  for i, row in enumerate(near):
    joined = np.isin(group, group[row])
    group[joined] = group[joined].min(initial=group[i])
  return [[known[i] for i in each] for each in equal(group.tolist())]


def section(shown: Samples) -> str:
  """Counts and shows equal images, similar images and equal captions."""
  exact = equal([hashing.content(image) for image in shown.images])
  looks = similar(
      [hashing.perceptual(image) for image in shown.images], _DISTANCE
  )
  # What is equal in every pixel is not also listed as similar.
  copies = {frozenset(group) for group in exact}
  looks = [group for group in looks if frozenset(group) not in copies]
  said = [group for group in equal(shown.captions) if shown.captions[group[0]]]
  facts = markup.facts([
      ("images equal in every pixel", _count(exact)),
      ("images nearly equal", _count(looks)),
      ("captions said more than once", _count(said)),
  ])
  return (
      f"<h3>Duplicates among {len(shown.images):,} held-out samples</h3>{facts}<p>"
      f"Perceptual hashes of nearly equal images differ in at most {_DISTANCE} of 64 "
      "bits. Drawings and diagrams look alike to this hash more often than "
      "photographs do.</p>"
      + _groups("Equal images", shown, exact)
      + _groups("Nearly equal images", shown, looks)
      + _captions(shown, said)
  )


def _count(groups: list[list[int]]) -> str:
  if not groups:
    return "none"
  what = "1 group" if len(groups) == 1 else f"{len(groups):,} groups"
  return f"{sum(map(len, groups)):,} <small>in {what}</small>"


def _groups(title: str, shown: Samples, groups: list[list[int]]) -> str:
  if not groups:
    return ""
  cards = []
  for group in groups[:_SHOWN]:
    items = "".join(
        f"<li>{samples.image(shown, i, 96)}<small>"
        f"{markup.text(shown.captions[i], 90)}</small></li>"
        for i in group[:_MEMBERS]
    )
    cards.append(
        f'<div class="card query four"><p>{len(group):,} images</p>'
        f"<ul>{items}</ul></div>"
    )
  return f'<h4>{title}</h4><div class="cards">{"".join(cards)}</div>'


def _captions(shown: Samples, groups: list[list[int]]) -> str:
  if not groups:
    return ""
  rows = [
      (markup.text(shown.captions[group[0]]), f"{len(group):,}")
      for group in groups[:2 * _SHOWN]
  ]
  return "<h4>Captions said more than once</h4>" + markup.table(
      ("caption", "samples"), rows, "texts"
  )

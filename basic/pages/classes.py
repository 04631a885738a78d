"""Zero-shot classification by class: what is taken for what."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from basic.pages import markup

_ROWS = 40  # classes of a table and of a matrix
_OUTSIDE = 12  # other answers that a matrix has columns for
_PAIRS = 12  # most confused pairs
_DIGITS = 12  # up to so many classes, the cells of a matrix have numbers
_BYTES = 2_000_000  # of all evaluations; those beyond have only a sentence


class Classified(NamedTuple):
  """The answers of a zero-shot evaluation.

  Attributes:
    name: of the evaluation: "zeroshot/pairs".
    classes: the names of the classes that may be answered.
    labels: int [n], the true class of each image, an index of `classes`.
    answers: int [n], the most similar class; -1 where an embedding is NaN.
    examples: images in the whole evaluation, of which these n are evenly spaced.
  """

  name: str
  classes: Sequence[str]
  labels: Int[np.ndarray, "n"]
  answers: Int[np.ndarray, "n"]
  examples: int


class Counts(NamedTuple):
  """How often each class was taken for each.

  Attributes:
    images: int [c], of each class.
    right: int [c], those that were classified as it.
    wrong: (class, answer) -> images, where the two differ.
  """

  images: Int[np.ndarray, "c"]
  right: Int[np.ndarray, "c"]
  wrong: dict[tuple[int, int], int]


def counts(found: Classified) -> Counts:
  """Counts answers by class; of a large number of classes, only pairs that occur."""
  number = len(found.classes)
  hits = found.labels == found.answers
  pairs = zip(found.labels[~hits].tolist(), found.answers[~hits].tolist(), strict=True)
  return Counts(
      np.bincount(found.labels, minlength=number),
      np.bincount(found.labels[hits], minlength=number),
      dict(collections.Counter(pairs)),
  )


def worst(tally: Counts, most: int) -> list[int]:
  """The classes of lowest accuracy that have images, the worst first.

  Of equal ones, those with more images come first, and then the earlier ones.
  """
  present = np.flatnonzero(tally.images)
  accuracy = tally.right[present] / tally.images[present]
  order = np.lexsort((present, -tally.images[present], accuracy))
  return present[order][:most].tolist()


def block(tally: Counts, rows: Sequence[int], most: int) -> list[int]:
  """Columns for some rows: those classes, and their most frequent other answers.

  Args:
    tally: the counts.
    rows: classes whose images are shown.
    most: number of other answers.

  Returns:
    `rows`, and up to `most` classes that their images were taken for most often.
  """
  chosen, others = set(rows), collections.Counter()
  for (label, answer), count in tally.wrong.items():
    if label in chosen and answer not in chosen and answer >= 0:
      others[answer] += count
  # Counter keeps the order of arrival in ties; the order of classes is better.
  ranked = sorted(others, key=lambda answer: (-others[answer], answer))
  return [*rows, *ranked[:most]]


def section(found: Sequence[Classified]) -> str:
  """Shows each zero-shot evaluation by class; a sentence if there is none."""
  if not found:
    return (
        "<p>This run has no zero-shot evaluation whose answers could be shown by "
        "class.</p>"
    )
  parts, size = [], 0
  for each in found:
    tally = counts(each)
    details = _details(each, tally)
    size += len(details.encode("utf-8", "replace"))
    parts.append(
        f"<h3>{markup.name(each.name)}</h3>{_summary(each, tally)}"
        f"{details if size <= _BYTES else '<p>This page has no room for more.</p>'}"
    )
  return "".join(parts)


def _details(found: Classified, tally: Counts) -> str:
  """The matrix and the tables; the worst classes where there are too many."""
  are_many = len(found.classes) > _ROWS
  lowest = worst(tally, _ROWS)
  rows = lowest if are_many else list(range(len(found.classes)))
  matrix = _matrix(found, tally, rows, block(tally, rows, _OUTSIDE))
  # A small matrix leaves room beside it.
  kind = "pair wide" if len(rows) <= _ROWS // 2 and not are_many else "stack"
  return (
      f'<div class="{kind}">{matrix}<div>{_confused(found, tally)}</div></div>'
      f"<details{'' if are_many else ' open'}><summary>Accuracy by class</summary>"
      f"{_by_class(found, tally, lowest)}</details>"
  )


def _summary(found: Classified, tally: Counts) -> str:
  images, present = int(tally.images.sum()), tally.images > 0
  each = tally.right[present] / tally.images[present]
  lacking = int((~present).sum())
  parts = [
      f"{tally.right.sum() / images:.1%} of {images:,} images have their own of "
      f"{len(found.classes):,} classes as answer; the mean over classes is "
      f"{each.mean():.1%}."
  ]
  if images < found.examples:
    parts.append(
        f"They are evenly spaced among the {found.examples:,} of the evaluation."
    )
  if lacking:
    parts.append(f"{lacking:,} classes have no image here.")
  if present.sum() > _ROWS:
    parts.append(f"Below are the {_ROWS} classes of lowest accuracy.")
  lost = sum(n for (_, answer), n in tally.wrong.items() if answer < 0)
  if lost:
    parts.append(f"{lost:,} images have an embedding that is not a number.")
  return f"<p>{' '.join(parts)}</p>"


def _confused(found: Classified, tally: Counts) -> str:
  pairs = sorted(tally.wrong.items(), key=lambda each: (-each[1], each[0]))
  rows = [
      (
          _class(found, label), _class(found, answer), f"{count:,}",
          f"{count / tally.images[label]:.0%}",
      )
      for (label, answer), count in pairs[:_PAIRS]
  ]
  if not rows:
    return "<p>No image was taken for another class.</p>"
  return "<h4>Most confused pairs</h4>" + markup.table(
      ("class", "taken for", "images", "of the class"), rows, "texts"
  )


def _by_class(found: Classified, tally: Counts, shown: Sequence[int]) -> str:
  instead: dict[int, tuple[int, int]] = {}  # the most frequent wrong answer
  for (label, answer), count in sorted(tally.wrong.items()):
    if count > instead.get(label, (0, 0))[0]:
      instead[label] = count, answer
  rows = []
  for label in shown:
    accuracy = tally.right[label] / tally.images[label]
    other = ""
    if label in instead:
      count, answer = instead[label]
      other = f"{_class(found, answer)} <small>{count:,}</small>"
    rows.append((
        _class(found, label),
        f'<span class="bar"><i class="{markup.bar(accuracy)}"></i></span>',
        f"{accuracy:.0%}", f"{tally.images[label]:,}", other,
    ))
  return markup.table(
      ("class", "", "right", "images", "most often taken for"), rows, "texts"
  )


def _matrix(
    found: Classified, tally: Counts, rows: Sequence[int], columns: Sequence[int]
) -> str:
  """The matrix as a table, with a last column for all other answers."""
  part = np.zeros((len(rows), len(columns)), int)
  for r, label in enumerate(rows):
    for c, answer in enumerate(columns):
      hits = tally.right[label] if label == answer else 0
      part[r, c] = tally.wrong.get((label, answer), hits)
  images = tally.images[list(rows)]
  shown: list[tuple[str, int | None]] = [
      (_class(found, answer, 60), answer) for answer in columns
  ]
  if (part.sum(1) < images).any():
    shown.append(("all others", None))
    part = np.concatenate([part, (images - part.sum(1))[:, None]], axis=1)
  head = "".join(
      f'<th scope="col" title="{name}"><span>{name}</span></th>' for name, _ in shown
  )
  body = "".join(
      _line(_class(found, label, 60), label, int(total), shown, line)
      for label, total, line in zip(rows, images, part.tolist(), strict=True)
  )
  size = "small" if len(rows) <= _DIGITS else "large"
  return (
      f'<figure class="wide"><div class="scroll" tabindex="0">'
      f'<table class="heat confusion {size}"><thead><tr><td></td>{head}</tr></thead>'
      f'<tbody>{body}</tbody></table></div><div class="key"><span>0%</span><i></i>'
      "<span>100%</span> of the images of a class</div><figcaption>Each row is a "
      "true class, each column an answer; the diagonal is right.</figcaption>"
      "</figure>"
  )


def _line(
    name: str, label: int, images: int,
    shown: Sequence[tuple[str, int | None]], part: Sequence[int],
) -> str:
  """A row of the matrix: how often a class was given each of the answers shown."""
  cells = []
  for count, (answer, column) in zip(part, shown, strict=True):
    own = " own" if column == label else ""
    digits = str(count) if count and len(shown) <= _DIGITS + 1 else ""
    said = f' title="{name} taken for {answer}: {count} of {images}"'
    cells.append(
        f'<td class="{markup.level(count / max(1, images))}{own}"'
        f"{said if count else ''}>{digits}</td>"
    )
  return f'<tr><th scope="row" title="{name}">{name}</th>{"".join(cells)}</tr>'


def _class(found: Classified, index: int, most: int = 120) -> str:
  return markup.text(found.classes[index], most) if index >= 0 else "(not a number)"

"""Captions from labels: the names of an image's classes, in a prompt.

A labeled source then trains a text tower as image-text pairs do.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from basic import types
from basic.data import damage

Caption: TypeAlias = Callable[[types.Example, np.random.Generator | None], str]


def captions(
    *,
    classes: Sequence[str],
    templates: tuple[str, ...] = ("{}",),
    joiner: str = " and ",
    label: str = "label",
) -> Caption:
  """Makes the function that turns the labels of an example into a caption.

  Given a generator, it shuffles the names of the example's classes, joins them
  and inserts them into a random template; the caption is a function of the
  generator, and so of (seed, index). Given None it is deterministic: the names
  are in the order of the labels, in the first template.

  Args:
    classes: names in the order of the labels. Not empty.
    templates: each contains "{}", where the names go. Not empty.
    joiner: the separator of two names: " and ", or ", ".
    label: the field of an example with its classes: an integer, or integers
      [m], of which -1 is padding and duplicates are ignored.

  Returns:
    (example, generator or None) -> caption; it can be pickled. It raises
    ValueError if an example has no such field, or a label is not a class, and
    `types.Unreadable` if an example has no class at all.

  Raises:
    ValueError: if `classes` or `templates` is empty, or a template has no "{}".

  References:
    Pham et al., Combined Scaling for Zero-shot Transfer Learning, 2021, on the
    data. https://arxiv.org/abs/2111.10050
    Yu et al., CoCa, 2022, for ", " and prompts. https://arxiv.org/abs/2205.01917

  Example:
    >>> caption = captions(classes=("cat", "dog"), templates=("a photo of {}",))
    >>> caption({"label": np.array([1, 0, -1])}, None)
    'a photo of dog and cat'
  """
  if not classes:
    raise ValueError(
        "captions found a source without `classes`, the names of its labels; "
        "use a source that has them, or leave `captions` out to train on the "
        "source's own text."
    )
  if not templates:
    raise ValueError(
        "captions found no templates and needs one or more; '{}' gives the "
        "names alone."
    )
  without = [template for template in templates if "{}" not in template]
  if without:
    raise ValueError(
        f"captions found the template {without[0]!r} without '{{}}': say where "
        "the names go, as in 'a photo of a {}'."
    )
  return _Captions(tuple(classes), tuple(templates), joiner, label)


@dataclasses.dataclass(frozen=True)
class _Captions:
  """See `captions`. A class, not a closure, so that it can be pickled."""

  classes: tuple[str, ...]
  templates: tuple[str, ...]
  joiner: str
  label: str

  def __call__(
      self, example: types.Example, rng: np.random.Generator | None
  ) -> str:
    labels = self._labels(example)
    template = self.templates[0]
    if rng is not None:
      labels = rng.permutation(labels)
      template = self.templates[rng.integers(len(self.templates))]
    names = self.joiner.join(self.classes[k] for k in labels)
    return template.replace("{}", names)

  def _labels(self, example: types.Example) -> list[int]:
    """The classes of an example, each once, in the order of the field."""
    if self.label not in example:
      raise ValueError(
          f"captions found the fields {sorted(example)} and needs "
          f"{self.label!r}: set captions.label to the field with the labels."
      )
    field: Any = np.asarray(example[self.label])
    if field.dtype.kind not in "iu" or field.ndim > 1:
      raise ValueError(
          f"captions found {self.label!r} {field.dtype}{list(field.shape)} and "
          "needs an integer, or integers [m] with -1 for no class."
      )
    labels = list(dict.fromkeys(field.reshape(-1).tolist()))
    unknown = [k for k in labels if not -1 <= k < len(self.classes)]
    if unknown:
      raise ValueError(
          f"captions found {self.label!r} {unknown[0]}, and the source names "
          f"{len(self.classes)} classes, numbered from 0: check the labels "
          "against `classes`."
      )
    present = [k for k in labels if k >= 0]
    if not present:
      raise types.Unreadable("no label", f"{self.label!r} is {field.tolist()}")
    return present


def spread(
    source: types.Source, count: int, *, caption: Caption | None, seed: int
) -> Iterator[str]:
  """Yields the captions of evenly spaced examples of a source.

  Args:
    source: at least one example; unreadable ones are skipped.
    count: examples to read, at most all of the source.
    caption: makes one caption from the labels of an example, with a generator
      of (seed, index); None: all captions in the example's own text.
    seed: of the generators.

  Raises:
    ValueError: if the source is empty, as `caption` does, or, at the end, if no
      caption was yielded in which there is a word and examples are unreadable.
  """
  if len(source) == 0:
    raise ValueError("the source has no examples; check its name and split.")
  reasons: collections.Counter[str] = collections.Counter()
  first, said = "", False
  chosen = np.linspace(0, len(source) - 1, min(count, len(source)))
  for index in chosen.astype(int).tolist():
    try:
      texts = _texts(source[index], caption, (seed, index))
    except types.Unreadable as error:  # Training counts and reports it.
      reasons[error.reason] += 1
      first = first or damage.failure(source, index, error).said
      continue
    said = said or any(text.strip() for text in texts)
    yield from texts
  if reasons and not said:
    listed = ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common())
    raise ValueError(
        f"no caption was found: {reasons.total()} of {len(chosen)} examples cannot "
        f"be read ({listed}); the first is {first}. `python -m basic.prepare check` "
        "reads a source and says what is wrong with it."
    )


def _texts(
    example: types.Example, caption: Caption | None, seed: tuple[int, int]
) -> tuple[str, ...]:
  """The captions of an example, or the one made from its labels."""
  if caption is not None:
    return (caption(example, np.random.default_rng(seed)),)
  text = example.get("text", ())
  texts = text if isinstance(text, (tuple, list)) else (text,)
  return tuple(text for text in texts if isinstance(text, str))

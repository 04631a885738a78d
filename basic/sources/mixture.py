"""Several sources as one, in exact proportions.

With the weights as integers a_i of the sum A, every A consecutive positions of
the stream have exactly a_i examples of source i, and any number n of them has
nearly n a_i / A. Each source goes through epochs of its own, in its own random
order: one that is small for its weight repeats, a large one is not cut.

Which source is at position n follows from n alone, by halving: a set of sources
of weight A is divided in two, of which the first, of weight a, has had

    floor(n a / A + 1/2)

of the first n examples of that set, and the second has had the others.
"""

import bisect
import fractions
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

import numpy as np

from basic import types
from basic.data import damage, orders
from basic.sources import _stable

# What belongs to captions, and not all sources have.
_OF_CAPTIONS = {"text_weights", "text_languages"}
_ATTEMPTS = 16  # examples of a source tried to learn its fields
_SHARES = 10**6  # the sum of weights made by a temperature
# A source by its number, or two sets of sources with the weight of each.
_Tree: TypeAlias = "int | _Halves"


def mixture(
    *,
    sources: Mapping[str, types.Source],
    weights: Mapping[str, int | float] | None = None,
    temperature: int | float | None = None,
    fields: tuple[str, ...] | None = None,
    shuffle: str | None = "examples",
    window: int = 8,
) -> types.Source:
  """Mixes sources by weight, or by their sizes and a temperature.

  Args:
    sources: by label, the sources to mix; a mixture may be among them.
    weights: label -> proportion of its examples, positive, of any sum; as
      decimal numbers they are exact.
    temperature: T at least 1: proportions are those of length^(1/T). 1 draws
      every example equally often, a large T every source.
      Without weights and temperature, T is 1.
    fields: of the examples, "id" aside, to keep; None: all, which must be the
      same in all sources. ("image", "text") leaves out labels that only some
      sources have.
    shuffle: order of the examples of each source, as in `loader`.
    window: as in `loader`.

  Returns:
    A source of the examples of all, one after another in the order of their
    labels; its `order` mixes them. "id" int64 is the index in the mixture.
    `classes` are those of the sources if their labels are kept, else ().

  Raises:
    ValueError: if there are no sources, weights do not fit them, both weights
      and a temperature are given, or the sources differ in the fields of their
      examples or in `classes`.

  References:
    Arivazhagan et al., Massively Multilingual Neural Machine Translation in the
    Wild, 2019, section 3.1 (temperature). https://arxiv.org/abs/1907.05019

  Example:
    >>> def part(k): return [{"text": f"{k}{i}"} for i in range(5)]
    >>> both = mixture(sources={"a": part("a"), "b": part("b")},
    ...                weights={"a": 3, "b": 1})
    >>> "".join(both[both.order(0)(n)]["text"][0] for n in range(8))
    'aabaaaba'
  """
  if not sources:
    raise ValueError("sources is empty; name one or more sources to mix")
  labels = sorted(sources)
  parts = [sources[label] for label in labels]
  lengths = [len(part) for part in parts]
  if 0 in lengths:
    raise ValueError(
        f"the source {labels[lengths.index(0)]!r} has no examples; check its "
        "settings, or leave it out"
    )
  if fields is not None and not {*fields} - {"id"}:
    raise ValueError(
        f"fields is {fields}, which leaves nothing of an example; name what to "
        "keep, as fields=('image', 'text'), or leave it out to keep all"
    )
  shares = _shares(dict(zip(labels, lengths, strict=True)), weights, temperature)
  kept = _fields(dict(zip(labels, parts, strict=True)), fields)
  classes = _classes(dict(zip(labels, parts, strict=True)), "label" in kept)
  made = _Mixture(labels, parts, shares, kept, classes, shuffle, window)
  made.order(0)  # Refuses settings that do not fit the sources.
  return made


class _Mixture:
  """See `mixture`."""

  def __init__(
      self,
      labels: Sequence[str],
      parts: Sequence[Any],
      shares: Sequence[int],
      fields: frozenset[str],
      classes: tuple[str, ...],
      shuffle: str | None,
      window: int,
  ):
    self.classes = classes
    self._labels, self._parts, self._shares = labels, parts, shares
    self._fields = fields
    self._shuffle, self._window = shuffle, window
    self._starts = [0, *itertools.accumulate(len(part) for part in parts)]

  @property
  def fingerprint(self) -> str:
    rows = [
        (label, len(part), getattr(part, "fingerprint", None), share)
        for label, part, share in zip(
            self._labels, self._parts, self._shares, strict=True
        )
    ]
    return _stable.fingerprint(
        "mixture", rows, sorted(self._fields), self._shuffle, self._window
    )

  @property
  def state(self) -> str | None:
    states = [getattr(part, "state", None) for part in self._parts]
    return _stable.fingerprint("mixture", states) if any(states) else None

  def __len__(self) -> int:
    return self._starts[-1]

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    part, inside = self._place(_stable.position(index, len(self)))
    example = self._parts[part][inside]
    kept = {k: v for k, v in example.items() if k in self._fields}
    return {**kept, "id": np.int64(index)}

  def where(self, index: int) -> str:
    """The label of the source, and where that has the example."""
    part, inside = self._place(index)
    place = damage.where(self._parts[part], inside) or f"example {inside}"
    return f"{self._labels[part]}: {place}"

  def _place(self, index: int) -> tuple[int, int]:
    """(the part that has an example, its number there)."""
    part = bisect.bisect_right(self._starts, index) - 1
    return part, index - self._starts[part]

  def order(self, seed: int) -> Callable[[int], int]:
    """Position of a stream -> index; see the top of this file."""
    visits = []
    for number, part in enumerate(self._parts):
      own = getattr(part, "order", None)
      try:
        visits.append(orders.order(
            part, seed=orders.derived(seed, 6, number), window=self._window,
            shuffle=self._shuffle if own is None else "examples",
        ))
      except ValueError as error:
        raise ValueError(f"the source {self._labels[number]!r}: {error}") from error
    return _Mixed(_halves(self._shares), tuple(visits), tuple(self._starts))


class _Halves(NamedTuple):
  """Two sets of sources.

  Attributes:
    first: a set.
    second: the other.
    weight: of the first.
    total: weight of both.
  """

  first: Any
  second: Any
  weight: int
  total: int


class _Mixed(NamedTuple):
  """Position -> index; a class, so that it can be pickled."""

  tree: Any
  visits: tuple[Callable[[int], int], ...]
  starts: tuple[int, ...]

  def __call__(self, position: int) -> int:
    part, before = _descend(self.tree, position)
    return self.starts[part] + self.visits[part](before)


def _descend(tree: _Tree, n: int) -> tuple[int, int]:
  """(the source at position n, the examples it has had before)."""
  while isinstance(tree, _Halves):
    had, has = (_had(k, tree.weight, tree.total) for k in (n, n + 1))
    tree, n = (tree.first, had) if has > had else (tree.second, n - had)
  return tree, n


def _had(n: int, weight: int, total: int) -> int:
  """floor(n weight / total + 1/2)."""
  return (2 * n * weight + total) // (2 * total)


def _halves(shares: Sequence[int]) -> _Tree:
  """A tree of sources in which the heavy ones are near the root (Huffman)."""
  sets: list[tuple[int, int, Any]] = sorted(
      (share, number, number) for number, share in enumerate(shares)
  )
  while len(sets) > 1:
    (light, _, second), (heavy, number, first) = sets[:2]
    total = light + heavy
    joined = _Halves(first, second, heavy, total)
    sets = sorted([*sets[2:], (total, number, joined)], key=lambda s: s[:2])
  return sets[0][2]


def _shares(
    lengths: Mapping[str, int],
    weights: Mapping[str, int | float] | None,
    temperature: int | float | None,
) -> list[int]:
  """The weights as integers without a common divisor, in the order of `lengths`."""
  if weights is not None and temperature is not None:
    raise ValueError("weights and temperature are both given; give one of them")
  if weights is not None:
    exact = [_exact(label, weights) for label in _checked(lengths, weights)]
  elif temperature is None or temperature == 1:
    exact = [fractions.Fraction(length) for length in lengths.values()]
  elif temperature > 1:
    powers = [length ** (1 / temperature) for length in lengths.values()]
    exact = [
        fractions.Fraction(max(1, round(_SHARES * power / sum(powers))))
        for power in powers
    ]
  else:
    raise ValueError(f"temperature is {temperature}; expected 1 or more")
  whole = [int(e * math.lcm(*(e.denominator for e in exact))) for e in exact]
  return [share // math.gcd(*whole) for share in whole]


def _checked(
    lengths: Mapping[str, int], weights: Mapping[str, int | float]
) -> Sequence[str]:
  """The labels, if they are those of the weights."""
  if weights.keys() != lengths.keys():
    raise ValueError(
        f"weights are given for {sorted(weights)}, but the sources are "
        f"{sorted(lengths)}; give each source a weight"
    )
  return list(lengths)


def _exact(label: str, weights: Mapping[str, int | float]) -> fractions.Fraction:
  weight = weights[label]
  if (
      isinstance(weight, bool) or not isinstance(weight, int | float)
      or not 0 < weight < math.inf
  ):
    raise ValueError(
        f"weights[{label!r}] is {weight!r}; expected a positive number. Leave a "
        "source out that is not to be read"
    )
  return fractions.Fraction(repr(weight))  # 0.1 is one tenth.


def _fields(
    parts: Mapping[str, types.Source], fields: tuple[str, ...] | None
) -> frozenset[str]:
  """The fields to keep, if all sources have them."""
  found = {label: _sample(label, part) for label, part in parts.items()}
  wanted = None if fields is None else {*fields} - {"id"}
  if wanted and "text" in wanted:
    wanted.update(_OF_CAPTIONS)
  have = {
      label: (set(example) - {"id"} if wanted is None else wanted & set(example))
      for label, example in found.items()
  }
  needed = set.union(*have.values()) | (wanted or set())
  for label, names in have.items():
    if lacking := sorted(needed - names - _OF_CAPTIONS):
      raise ValueError(
          f"the examples of the source {label!r} have no {lacking[0]!r}, those "
          f"of a batch need the same fields; name those that all have, as "
          f"fields={tuple(sorted(set.intersection(*have.values())))}"
      )
  if not all("text_languages" in names for names in have.values()):
    needed.discard("text_languages")  # Evaluations need it of all examples.
  return frozenset(needed)


def _sample(label: str, part: types.Source) -> types.Example:
  """An example of a source that can be read."""
  said = ""
  for index in range(min(len(part), _ATTEMPTS)):
    try:
      return part[index]
    except types.Unreadable as error:
      said = damage.failure(part, index, error).said
  raise ValueError(
      f"the first {_ATTEMPTS} examples of the source {label!r} are unreadable; "
      f"the last is {said}"
  )


def _classes(
    parts: Mapping[str, types.Source], labelled: bool
) -> tuple[str, ...]:
  """The classes that labels stand for, which must be the same everywhere."""
  if not labelled:
    return ()
  found = {
      label: tuple(getattr(part, "classes", ()))
      for label, part in parts.items()
  }
  (first, classes), *others = found.items()
  for label, names in others:
    if names != classes:
      raise ValueError(
          f"labels of the sources {first!r} and {label!r} stand for different "
          f"classes ({_shown(classes)}; {_shown(names)}); leave them out by "
          "naming the other fields, as fields=('image', 'text')"
      )
  return classes


def _shown(classes: tuple[str, ...]) -> str:
  shown = ", ".join(map(repr, classes[:3]))
  return f"{len(classes)}: {shown}{', ...' if len(classes) > 3 else ''}"

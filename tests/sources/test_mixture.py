"""A mixture has its proportions exactly, and every source has whole epochs."""

import collections
import fractions
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basic import sources as sources_folder
from basic import types
from basic.data import examples, pipeline
from basic.experiment import schema
from basic.sources import mixture as module
from basic.sources.mixture import mixture


class Part:
  """Captions that name the source and the number of the example."""

  def __init__(self, name, count, extra=(), classes=(), shards=None, bad=0):
    self._name, self._count, self._extra, self._bad = name, count, extra, bad
    self.classes, self.fingerprint = classes, name
    if shards is not None:
      self.shards = shards

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    if index >= self._count:
      raise IndexError(f"example {index} does not exist")
    if index < self._bad:
      raise types.Unreadable("no caption", "planted")
    return {
        "text": (f"{self._name} {index}",), "id": np.int64(index),
        **dict.fromkeys(self._extra, np.int32(1)),
    }


def read(source, seed, first, count):
  """(name, number) at positions of the stream, in its order."""
  visit = source.order(seed)
  texts = [source[visit(first + n)]["text"][0].split() for n in range(count)]
  return [(name, int(number)) for name, number in texts]


weights_of_parts = st.lists(
    st.sampled_from([1, 2, 3, 7, 0.5, 0.25, 1.5, 0.1, 12]), min_size=1, max_size=6
)


@settings(max_examples=10, deadline=None)
@given(weights_of_parts, st.integers(0, 10**12), st.integers(0, 2**32 - 1))
def test_every_window_of_the_denominator_has_the_exact_proportions(
    weights, first, seed
):
  labels = [f"p{i}" for i in range(len(weights))]
  source = mixture(
      sources={label: Part(label, 3 + i) for i, label in enumerate(labels)},
      weights=dict(zip(labels, weights, strict=True)),
  )
  exact = [fractions.Fraction(str(w)) for w in weights]
  shares = [w / sum(exact) for w in exact]
  window = int(np.lcm.reduce([s.denominator for s in shares]))
  names = [name for name, _ in read(source, seed, first, 2 * window)]
  for start in range(window + 1):
    found = collections.Counter(names[start : start + window])
    for label, share in zip(labels, shares, strict=True):
      assert found[label] == share * window
  # Spread evenly: any beginning is near its share.
  counts = collections.Counter()
  for n, name in enumerate(names, 1):
    counts[name] += 1
    for label, share in zip(labels, shares, strict=True):
      assert abs(counts[label] - n * share) < 3


def test_three_to_one_is_three_to_one():
  source = mixture(
      sources={"a": Part("a", 10), "b": Part("b", 10)}, weights={"a": 3, "b": 1.0}
  )
  names = "".join(name for name, _ in read(source, 0, 0, 40))
  assert names == "aaba" * 10


def test_large_denominators_need_no_table():
  source = mixture(
      sources={k: Part(k, 5) for k in "abc"},
      weights={"a": 0.123456789, "b": 0.5, "c": 0.376543211},
  )
  window = 10**9
  for first in (0, 777):
    visit = source.order(1)
    before = {k: count(visit, i, first) for i, k in enumerate("abc")}
    after = {k: count(visit, i, first + window) for i, k in enumerate("abc")}
    assert [after[k] - before[k] for k in "abc"] == [
        123456789, 5 * 10**8, 376543211
    ]


def count(visit, part, position):
  """Examples that a source has had before a position, from the next one."""
  for n in itertools.count(position):
    found, before = module._descend(visit.tree, n)
    if found == part:
      return before
  raise AssertionError


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from(["examples", "shards"]),
       st.integers(0, 2**32 - 1))
def test_every_source_has_epochs_of_its_own(one, two, shuffle, seed):
  source = mixture(
      sources={"a": Part("a", one, shards=[0]), "b": Part("b", two, shards=[0])},
      weights={"a": 2, "b": 1}, shuffle=shuffle, window=1,
  )
  found = read(source, seed, 0, 60)
  for name, length in (("a", one), ("b", two)):
    numbers = [number for label, number in found if label == name]
    for start in range(0, len(numbers) - length + 1, length):
      assert sorted(numbers[start : start + length]) == list(range(length))


def test_proportions_without_weights_are_those_of_the_lengths():
  parts = {"a": Part("a", 12), "b": Part("b", 3)}
  found = collections.Counter(read(mixture(sources=parts), 5, 0, 30))
  assert set(found.values()) == {2}  # Two epochs of the whole.
  names = [n for n, _ in read(mixture(sources=parts, temperature=2.0), 0, 0, 300)]
  assert collections.Counter(names) == {"a": 200, "b": 100}
  names = [n for n, _ in read(mixture(sources=parts, temperature=1e9), 0, 0, 300)]
  assert collections.Counter(names) == {"a": 150, "b": 150}


def test_a_mixture_of_mixtures_keeps_all_proportions():
  inner = mixture(
      sources={"a": Part("a", 4), "b": Part("b", 4)}, weights={"a": 1, "b": 1}
  )
  outer = mixture(
      sources={"in": inner, "c": Part("c", 4)}, weights={"in": 2, "c": 1}
  )
  names = [name for name, _ in read(outer, 0, 0, 60)]
  for start in range(54):
    assert collections.Counter(names[start : start + 6]) == {
        "a": 2, "b": 2, "c": 2
    }


def test_examples_follow_each_other_and_have_ids_of_their_own():
  source = mixture(sources={"b": Part("b", 2), "a": Part("a", 3)})
  texts = [source[i]["text"][0] for i in range(len(source))]
  assert texts == ["a 0", "a 1", "a 2", "b 0", "b 1"]
  assert [int(source[i]["id"]) for i in range(5)] == [0, 1, 2, 3, 4]
  assert sources_folder.check(source) == []


def test_a_stream_follows_the_order_of_a_mixture():
  source = mixture(
      sources={"a": Part("a", 9), "b": Part("b", 2)}, weights={"a": 3, "b": 1}
  )
  prepare = examples.prepare(tokenize=lambda text: np.array([ord(text[0])]))
  with pipeline.stream(
      source, prepare=prepare, batch_size=8, seed=0, threads=2
  ) as batches:
    for batch in itertools.islice(batches, 5):
      assert collections.Counter(batch["text"][:, 0].tolist()) == {97: 6, 98: 2}
    np.testing.assert_array_equal(batches.ids(32, 40), batch["id"])


def test_the_fingerprint_tells_parts_weights_and_shuffle_but_not_their_order():
  parts = {
      name: Part(name, 4, extra=("n",), shards=[0, 2]) for name in ("a", "b")}
  swapped = dict(reversed(parts.items()))
  kinds = [
      dict(sources=parts), dict(sources=parts, weights={"a": 2, "b": 1}),
      dict(sources={**parts, "b": Part("c", 4, extra=("n",))}),
      dict(sources=parts, fields=("text",)),
      dict(sources=parts, shuffle="shards"),
      dict(sources=parts, shuffle="shards", window=2),
  ]
  assert len({mixture(**kind).fingerprint for kind in kinds}) == len(kinds)
  one, two = mixture(sources=parts), mixture(sources=swapped)
  assert one.fingerprint == two.fingerprint
  assert read(one, 3, 0, 20) == read(two, 3, 0, 20)
  # A sum of weights is of no importance.
  assert (
      mixture(sources=parts, weights={"a": 0.2, "b": 0.1}).fingerprint
      == mixture(sources=parts, weights={"a": 4, "b": 2}).fingerprint
  )


def test_labels_are_kept_where_they_mean_the_same():
  same = {k: Part(k, 3, ("label",), ("cat", "dog")) for k in "ab"}
  assert mixture(sources=same).classes == ("cat", "dog")
  other = {**same, "b": Part("b", 3, ("label",), ("dog", "cat"))}
  with pytest.raises(ValueError, match="'a' and 'b' stand for different classes"):
    mixture(sources=other)
  kept = mixture(sources=other, fields=("text",))
  assert kept.classes == () and set(kept[0]) == {"text", "id"}


def test_a_source_without_labels_beside_one_with_them_is_refused_at_once():
  parts = {"a": Part("a", 3, ("label",)), "b": Part("b", 3, bad=2)}
  with pytest.raises(
      ValueError, match=r"'b' have no 'label'.*fields=\('text',\)"
  ):
    mixture(sources=parts)
  assert set(mixture(sources=parts, fields=("text",))[0]) == {"text", "id"}


@pytest.mark.parametrize("change, sentence", [
    (dict(sources={}), "sources is empty"),
    (dict(sources={"a": Part("a", 0)}), "'a' has no examples"),
    (dict(weights={"a": 1}), r"given for \['a'\], but the sources are \['a', 'b'\]"),
    (dict(weights={"a": 1, "b": 0}), r"weights\['b'\] is 0; expected a positive"),
    (dict(weights={"a": 1, "b": True}), r"weights\['b'\] is True"),
    (dict(weights={"a": 1, "b": 1}, temperature=2.0), "give one of them"),
    (dict(temperature=0.5), "temperature is 0.5; expected 1 or more"),
    (dict(shuffle="shards"), "does not say where its shards begin"),
    (dict(fields=("image",)), "have no 'image'"),
    (dict(sources={"a": Part("a", 30, bad=30)}), "'a' are unreadable"),
])
def test_wrong_settings_get_a_sentence(change, sentence):
  given_ = {"sources": {"a": Part("a", 3), "b": Part("b", 3)}, **change}
  with pytest.raises(ValueError, match=sentence):
    mixture(**given_)


def test_settings_make_the_sources_of_a_mixture():
  part = dict(name="digits", length=12, canvas=24)
  settings_ = dict(name="mixture", sources=dict(
      one=part, two=dict(part, seed=1)), weights=dict(one=1, two=2))
  full = schema.complete("source", mixture, settings_)
  source = schema.make("sources", {"name": "mixture", **full})
  assert len(source) == 24
  with pytest.raises(ValueError, match=r"source\.sources\.one: digits\(\) has no"):
    schema.complete("source", mixture, {"sources": {"one": dict(part, sed=1)}})

"""`sources.check` says in words what a source lacks."""

import re

import numpy as np
import pytest

from basic import sources, types


class Good:
  """Four examples; a subclass plants a fault."""

  classes = ("ant", "bee")
  fingerprint = "1f"

  def __len__(self):
    return 4

  def example(self, index):
    return {
        "image": np.full((2, 3, 3), index, np.uint8), "text": ("a", "b"),
        "text_weights": (1.0, 0.5), "label": np.int32(index % 2),
        "id": np.int64(index),
    }

  def __getitem__(self, index):
    if not 0 <= index < len(self):
      raise IndexError(index)
    return self.example(index)


def test_nothing_is_said_against_a_good_source():
  assert sources.check(Good()) == []


def planted(**fields):
  """A class of sources whose example 2 has these fields instead."""

  class Planted(Good):

    def example(self, index):
      example = super().example(index)
      return {**example, **fields} if index == 2 else example

  return Planted


def raising(error):
  class Raising(Good):

    def example(self, index):
      if index == 2:
        raise error
      return super().example(index)

  return Raising


class Empty(Good):

  def __len__(self):
    return 0


class Endless(Good):

  def __getitem__(self, index):
    return self.example(index % 4)


class Forgetful(Good):
  """An example depends on what was read before."""

  def __init__(self):
    self.reads = 0

  def example(self, index):
    self.reads += 1
    return {**super().example(index), "reads": self.reads}


class Open(Good):

  def __init__(self):
    self.closure = lambda: None


class Anonymous(Good):
  fingerprint = None


class Misnumbered(Good):
  classes = ("ant",)


class Doubled(Good):
  classes = ("ant", "ant")


class Unnamed(Good):
  classes = (1, 2)


class Sharded(Good):
  shards = (0, 2, 2)


class Placed(Good):
  where = "a shelf"


class Lost(Good):

  def where(self, index):
    return ["shelf", "shelf"][index]


class Numbered(Good):

  def where(self, index):
    return index


class Elsewhere(Good):
  """A pickled copy of it says other places."""

  def __init__(self, copies=0):
    self.copies = copies

  def __reduce__(self):
    return Elsewhere, (self.copies + 1,)

  def where(self, index):
    return f"shelf {index} of {self.copies}"


@pytest.mark.parametrize(("source", "expected"), [
    (Empty, "at least one example"),
    (Endless, "expected an IndexError"),
    (Forgetful, "a function of the index alone"),
    (Open, "worker processes need a copy"),
    (Anonymous, "fingerprint: there is none"),
    (Misnumbered, "source.classes names 1"),
    (Doubled, "names are unique"),
    (Unnamed, "expected a tuple of str"),
    (Sharded, "first index of each file"),
    (Placed, "source.where: found 'a shelf'; expected a function"),
    (Lost, r"source.where\(3\): raised IndexError"),
    (Numbered, r"source.where\(0\): found 0; expected a str"),
    (Elsewhere, r"source.where\(0\): a pickled copy"),
    (raising(OSError("disk")), r"source\[2\]: raised OSError: disk"),
    (planted(image=np.zeros((2, 3, 3))), "expected uint8"),
    (planted(image=np.zeros((2, 3), np.uint8)), "expected uint8"),
    (planted(image=b"\xff\xd8\xff"), "decoding.Encoded"),
    (planted(text=()), "expected a caption"),
    (planted(text=("a", 3)), "expected a caption"),
    (planted(text=("a", " ")), "none of them blank"),
    (planted(text_weights=(1.0,)), "one non-negative number each"),
    (planted(text_weights=(0.0, 0.0)), "not all of them 0"),
    (planted(text_weights=(1.0, -1.0)), "non-negative"),
    (planted(label="bee"), "expected an integer"),
    (planted(label=2), "labels count from 0"),
    (planted(extra=3), "all examples have the same"),
    (planted(id=np.int64(1)), "ids are unique"),
    (planted(id=object()), "no batch can hold"),
    (planted(id=np.zeros(2, np.int64)), "all examples have the same"),
])
def test_what_a_source_lacks_is_said(source, expected):
  faults = sources.check(source())
  assert any(re.search(expected, fault) for fault in faults), faults


class Damaged(Good):

  def example(self, index):
    if index == 2:
      raise types.Unreadable("broken")
    return super().example(index)


def test_an_unreadable_example_is_no_fault():
  assert sources.check(Damaged()) == []


def test_another_error_of_a_length_is_said():
  assert "len(source): raised TypeError" in sources.check(7)[0]


class Wrongly(Good):
  """Its order gives what no index is."""

  def __init__(self, gives):
    self.gives = gives

  def order(self, seed):
    return Constant(self.gives)


class Constant:

  def __init__(self, gives):
    self.gives = gives

  def __call__(self, position):
    return self.gives


@pytest.mark.parametrize("gives", [4, -1, 1.0, "1", None])
def test_an_order_that_gives_no_index_is_said(gives):
  assert any("source.order(0)" in fault for fault in sources.check(Wrongly(gives)))


def test_an_order_of_integers_of_any_kind_is_fine():
  assert sources.check(Wrongly(3)) == sources.check(Wrongly(np.int64(3))) == []

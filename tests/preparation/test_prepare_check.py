"""`python -m basic.prepare check` says what keeps a run from using a source."""

import numpy as np
import pytest

from basic import prepare, types
from basic.data import captions
from basic.experiment import schema
from basic.preparation import check


class Torn:
  """Examples of which those below `torn` cannot be read."""

  classes = ()

  def __init__(self, torn, length=50):
    self.torn, self.length = torn, length
    self.fingerprint = f"{torn} {length}"

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    if not 0 <= index < self.length:
      raise IndexError(index)
    if index < self.torn:
      raise types.Unreadable("truncated image", f"number {index}")
    return {"image": np.zeros((4, 4, 3), np.uint8), "text": (f"a {index}",)}


def test_a_source_of_which_nothing_can_be_read_is_refused_with_the_reasons():
  with pytest.raises(ValueError, match="none of 50 examples") as error:
    check.check(source=Torn(50))
  assert "50 x truncated image" in str(error.value)
  assert "\n  example 0: truncated image: number 0\n" in str(error.value)


@pytest.mark.parametrize(("torn", "stops"), [(0, False), (5, False), (6, True)])
def test_more_than_a_tenth_unreadable_would_stop_a_run(torn, stops, caplog):
  counts = dict(check.check(source=Torn(torn)))
  verdict = counts.pop("verdict", "")
  assert ("a run stops above 10%" in verdict) == stops
  assert counts == {"examples": 50, "read": 50 - torn} | (
      {"unreadable/truncated image": torn} if torn else {})
  assert ("example 0: truncated image: number 0" in caplog.text) == bool(torn)


@pytest.mark.parametrize("examples", [0, -1])
def test_it_reads_at_least_one_example(examples):
  with pytest.raises(ValueError, match=f"examples is {examples}"):
    check.check(source=Torn(0), examples=examples)


def test_captions_that_cannot_be_read_give_their_reasons():
  found = captions.spread(Torn(50), 10, caption=None, seed=0)
  with pytest.raises(ValueError, match=r"10 of 10 examples .*10 x truncated image"):
    list(found)
  found = captions.spread(Torn(49), 10, caption=None, seed=0)
  assert list(found) == ["a 49"]


def test_a_vocabulary_of_unreadable_data_names_the_reasons(tmp_path, monkeypatch):
  monkeypatch.setattr(
      schema, "_made",
      lambda value, hint: Torn(50) if hint == types.Source else value)
  with pytest.raises(ValueError, match="truncated image: number 0"):
    prepare.prepare("vocabulary", [
        "--source.name=shapes", f"--out={tmp_path / 't.model'}"])
  assert list(tmp_path.iterdir()) == []

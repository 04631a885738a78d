"""The benchmark finds the stage that is slow, whatever the machine."""

import dataclasses
import time

import cv2
import numpy as np
import pytest

from basic import types
from basic.data import decoding
from basic.preparation import bench as command
from basic.sources import shapes


@dataclasses.dataclass
class Slow:
  """Pictures and captions of which one stage waits."""

  stage: str
  broken: int = 0  # of ten examples

  def __len__(self):
    return 40

  def __getitem__(self, index):
    if self.stage == "read":
      time.sleep(0.02)
    if index % 10 < self.broken:
      raise types.Unreadable("truncated image")
    image = np.full((20, 30, 3), index, np.uint8)
    return {"image": Image(image, self.stage), "text": ("a red cat",)}


class Image(decoding.Encoded):
  """A file that is decoded slowly, or not."""

  def __init__(self, pixels, stage):
    data = cv2.imencode(".png", pixels)[1].tobytes()
    super().__init__(data)
    object.__setattr__(self, "stage", stage)

  def decode(self, reduce=1):
    if self.stage == "decode":
      time.sleep(0.02)
    return super().decode(reduce)


def run(source, **settings):
  small = dict(size=8, batch_size=4, batches=2, rounds=2, threads=2)
  return command.bench(source=source, **small | settings)


@pytest.mark.parametrize("stage", ["read", "decode"])
def test_the_slowest_stage_is_named(stage):
  found = run(Slow(stage))
  assert found["slowest stage"].startswith(stage)
  assert found[f"{stage} examples/s"] <= 50  # it sleeps for 20 ms
  rates = {name: rate for name, rate in found.items() if name.endswith("/s")}
  assert rates.keys() == {
      f"{name} examples/s" for name in (*command.STAGES, "all stages", "pipeline")
  }
  assert found["all stages examples/s"] <= 50


def test_unreadable_examples_are_left_out_and_counted():
  found = run(Slow("", broken=2))
  assert float(found["unreadable"].rstrip("%")) == pytest.approx(20, abs=15)
  assert "unreadable" not in run(Slow(""))


def test_a_source_that_cannot_be_read_is_refused():
  with pytest.raises(ValueError, match=r"none of 1,000 examples can be read"):
    run(Slow("", broken=10))


def test_any_source_can_be_measured():
  found = run(shapes.shapes(length=50))
  assert found["examples"] == 8 and found["cores"] >= 1
  assert "decode examples/s" not in found  # It gives pixels.
  found = run([{"label": k} for k in range(9)])
  assert found["examples"] == 8 and "augment examples/s" not in found


def test_every_example_comes_once_before_one_comes_again():
  for length in (1, 2, 7, 40):
    order = command._order(range(length))
    for _ in range(2):
      assert sorted(next(order) for _ in range(length)) == list(range(length))


@pytest.mark.parametrize(("settings", "error", "sentence"), [
    ({"rounds": 0}, ValueError, "rounds is 0; expected 1 or more"),
    ({"threads": 0}, ValueError, "threads is 0"),
    ({"source": []}, ValueError, "has no examples"),
    ({"vocabulary": "nowhere.model"}, FileNotFoundError, "nowhere.model"),
])
def test_what_cannot_be_measured_is_refused(settings, error, sentence):
  with pytest.raises(error, match=sentence):
    run(**{"source": Slow("")} | settings)

"""The time of a step by the roofline model, against hand calculations."""

import pytest

from basic.planning import collectives, flops, roofline

CHIP = roofline.Chip(
    compute=1e12, exact=1e11, bandwidth=1e10, memory=1, interconnect=1e9
)


def seconds(work, sent=0.0, **given):
  traffic = collectives.Collectives(
      {"all-reduce": collectives.Traffic(1, sent)}, 0
  )
  settings = {"chip": CHIP, "devices": 4, "state": 0, "batch_size": 10, **given}
  return roofline.seconds(work, traffic, **settings)


def test_float32_products_have_a_rate_of_their_own_and_devices_share_the_work():
  found = seconds(flops.Work(flops=9e12, exact=1e12))
  assert found["compute"] == pytest.approx((8 + 10) / 4)
  assert found["bound"] == "compute"
  assert found["examples_per_second"] == pytest.approx(10 / 4.5)


def test_memory_time_counts_operands_results_and_the_state():
  found = seconds(flops.Work(moved=4e10), state=10**10)
  assert found["memory"] == pytest.approx(2.0)
  assert (found["bound"], found["step"]) == ("memory", found["memory"])


def test_communication_time_counts_what_one_device_sends():
  found = seconds(flops.Work(), sent=3e9)
  assert (found["communication"], found["bound"]) == (3.0, "communication")


def test_inputs_in_host_memory_come_at_the_rate_of_the_host_link():
  found = seconds(flops.Work(), brought=63 * 10**9)
  assert (found["host"], found["bound"]) == (pytest.approx(2.0), "host")


def test_a_chip_without_interconnect_is_refused_only_if_devices_communicate():
  alone = CHIP._replace(interconnect=0.0)
  found = seconds(flops.Work(flops=1e12), chip=alone)
  assert (found["communication"], found["bound"]) == (0, "compute")
  with pytest.raises(ValueError, match="interconnect is 0, and each of 4 devices"):
    seconds(flops.Work(), sent=1.0, chip=alone)


def test_numbers_override_those_of_a_preset():
  assert roofline.chip("h100") == roofline.CHIPS["H100"]
  assert roofline.chip("TPU v5p") == roofline.CHIPS["v5p"]
  changed = roofline.chip("A100, interconnect=25e9")
  assert changed == roofline.CHIPS["A100"]._replace(interconnect=25e9)
  own = roofline.chip(
      "compute=1e12,exact=1e11,bandwidth=1e10,memory=1,interconnect=1e9"
  )
  assert own == CHIP
  assert roofline.chip("H100,interconnect=0").interconnect == 0
  assert roofline.chip("H100,memory=40GiB").memory == 40 * 2**30


@pytest.mark.parametrize("text", [
    "B9000", "H100,A100", "H100,speed=1", "compute=1e12", "H100,compute=fast",
    "H100,bandwidth=0", "H100,memory=inf", "H100,compute=nan",
    "H100,interconnect=-1", "H100,", "", "=5", "H100,memory=5,memory=6",
    "H100,memory=3apples", "H100,memory=0B",
])
def test_an_unknown_chip_is_refused_with_the_list_of_presets(text):
  with pytest.raises(ValueError, match=r"H100.*v6e"):
    roofline.chip(text)

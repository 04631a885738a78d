"""Placement: meshes, rows of batches, and parameters by their logical axes."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from basic import types
from basic.engine import model
from basic.objectives import classification
from basic.sharding import layout

AXES = (
    ("image/kernel", ("embed", "mlp")),
    ("image/heads", ("layers", "embed", "heads", "head")),
    ("image/square", ("embed", "embed")),
    ("image/bias", ("mlp",)),
)


def mesh(data=1, fsdp=1, model=1):
  devices = jax.devices()[: data * fsdp * model]
  return jax.make_mesh(
      (data, fsdp, model), layout.AXES, axis_types=(AxisType.Auto,) * 3,
      devices=devices,
  )


def state(mlp=8):
  params = {
      "image": {
          "kernel": jnp.zeros((8, mlp)), "heads": jnp.zeros((2, 8, 4, 2)),
          "square": jnp.zeros((8, 8)), "bias": jnp.zeros((mlp,)),
      },
      "objective": {"log_scale": jnp.zeros(())},
  }
  return types.TrainState(
      jnp.zeros((), jnp.int32), params, optax.adam(0.1).init(params), (),
      jax.random.key(0),
  )


def specs(place, tree):
  return jax.tree.map(lambda sharding: sharding.spec, place.place(tree))


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (8, 1, 1)), (dict(fsdp=4), (2, 4, 1)),
        (dict(data=1, fsdp=-1), (1, 8, 1)),
        (dict(data=2, fsdp=2, model=2), (2, 2, 2)),
        (dict(data=1, model=-1, fsdp=2), (1, 2, 4)),
    ],
)
def test_one_mesh_axis_takes_the_devices_that_remain(sizes, shape):
  found = layout.mesh(**sizes)
  assert dict(found.shape) == dict(zip(layout.AXES, shape, strict=True))
  assert found.axis_types == (AxisType.Auto,) * 3


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (dict(data=3), r"does not fit 8 devices; its sizes must multiply to 8"),
        (dict(data=-1, fsdp=3), "does not fit 8 devices"),
        (dict(data=-1, model=-1), r"more than one -1: \['data', 'model'\]"),
        (dict(data=-1, model=0), "takes sizes of 1 or more, or one -1"),
        (dict(data=-1, model=16), "does not fit 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_in_words(sizes, sentence):
  with pytest.raises(ValueError, match=sentence):
    layout.mesh(**sizes)


@dataclasses.dataclass(frozen=True)
class Elsewhere:
  """A device that is not present."""

  id: int
  platform: str
  device_kind: str
  slice_index: int = 0
  coords: tuple[int, ...] = ()
  core_on_chip: int = 0
  process_index: int = 0


def in_two_slices(platform):
  kind = "TPU v3" if platform == "tpu" else "H100"
  return [
      # In the order of their ids, not of their slices.
      Elsewhere(n, platform, kind, n % 2, (n // 2, 0, 0)) for n in range(8)
  ]


@pytest.mark.parametrize("sizes", [dict(fsdp=2), dict(fsdp=2, model=2)])
def test_only_the_axis_data_crosses_slices(sizes):
  found = layout.mesh(in_two_slices("gpu"), **sizes).devices
  slices = np.vectorize(lambda device: device.slice_index)(found)
  for row in slices:  # Along fsdp and model.
    assert len(set(row.flat)) == 1
  assert set(slices[:, 0, 0]) == {0, 1}
  assert len({device.id for device in found.flat}) == 8


def test_another_axis_across_slices_is_refused_in_words():
  with pytest.raises(ValueError, match=r"data is 1, .* 8 TPUs lie in 2 slices"):
    layout.mesh(in_two_slices("tpu"), fsdp=8)
  assert layout.mesh(in_two_slices("gpu"), fsdp=8).shape["fsdp"] == 8
  uneven = [*in_two_slices("gpu")[:-2], Elsewhere(8, "gpu", "H100", 5)]
  assert [d.id for d in layout.mesh(uneven).devices.flat] == [*range(6), 8]


def test_a_mesh_axis_may_be_part_of_an_axis_of_a_torus():
  torus = [
      Elsewhere(4 * x + y, "tpu", "TPU v6 lite", 0, (x, y, 0))
      for x in range(4) for y in range(4)
  ]
  found = layout.mesh(torus, fsdp=8)
  assert dict(found.shape) == {"data": 2, "fsdp": 8, "model": 1}
  assert len({device.id for device in found.devices.flat}) == 16


def test_a_batch_that_the_devices_do_not_divide_is_refused_in_words():
  place = layout.Layout(mesh(2, 2, 2))
  place.check_batch(16)
  with pytest.raises(ValueError, match=r"batch_size is 12, which 8 devices do "
                                       r"not divide .* use a multiple of 8"):
    place.check_batch(12)


def test_rows_are_split_and_strings_stay_on_the_host():
  place = layout.Layout(mesh(2, 2, 2))
  rows = {
      "image": np.arange(24, dtype=np.uint8).reshape(8, 3),
      "label": np.arange(8, dtype=np.int32),
      "text": np.array(["a"] * 8),
  }
  found = place.shard(rows)
  assert sorted(found) == ["image", "label"]
  for name, leaf in found.items():
    np.testing.assert_array_equal(leaf, rows[name])
    # Over data and fsdp; replicated over model.
    assert {s.data.shape[0] for s in leaf.addressable_shards} == {2}
  spread = place.spread({"image": rows["image"]})["image"]
  np.testing.assert_array_equal(spread, rows["image"])
  assert spread.sharding == found["image"].sharding


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (np.zeros(2), True), (np.zeros(2, np.uint8), True),
        (np.zeros(2, bool), True), (np.array(["a"]), False),
        (np.array(["a", None], object), False), (np.array([b"a"]), False),
    ],
)
def test_devices_hold_numbers_and_no_strings(leaf, expected):
  assert layout.holds(leaf) is expected


def test_logical_axes_say_where_parameters_live():
  one = specs(layout.Layout(mesh(2, 2, 2), AXES), state()).params
  assert one["image"] == {
      "kernel": PartitionSpec("fsdp", "model"),
      "heads": PartitionSpec(None, "fsdp", "model", None),
      "square": PartitionSpec("fsdp", None),  # each mesh axis only once
      "bias": PartitionSpec("model"),
  }
  assert one["objective"]["log_scale"] == PartitionSpec()
  replicated = specs(layout.Layout(mesh(8), AXES), state()).params["image"]
  assert not any(any(spec) for spec in replicated.values())


def test_moments_live_where_their_parameters_do():
  found = specs(layout.Layout(mesh(2, 2, 2), AXES), state())
  adam = found.opt_state[0]
  assert adam.mu == adam.nu == found.params
  assert adam.count == PartitionSpec() == found.step == found.rng


def test_a_parameter_without_a_row_is_an_error():
  missing = layout.Layout(mesh(2), AXES[1:])
  with pytest.raises(ValueError, match=r"'params/image/kernel' of shape "
                                       r"\(8, 8\) matches no row .* add a row"):
    missing.place(state())
  short = layout.Layout(mesh(2), (("image/kernel", ("embed",)), *AXES[1:]))
  with pytest.raises(ValueError, match=r"matches \('embed',\) of its encoder"):
    short.place(state())


def test_an_axis_that_does_not_divide_is_reported_once_and_replicated(caplog):
  place = layout.Layout(mesh(1, 2, 4), AXES)
  with caplog.at_level(logging.WARNING):
    found = specs(place, state(mlp=6))
  assert found.params["image"]["kernel"] == PartitionSpec("fsdp", None)
  assert found.params["image"]["bias"] == PartitionSpec(None)
  said = [r.getMessage() for r in caplog.records if "mlp" in r.getMessage()]
  assert len(said) == 2  # the kernel and the bias, and none of their moments
  assert "axis 'mlp' of 6 is not divided by the 4 devices of 'model'" in said[0]


def test_the_first_row_that_matches_says_the_axes():
  place = layout.Layout(
      mesh(1, 2, 4), (("image/.*rnel", ("mlp", "embed")), *AXES)
  )
  found = specs(place, state()).params["image"]["kernel"]
  assert found == PartitionSpec("model", "fsdp")


def test_the_mesh_in_context_is_the_one_that_ops_see():
  place = layout.Layout(mesh(2, 2, 2))
  assert jax.sharding.get_abstract_mesh().empty
  with place.context():
    assert jax.sharding.get_abstract_mesh().size == 8
  assert jax.sharding.get_abstract_mesh().empty


CLASSES, QUEUE = 12, (3, 8, 4)


def trains(axes):
  """An objective with a classifier, a counter and a queue of embeddings."""

  def init(rng, shapes):
    del rng, shapes
    return (
        {"prototypes": jnp.zeros((8, CLASSES)), "log_scale": jnp.zeros(())},
        {"queue": jnp.zeros(QUEUE), "cursor": jnp.zeros((), jnp.int32)},
    )

  return types.Objective(init, lambda *args: None, axes)


PROTOTYPES = ("prototypes", ("embed", "vocab"))
OF_QUEUE = ("memory/queue", ("slots", "rows", "projected"))
NONE = types.Model(lambda *args: {}, types.Encode({}, lambda batch: {}), ())


def placed(objective, **sizes):
  """Specs of a state of nothing but the objective."""
  params, memory = objective.init(None, None)
  params = {"objective": params}
  state = types.TrainState(
      jnp.zeros((), jnp.int32), params, optax.adam(0.1).init(params), memory,
      jax.random.key(0),
  )
  return specs(
      layout.Layout(mesh(**sizes), model.axes(NONE, objective)), state
  )


def test_an_objective_says_where_its_parameters_and_its_memory_live():
  found = placed(trains((PROTOTYPES, OF_QUEUE)), data=2, fsdp=2, model=2)
  assert found.params["objective"] == {
      "prototypes": PartitionSpec("fsdp", "model"),
      "log_scale": PartitionSpec(),  # A scalar needs no row.
  }
  assert found.opt_state[0].mu == found.params
  # Rows of a queue are where rows of a batch are.
  queue = PartitionSpec(None, ("data", "fsdp"), None)
  assert found.memory == {"queue": queue, "cursor": PartitionSpec()}
  alone = placed(trains((PROTOTYPES, OF_QUEUE)), data=4)
  assert alone.memory["queue"] == PartitionSpec(None, "data", None)


@pytest.mark.parametrize(("axes", "sentence"), [
    ((OF_QUEUE,), r"'params/objective/prototypes' of shape \(8, 12\) matches "
                  r"no row of its objective's axis table .* add a row"),
    ((("prototypes", ("vocab",)), OF_QUEUE), r"matches \('vocab',\) of its obj"),
    ((PROTOTYPES,), r"memory 'memory/queue' of shape \(3, 8, 4\) matches no "),
    ((PROTOTYPES, ("memory/queue", ("rows",))), r"queue' .* matches \('rows',"),
    ((PROTOTYPES, OF_QUEUE, ("log_scale", ("embed",))), "log_scale.* matches"),
    # Patterns match whole paths, all alternatives of them.
    ((("proto|types", ("embed", "vocab")), OF_QUEUE), "matches no row"),
])
def test_what_an_objective_gives_no_axes_is_refused(axes, sentence):
  # Replicated in silence, it would fill every device.
  with pytest.raises(ValueError, match=sentence):
    placed(trains(axes), fsdp=8)


def test_rows_of_a_queue_that_do_not_divide_are_reported_and_replicated(caplog):
  with caplog.at_level(logging.WARNING):
    found = placed(trains((PROTOTYPES, OF_QUEUE)), data=3, fsdp=2)
  assert found.memory["queue"] == PartitionSpec(None, None, None)
  said = [r.getMessage() for r in caplog.records if "queue" in r.getMessage()]
  assert len(said) == 1
  assert "'rows' of 8 is not divided by the 6 devices of 'data' x 'fsdp'" in said[0]


def test_each_mesh_axis_splits_an_array_once():
  both = (("memory/queue", ("embed", "rows", "projected")), PROTOTYPES)
  found = placed(trains(both), data=2, fsdp=3)  # 3 rows of embed over fsdp.
  assert found.memory["queue"] == PartitionSpec("fsdp", "data", None)


def test_statistics_of_a_classifier_live_where_it_does():
  objective = classification.classification(classes=CLASSES)
  shapes = {
      "params": {"objective": {
          "kernel": jnp.zeros((8, CLASSES)), "bias": jnp.zeros((CLASSES,)),
      }},
      "opt_state": {"rows": {"objective": {"kernel": jnp.zeros((8, 1))}}},
  }
  place = layout.Layout(
      mesh(data=2, fsdp=2, model=2), model.axes(NONE, objective))
  found = specs(place, shapes)
  assert found["params"]["objective"] == {
      "kernel": PartitionSpec("fsdp", "model"), "bias": PartitionSpec("model"),
  }
  moment = found["opt_state"]["rows"]["objective"]["kernel"]
  assert moment == PartitionSpec("fsdp", None)

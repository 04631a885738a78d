"""Rows stay where the batch is, and what a compiler does where nobody says so.

Memory and traffic are read from compiled programs, and nothing large is run.
"""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from basic.encoders import text_transformer, vit
from basic.planning import collectives
from basic.sharding import layout, row_sharding

ROWS = PartitionSpec(("data", "fsdp"))

TOWERS = {
    "text_transformer": text_transformer.text_transformer(
        vocab=64, length=64, width=64, depth=2, heads=1, dtype="float32"
    ),
    "vit": vit.vit(width=64, depth=2, heads=4, patch=8, dtype="float32"),
}
INPUTS = {
    "text_transformer": ((64, 64), jnp.int32),
    "vit": ((64, 64, 64, 3), jnp.float32),
}


def mesh(data=1, fsdp=1, model=1, kind=AxisType.Auto):
  return jax.make_mesh(
      (data, fsdp, model), layout.AXES, axis_types=(kind,) * 3,
      devices=jax.devices()[: data * fsdp * model],
  )


def placed(on, *spec):
  """An array [8 4] on a mesh."""
  x = np.arange(32.0, dtype=np.float32).reshape(8, 4)
  return jax.device_put(x, NamedSharding(on, PartitionSpec(*spec)))


def is_left_alone(x):
  """Whether the op hands back the very same array."""
  found = []
  jax.eval_shape(lambda x: found.append(row_sharding.keep_rows(x) is x), x)
  return found == [True]


def test_rows_are_placed_with_their_gradient_and_the_rest_is_free():
  on = mesh(2, 2, 2)
  with jax.set_mesh(on):
    # Rows come in one piece, the other axis split by hand.
    y, pull = jax.vjp(jax.jit(row_sharding.keep_rows), placed(on, None, "model"))
    bar, = pull(placed(on, None, "model"))
  for found in (y, bar):
    assert found.sharding.spec == PartitionSpec(("data", "fsdp"), "model")
    np.testing.assert_array_equal(found, placed(on))


def test_without_anything_to_constrain_the_array_is_left_alone():
  x = jnp.zeros((8, 4))
  assert is_left_alone(x)
  for sizes, alone in (((1, 1, 1), True), ((1, 1, 8), True), ((1, 8, 1), False)):
    with jax.set_mesh(mesh(*sizes)):
      assert is_left_alone(x) == alone, sizes
  with jax.set_mesh(mesh(4, 2)):
    # Batches that eight devices do not divide, and the row of `init`.
    assert is_left_alone(jnp.zeros((12, 4))) and is_left_alone(x[:1])


def test_manual_and_explicit_mesh_axes_are_left_alone():
  on = mesh(2, 2, 2, AxisType.Explicit)
  with jax.set_mesh(on):
    assert is_left_alone(placed(on))
  on, found = mesh(4, 2), []

  def note(x):
    found.append(is_left_alone(x))
    return row_sharding.keep_rows(x)

  with jax.set_mesh(on):
    for axes in ({"data", "fsdp", "model"}, {"data"}):
      part = PartitionSpec(("data",) if len(axes) == 1 else ("data", "fsdp"))
      by_hand = jax.jit(jax.shard_map(
          note, in_specs=part, out_specs=part, axis_names=axes
      ))
      np.testing.assert_array_equal(by_hand(placed(on)), placed(on))
  # By hand along "data" alone, rows still lie along "fsdp".
  assert found == [True, False]


def test_it_works_under_loops_and_transformations():
  on = mesh(2, 2)
  ways = {
      "vmap": jax.vmap(row_sharding.keep_rows),
      "vmap columns": jax.vmap(row_sharding.keep_rows, 1, 1),
      "map": lambda x: jax.lax.map(row_sharding.keep_rows, x),
      "checkpoint": jax.checkpoint(row_sharding.keep_rows),
      "scan": lambda x: jax.lax.scan(
          lambda x, _: (row_sharding.keep_rows(x), None), x, None, 2
      )[0],
  }
  x = np.arange(64.0, dtype=np.float32).reshape(4, 8, 2)
  with jax.set_mesh(on):
    for name, way in ways.items():
      value, slope = jax.jit(
          lambda x, way=way: (way(x), jax.grad(lambda x: jnp.sum(way(x)**2))(x))
      )(x)
      np.testing.assert_array_equal(value, x, err_msg=name)
      np.testing.assert_array_equal(slope, 2 * x, err_msg=name)


def compiled(name, **sizes):
  """The gradient of a tower whose parameters are placed on a mesh."""
  encoder, (shape, dtype) = TOWERS[name], INPUTS[name]
  where = layout.Layout(mesh(**sizes), encoder.axes)
  x = jax.ShapeDtypeStruct(shape, dtype, sharding=where.rows)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), x)
  # As in a train state, where a path that no row matches is refused.
  shardings = where.place({"params": {name: shapes}})["params"][name]
  params = jax.tree.map(
      lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
      shapes, shardings,
  )

  def loss(params, x):
    return jnp.sum(jnp.square(encoder.apply(params, x, None).pooled))

  with where.context():
    step = checks.jit(jax.grad(loss), out_shardings=shardings)
    return step.lower(params, x).compile()


def measured(name, **sizes):
  """(bytes of temporaries on a device, bytes it sends, by kind)."""
  made = compiled(name, **sizes)
  sent = collectives.read(made.as_text(), 8).kinds
  return (
      made.memory_analysis().temp_size_in_bytes,
      {kind: traffic.bytes for kind, traffic in sent.items()},
  )


needs = functools.cache(measured)


def rows_law(name, memory, sent):
  """Split parameters take no more on a device, nor in sums, than copied ones."""
  copied_memory, copied_sent = needs(name, data=8)
  # A layer is gathered at a time, and the sums are of parameters' gradients.
  assert memory <= 1.1 * copied_memory
  assert sent["all-reduce"] <= 1.1 * copied_sent["all-reduce"]
  # Forward, backward, and once more at most: parameters, and no activations.
  assert sent["all-gather"] <= 3 / 2 * copied_sent["all-reduce"]


@pytest.mark.parametrize("name", TOWERS)
def test_split_parameters_leave_the_rows_split(name):
  rows_law(name, *needs(name, fsdp=8))


@pytest.mark.parametrize("name", TOWERS)
def test_rows_without_the_constraint_are_gathered(name, monkeypatch):
  # The fault that the law watches for: on all devices, activations of all rows.
  memory, sent = needs(name, fsdp=8)
  monkeypatch.setattr(row_sharding, "keep_rows", lambda x: x)
  all_memory, all_sent = measured(name, fsdp=8)
  with pytest.raises(AssertionError):
    rows_law(name, all_memory, all_sent)
  assert all_memory > 4 * memory
  assert all_sent["all-reduce"] > 40 * sent["all-reduce"]


def test_tensor_parallel_rows_are_shared_by_the_other_axes():
  # Half of the devices carry rows, and the other half splits their width.
  memory, _ = needs("vit", fsdp=4, model=2)
  assert memory <= 1.5 * needs("vit", data=8)[0]

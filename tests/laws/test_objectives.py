"""What every objective owes: laws over whatever is in `basic/objectives`."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import paths, types
from basic.engine import model
from basic.experiment import schema
from basic.sharding import layout

# Settings of each objective, with as much switched on as it has; and, for the
# edges, what its steepest use changes.
TINY = {
    "classification": (dict(classes=5, smoothing=0.1), {}),
    "sigmoid": (
        dict(scale=5.0, bias=-3.0, same="caption_id", tile=5),
        dict(scale=100.0),
    ),
    "softmax": (
        dict(scale=5.0, smoothing=0.1, distinct="caption_id", tile=5),
        dict(scale=100.0),
    ),
}

every = pytest.mark.parametrize("name", schema.plugins("objectives"))


@functools.cache
def build(name, **settings):
  if name not in TINY:
    pytest.fail(
        f"basic/objectives/{name}.py has no tiny settings: add a row for "
        f"{name!r} to TINY in tests/laws/test_objectives.py"
    )
  return schema.plugin("objectives", name)(**{**TINY[name][0], **settings})


def takes(name, setting):
  return schema.takes(schema.plugin("objectives", name), setting)


@every
def test_gradients_are_those_of_finite_differences(double, name):
  checks.gradient_law(build(name))


@every
def test_the_order_of_the_batch_means_nothing(double, name):
  checks.equivariance_law(build(name))


@every
@pytest.mark.parametrize(
    ("chunks", "noise"), [((2,), False), ((1, 2, 4), True)],
    ids=["quiet", "noisy"],
)
def test_cached_is_direct_whatever_the_chunks(double, name, chunks, noise):
  checks.cut_law(build(name), chunks, noise)


@every
@pytest.mark.parametrize("method", ["gather", "ring"])
def test_four_devices_give_the_numbers_of_one_and_compile_once(name, method):
  if not takes(name, "method"):
    if method == "ring":
      pytest.skip("there is one way only")
    return checks.placement_law(build(name), build(name))
  checks.placement_law(build(name), build(name, method=method))


@every
def test_the_edges_are_finite_and_those_of_float64(name):
  build(name)  # Says what to do where it has no row.
  checks.edge_law(build(name, **TINY[name][1]))


@every
def test_bfloat16_is_close_to_float32(name):
  exact, _ = checks.evaluate(build(name), checks.embedded())
  rough = [(build(name), checks.embedded(dtype=jnp.bfloat16))]
  if takes(name, "dtype"):
    rough += [(build(name, dtype="bfloat16"), checks.embedded())]
  for objective, z in rough:
    value, grads = checks.evaluate(objective, z)
    assert value.dtype == jnp.float32
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    # bfloat16 keeps 8 bits: a product is off by 0.4% of its factors.
    np.testing.assert_allclose(value, exact, rtol=0.01)


@every
def test_no_key_twice_is_the_same_bits(name):
  one, two = (checks.evaluate(build(name), checks.embedded()) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, one, two)


@every
def test_a_batch_of_one_is_finite(name):
  for leaf in jax.tree.leaves(
      checks.evaluate(build(name), checks.embedded(rows=1))
  ):
    assert np.isfinite(leaf).all()


@every
def test_types_are_promoted_knowingly_and_metrics_are_flat_scalars(name):
  objective, z = build(name), checks.embedded()
  params, memory = checks.begin(objective, z)
  with jax.numpy_dtype_promotion("strict"):
    value, (after, metrics) = jax.eval_shape(
        objective.apply, params, memory, z, jax.random.key(0)
    )
  assert (value.shape, value.dtype) == ((), jnp.float32)
  for metric, found in metrics.items():
    assert isinstance(metric, str)
    assert (found.shape, found.dtype) == ((), jnp.float32), metric
  shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (memory, after))
  assert shapes[0] == shapes[1], "what it remembers changed its shape"


@every
def test_parameters_are_float32_and_known_from_shapes_alone(name):
  objective = build(name)
  params, _ = checks.begin(objective, checks.embedded())
  again, _ = checks.begin(objective, checks.embedded(seed=1))
  for one, two in zip(
      jax.tree.leaves(params), jax.tree.leaves(again), strict=True
  ):
    assert one.dtype == jnp.float32
    np.testing.assert_array_equal(one, two)


@every
def test_every_array_has_logical_axes(name):
  # As strict as for encoders: without a row, a large one would be replicated.
  objective = build(name)
  table = model.axes(
      types.Model(lambda *args: {}, types.Encode({}, lambda batch: {}), ()),
      objective,
  )
  params, memory = checks.begin(objective, checks.embedded())
  where = layout.Layout(checks.line(4), table)
  where.place({"params": {"objective": params}, "memory": memory})
  paths_of_rows = [pattern for pattern, _ in objective.axes]
  assert len(set(paths_of_rows)) == len(paths_of_rows)
  for pattern, _ in objective.axes:  # None is left over from an earlier name.
    known = paths.flatten({**params, "memory": memory})
    assert any(map(paths.any_of((pattern,)), known)), pattern


@every
def test_logits_are_known_from_the_parameters_or_there_are_none(name):
  objective = build(name)
  params, _ = checks.begin(objective, checks.embedded())
  if objective.logits is None:
    return
  for number in jax.tree.map(jnp.asarray, objective.logits(params)):
    assert number.shape == () and np.isfinite(number)


def test_an_objective_without_settings_is_told_where_to_add_them():
  with pytest.raises(pytest.fail.Exception, match="add a row for 'margin'"):
    build("margin")


@pytest.mark.parametrize(("name", "setting"), [
    ("classification", "label"), ("sigmoid", "same"), ("softmax", "distinct"),
])
def test_a_field_that_the_batch_lacks_is_named_beside_those_it_has(name, setting):
  z = checks.embedded()
  objective = build(name, **{setting: "absent"})
  with pytest.raises(ValueError, match=r"'absent' .* which has .*'caption_id'"):
    objective.apply(*checks.begin(objective, z), z, None)

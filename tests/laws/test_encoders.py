"""What every encoder owes: laws over whatever is in `basic/encoders`."""

import functools
import itertools
import re

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import towers

from basic import paths, types
from basic.planning import flops

SWAP = np.array([2, 0, 3, 1])
# Where a row stands decides how a processor blocks its sums: some 500 terms
# deep for features of size 1. What another row could do is of order one.
PLACED = dict(rtol=0, atol=checks.rounding(512))


@functools.cache
def encode(name):
  """(inputs, keys or None) -> pooled, compiled once a name."""
  encoder = towers.build(name)
  apply = towers.jit(lambda p, x, keys: encoder.apply(p, x, keys).pooled)
  return functools.partial(apply, towers.params(name))


def check_rows(encode, x, other, keys=None, other_keys=None):
  """Row 1 must not feel that all other rows, and their keys, change."""
  mixed = other.at[1].set(x[1])
  if keys is not None:
    other_keys = other_keys.at[1].set(keys[1])
  one, two = encode(x, keys), encode(mixed, other_keys)
  assert not np.allclose(one[0], two[0])
  np.testing.assert_allclose(one[1], two[1], **PLACED)


def check_axes(shapes, axes):
  """Each path matches one row, which names as many axes as there are."""
  for path, leaf in paths.flatten(shapes).items():
    found = [names for row, names in axes if re.fullmatch(row, path)]
    assert len(found) == 1, f"{path} {leaf.shape} matches {found}"
    assert len(found[0]) == leaf.ndim, f"{path} {leaf.shape}: {found[0]}"


@towers.every
def test_params_are_a_plain_dict_known_from_shapes_alone(name):
  encoder, x = towers.build(name), towers.inputs(name)
  known = jax.eval_shape(encoder.init, jax.random.key(0), x)
  spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
  from_spec = jax.eval_shape(lambda k: encoder.init(k, spec), jax.random.key(0))
  real = towers.params(name)
  assert type(real) is dict and all(
      type(node) is dict or isinstance(node, jax.Array)
      for node in real.values()
  )
  shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), real)
  for shape in (known, from_spec):
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shape) == shapes
  assert {leaf.dtype for leaf in jax.tree.leaves(real)} == {jnp.dtype("float32")}


@towers.every
def test_every_parameter_has_one_row_of_axes(name):
  encoder = towers.build(name)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), towers.inputs(name))
  check_axes(shapes, encoder.axes)


@towers.every
def test_paths_are_lower_case_nouns(name):
  for path in paths.flatten(towers.params(name)):
    assert re.fullmatch(r"[a-z][a-z0-9]*([_/][a-z][a-z0-9]*)*", path), path


@towers.every
def test_a_row_does_not_feel_the_others(name):
  check_rows(encode(name), towers.inputs(name), towers.inputs(name, seed=1))


@towers.every
def test_a_noisy_row_does_not_feel_the_others(name):
  check_rows(
      encode(name), towers.inputs(name), towers.inputs(name, seed=1),
      towers.row_keys(), towers.row_keys(1),
  )


@towers.every
@pytest.mark.parametrize(
    "keys", [None, towers.row_keys()], ids=["quiet", "noisy"]
)
def test_permuting_rows_permutes_embeddings(name, keys):
  x = towers.inputs(name)
  swapped = None if keys is None else keys[SWAP]
  np.testing.assert_allclose(
      encode(name)(x[SWAP], swapped), encode(name)(x, keys)[SWAP],
      **PLACED,
  )


@towers.every
def test_no_key_no_noise(name):
  x = towers.inputs(name)
  one, two = encode(name)(x, None), encode(name)(x, None)
  assert one.dtype == jnp.float32 and np.isfinite(one).all()
  np.testing.assert_array_equal(one, two)


@towers.every
def test_noise_is_the_keys(name):
  x = towers.inputs(name)
  one = encode(name)(x, towers.row_keys())
  np.testing.assert_array_equal(one, encode(name)(x, towers.row_keys()))
  assert not np.allclose(one, encode(name)(x, towers.row_keys(1)))
  assert not np.allclose(one, encode(name)(x, None))


@towers.every
def test_bfloat16_is_close_to_float32(name):
  encoder, x = towers.build(name, dtype="bfloat16"), towers.inputs(name)
  exact = encode(name)(x, None)
  rough = towers.jit(encoder.apply)(towers.params(name), x, None).pooled
  assert rough.dtype == jnp.float32 and np.isfinite(rough).all()
  error = jnp.linalg.norm(rough - exact) / jnp.linalg.norm(exact)
  # 4e-3 a rounding, three or four roundings a layer, up to 26 layers.
  assert 0 < error < 0.1


@towers.every
def test_padding_changes_nothing(name):
  if towers.TINY[name][1] != "text":
    pytest.skip("images have no padding")
  x = towers.inputs(name)
  longer = jnp.pad(x, ((0, 0), (0, 2)))
  np.testing.assert_allclose(
      encode(name)(x, None), encode(name)(longer, None),
      **PLACED,  # The same terms, and some zeros.
  )


def remat_loss(name, policy):
  """A loss of the parameters alone, under noise."""
  encoder, x = towers.build(name, remat=policy), towers.inputs(name)
  keys = towers.row_keys(impl="unsafe_rbg")
  return lambda p: jnp.sum(jnp.sin(3 * encoder.apply(p, x, keys).pooled))


@functools.cache
def remat_gradient(name, policy):
  return towers.jit(jax.grad(remat_loss(name, policy)))(towers.params(name))


# The compiler spends half a minute on the gradient of a convolutional tower.
SLOW = {"clip_resnet", "coatnet", "resnet"}
QUICK = {(name, "full") for name in towers.NAMES if name not in SLOW}


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(towers.NAMES, ("full", "products"))
    ],
)
def test_remat_does_not_change_the_gradient(name, policy):
  plain = jax.tree.leaves(remat_gradient(name, "none"))
  again = jax.tree.leaves(remat_gradient(name, policy))
  scale = max(jnp.abs(leaf).max() for leaf in plain)
  for one, two in zip(plain, again, strict=True):
    # Recomputed in other fusions: sums of 4 rows, 16 tokens and 64 units.
    np.testing.assert_allclose(
        one, two, rtol=0, atol=checks.rounding(84, size=scale)
    )


@towers.every
def test_remat_keeps_less(name):
  def kept(policy):
    loss = remat_loss(name, policy)
    residuals = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], shapes)
    return sum(leaf.size for leaf in jax.tree.leaves(residuals))

  shapes = jax.eval_shape(
      towers.build(name).init, jax.random.key(0), towers.inputs(name)
  )
  assert kept("full") < kept("products") < kept("none")


# Blocks enough for what they keep to outweigh the one that is worked on.
DEEP = {
    "clip_resnet": dict(depths=(6, 1, 1, 1)),
    "coatnet": dict(depths=(1, 4, 1, 4, 1)),
    "resnet": dict(depth=50),
    "text_transformer": dict(depth=3),
    "vit": dict(depth=3),
}
# Stored statistics make a norm an affine map, which the compiler computes where
# it is used anyway: there is nothing between products to recompute.
AFFINE = {"clip_resnet"}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name in towers.NAMES
])
def test_memory_falls_over_the_policies_and_products_are_not_repeated(name):
  shape = towers.inputs(name).shape
  x = jax.ShapeDtypeStruct((16, *shape[1:]), towers.inputs(name).dtype)

  def cost(policy):
    encoder = towers.build(name, remat=policy, **DEEP.get(name, {}))
    params = jax.eval_shape(encoder.init, jax.random.key(0), x)
    step = jax.grad(lambda p, x: jnp.sum(encoder.apply(p, x, None).pooled**2))
    memory = towers.jit(step).lower(params, x).compile().memory_analysis()
    return memory.temp_size_in_bytes, flops.count(step, params, x).flops

  (most, work), (some, same), (least, more) = map(
      cost, ("none", "products", "full")
  )
  assert least < 0.97 * some
  assert some < (1.03 if name in AFFINE else 0.8) * most
  # Three passes of products; one forward again makes four.
  assert same == work and 1.1 * work < more <= 4 / 3 * work


def test_an_encoder_without_tiny_settings_is_told_where_to_add_them():
  with pytest.raises(pytest.fail.Exception, match="add a row for 'coda'"):
    towers.build("coda")


def test_batch_statistics_break_the_law_of_rows():
  x = jnp.arange(12.0).reshape(4, 3)
  with pytest.raises(AssertionError):
    check_rows(lambda x, keys: x - x.mean(0, keepdims=True), x, 2 * x)


@pytest.mark.parametrize(
    "axes",
    [
        (),
        (("kernel", ("embed",)),),
        (("kernel", ("embed", "mlp")), ("k.*", ("embed", "mlp"))),
    ],
    ids=["no row", "too few names", "two rows"],
)
def test_a_wrong_axis_table_breaks_the_law_of_axes(axes: types.AxisTable):
  with pytest.raises(AssertionError):
    check_axes({"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}, axes)

"""The shared block under noise: which draws are apart, and how often."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from basic.encoders import _transformer

ROWS = 16
X = jnp.zeros((ROWS, 3, 4))
KEYS = jax.random.split(jax.random.key(0), ROWS)


def block(layer, keys=KEYS, **rates):
  """What a block adds whose two branches are 1 everywhere without noise."""
  rates = {"dropout": 0.0, "stochastic_depth": 0.0, **rates}
  module = _transformer.Block(depth=3, heads=2, mlp=8, dtype="float32", **rates)
  apply = functools.partial(
      jax.jit, compiler_options={"xla_backend_optimization_level": 0}
  )(lambda params, layer: module.apply(params, X, layer, None, keys)[0])
  known = jax.eval_shape(
      lambda key: module.init(key, X, jnp.int32(0), None, None),
      jax.random.key(0),
  )
  params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), known)
  for branch in ("attention", "mlp"):
    ones = jnp.ones_like(params["params"][branch]["out"]["bias"])
    params["params"][branch]["out"]["bias"] = ones
  return np.asarray(apply(params, jnp.int32(layer)))


def test_without_keys_both_branches_are_added():
  found = block(2, keys=None, dropout=0.5, stochastic_depth=0.5)
  np.testing.assert_array_equal(found, 2)


def test_layers_draw_apart():
  assert not np.array_equal(block(0, dropout=0.5), block(1, dropout=0.5))


def test_the_branches_of_a_block_draw_apart():
  # One draw for both would leave 0 and 4 alone.
  assert set(np.unique(block(0, dropout=0.5))) == {0, 2, 4}
  assert len(np.unique(block(2, stochastic_depth=0.5))) == 3


def test_the_first_layer_is_never_skipped_and_the_last_as_often_as_said():
  np.testing.assert_array_equal(block(0, stochastic_depth=0.75), 2)
  middle, last = (block(n, stochastic_depth=0.75) for n in (1, 2))
  # A branch that stays is divided by its chance to stay: 5/8, then 1/4.
  assert set(np.unique(middle)) <= {np.float32(n) for n in (0, 1.6, 3.2)}
  assert set(np.unique(last)) <= {0, 4, 8}
  # 32 draws: five standard deviations are 0.38.
  assert abs((last.mean(axis=(1, 2)) / 8).mean() - 0.25) < 0.38


def test_dropout_and_stochastic_depth_draw_apart():
  # What depth keeps, dropout still thins.
  found = block(2, dropout=0.5, stochastic_depth=0.5)
  assert set(np.unique(found)) == {0, 4, 8}

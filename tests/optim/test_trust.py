"""LAMB and LARS against optax, and trust ratios of stacked layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from basic import optim, paths

SHAPES = {
    "image/mlp/kernel": (4, 3), "image/mlp/bias": (3,),
    "objective/log_scale": (), "text/zero": (2,),
}
CONSTANT = dict(steps=99, schedule="constant", clip=None)
MASK = {"image": {"mlp": {"kernel": True, "bias": False}},
        "objective": {"log_scale": False}, "text": {"zero": True}}


def tree(seed, shapes):
  draw = np.random.default_rng(seed)
  return paths.unflatten({
      p: jnp.asarray(draw.standard_normal(s), jnp.float32)
      for p, s in shapes.items()})


def walk(tx, grads, params):
  state, update = tx.init(params), jax.jit(tx.update)
  for grad in grads:
    updates, state = update(grad, state, params)
    params = optax.apply_updates(params, updates)
  return paths.flatten(params)


def start():
  params = tree(99, SHAPES)
  params["text"]["zero"] = jnp.zeros(2)  # a norm of zero: no trust ratio
  return params


def agree(found, expected):
  for path in SHAPES:
    # float32, ten steps
    np.testing.assert_allclose(found[path], expected[path], 2e-6, 1e-6)


def test_lamb_equals_that_of_optax():
  grads = [tree(n, SHAPES) for n in range(10)]
  ours = optim.lamb(**CONSTANT, peak=.1, decay=.2, no_decay=())
  agree(
      walk(ours.tx, grads, start()),
      walk(optax.lamb(.1, weight_decay=.2), grads, start()))


def test_lars_equals_that_of_optax_with_biases_exempt():
  grads = [tree(n, SHAPES) for n in range(10)]
  ours = optim.lars(**CONSTANT, peak=.5, decay=.2, trust_coefficient=.1, momentum=.8)
  theirs = optax.lars(
      .5, weight_decay=.2, weight_decay_mask=MASK, trust_coefficient=.1,
      trust_ratio_mask=MASK, momentum=.8)
  agree(walk(ours.tx, grads, start()), walk(theirs, grads, start()))


def test_without_weight_decay_lamb_updates_as_adamw_does():
  grads = [tree(n, SHAPES) for n in range(5)]
  settings = dict(CONSTANT, peak=.1, decay=.2, b2=.99, eps=1e-6)
  lamb = walk(optim.lamb(**settings).tx, grads, start())
  adamw = walk(optim.adamw(**settings).tx, grads, start())
  same = {p for p in SHAPES if np.array_equal(lamb[p], adamw[p])}
  assert same == {"image/mlp/bias", "objective/log_scale"}


@pytest.mark.parametrize("factory", [optim.lamb, optim.lars])
def test_each_layer_of_a_stack_has_its_own_trust_ratio(factory):
  optimizer = factory(**CONSTANT, peak=.1, decay=.2)
  grads = [tree(n, {"blocks/kernel": (3, 4, 5)}) for n in range(4)]
  params = tree(99, {"blocks/kernel": (3, 4, 5)})
  params["blocks"]["kernel"] *= jnp.array([1., 10., 100.])[:, None, None]
  stacked = walk(optimizer.tx, grads, params)["blocks/kernel"]
  for n in range(3):
    alone = walk(
        optimizer.tx, [{"kernel": g["blocks"]["kernel"][n]} for g in grads],
        {"kernel": params["blocks"]["kernel"][n]})["kernel"]
    np.testing.assert_allclose(stacked[n], alone, rtol=1e-6)  # float32


def test_learning_rate_multipliers_come_after_the_trust_ratio():
  shapes = {"image/kernel": (4, 3)}
  grads, params = [tree(0, shapes)], tree(99, shapes)
  for factory in (optim.lamb, optim.lars):
    moved = [
        walk(factory(**CONSTANT, peak=.5, lr_multipliers=rates).tx, grads, params)[
            "image/kernel"] - params["image"]["kernel"]
        for rates in ((), (("image/.*", .5),))
    ]
    # float32 differences of numbers of size one
    np.testing.assert_allclose(moved[1], moved[0] / 2, rtol=1e-3, atol=1e-6)

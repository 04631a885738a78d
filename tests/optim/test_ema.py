"""The EMA of the parameters against its sum, and that evaluations use it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from basic import optim, paths, types
from basic.engine import carry
from basic.experiment import schema

START = {"image": {"kernel": jnp.arange(6.).reshape(2, 3)},
         "text": {"bias": jnp.ones(2)}}


def run(optimizer, steps, params=START):
  """Weights after each update, and the last state."""
  state, update, seen = optimizer.tx.init(params), jax.jit(optimizer.tx.update), []
  for n in range(steps):
    grads = jax.tree.map(lambda p, n=n: jnp.sin(p + n), params)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    seen.append(params)
  return seen, state


def train_state(opt_state, params):
  return types.TrainState(
      jnp.int32(0), params, opt_state, (), jax.random.key(0))


@pytest.mark.parametrize("decay", [.5, .9, .9999])
def test_the_ema_is_the_weighted_mean_of_the_parameters_after_each_update(decay):
  seen, state = run(optim.sgd(steps=9, peak=.3, ema_decay=decay), 7)
  weights = decay ** np.arange(6., -1., -1.)
  found = paths.flatten(optim.ema_params(state))
  for path, leaf in found.items():
    past = np.stack([np.asarray(paths.flatten(w)[path], float) for w in seen])
    expected = np.tensordot(weights, past, 1) / weights.sum()
    # float32, seven steps
    np.testing.assert_allclose(leaf, expected, rtol=1e-6)


def test_after_one_update_the_ema_equals_the_parameters():
  seen, state = run(optim.adamw(steps=9, ema_decay=.9999), 1)
  for a, w in zip(
      jax.tree.leaves(optim.ema_params(state)), jax.tree.leaves(seen[0]),
      strict=True):
    np.testing.assert_allclose(a, w, rtol=1e-6)  # float32, one product


@pytest.mark.parametrize(
    "name", ["adafactorw", "adamw", "lamb", "lars", "lion", "sgd"])
def test_every_optimizer_can_keep_an_ema_without_changing_its_updates(name):
  factory = schema.member(optim, name, optim.Optimizer)
  plain, state = run(factory(steps=9), 3)
  assert optim.ema_params(state) is None
  with_one, averaged = run(factory(steps=9, ema_decay=.9), 3)
  for a, b in zip(
      jax.tree.leaves((plain, state)),
      jax.tree.leaves((with_one, averaged.inner)), strict=True):
    # the compiler may fuse differently, so bits may differ
    np.testing.assert_allclose(
        np.asarray(a, float), np.asarray(b, float), rtol=1e-6, atol=1e-9)
  assert optim.ema_params(averaged) is not None


def test_evaluations_use_ema_parameters_and_frozen_parameters():
  frozen = {"image": {"stem": jnp.full(3, 7.)}, "objective": {}}
  seen, opt_state = run(optim.sgd(steps=9, peak=.3, ema_decay=.5), 2)
  params = {
      "image": {**frozen["image"], **seen[-1]["image"]},
      "objective": {}, "text": seen[-1]["text"]}
  found = optim.evaluation_params(train_state(opt_state, params))
  assert jax.tree.structure(found) == jax.tree.structure(params)
  average = optim.ema_params(opt_state)
  assert found["image"]["stem"] is params["image"]["stem"]
  assert found["image"]["kernel"] is average["image"]["kernel"]
  assert found["text"]["bias"] is average["text"]["bias"]
  assert not np.array_equal(found["text"]["bias"], params["text"]["bias"])


def test_without_an_ema_evaluations_use_the_parameters():
  _, opt_state = run(optim.sgd(steps=9), 1)
  state = train_state(opt_state, START)
  assert optim.evaluation_params(state) is state.params


def test_before_the_first_update_evaluations_use_the_parameters():
  tx = optim.sgd(steps=9, ema_decay=.5).tx
  new = train_state(tx.init(START), START)
  old = train_state((), jax.tree.map(lambda p: p + 5., START))
  begun = carry.carry(old, new, optimizer=False)
  assert optim.evaluation_params(begun) is begun.params
  assert begun.params["text"]["bias"][0] == 6.


def test_a_state_with_an_ema_can_be_donated():
  tx = optim.sgd(steps=9, ema_decay=.5).tx
  params, state = jax.jit(lambda p: (p, tx.init(p)))(START)

  def move(params, state):
    updates, state = tx.update(params, state, params)
    return optax.apply_updates(params, updates), state

  update = jax.jit(move, donate_argnums=(0, 1))
  params, state = update(*update(params, state))
  assert int(state.count) == 2


def test_updates_need_the_parameters():
  tx = optim.with_ema(optax.sgd(.1), .5)
  with pytest.raises(ValueError, match="ema_decay needs parameters"):
    tx.update(START, tx.init(START))

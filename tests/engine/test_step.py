"""A step goes down the gradient, and a stage goes on where one ended."""

import dataclasses
import itertools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from basic import gradient, optim, paths, types
from basic.engine import carry, model, step
from basic.objectives import softmax

NET = toys.two_towers(dropout=0.4)
OBJECTIVE = softmax.softmax(scale=5.0)
DESCENT = optim.sgd(steps=10, peak=0.5, momentum=0.9, schedule="constant").tx
ADAM = optim.adamw(steps=10, clip=None).tx


def begin(tx=DESCENT, objective=OBJECTIVE, frozen=(), seed=0):
  fresh = step.fresh(NET, objective, tx, frozen=frozen)
  return fresh(jax.random.key(seed), toys.batch(8))


def take(state, steps=1, tx=DESCENT, objective=OBJECTIVE, frozen=()):
  """States and metrics of some steps on one batch."""
  way = gradient.direct(NET.encode, objective, frozen=frozen)
  update = checks.jit(step.update(way, tx, frozen=frozen))
  states, seen = [state], []
  for _ in range(steps):
    state, metrics = update(state, toys.batch(8))
    states.append(state)
    seen.append(metrics)
  return states, seen


def test_the_first_state_is_complete_and_a_function_of_the_key():
  one, two, other = begin(), begin(), begin(seed=1)
  assert int(one.step) == 0 and one.step.dtype == jnp.int32
  assert list(one.params) == ["image", "objective", "text"]
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
  kernels = [s.params["image"]["projection"]["kernel"] for s in (one, other)]
  assert not np.allclose(*kernels)
  # The steps' noise is not drawn from what drew the parameters.
  assert not np.array_equal(
      jax.random.key_data(one.rng), jax.random.key_data(jax.random.key(0))
  )


def test_nothing_is_computed_to_know_the_shapes():
  shapes = jax.eval_shape(
      step.fresh(NET, OBJECTIVE, ADAM), jax.random.key(0),
      {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in toys.batch(8).items()},
  )
  real = begin(ADAM)
  assert jax.tree.map(lambda a: (a.shape, a.dtype), real) == jax.tree.map(
      lambda a: (a.shape, a.dtype), shapes
  )


def test_steps_follow_descent_with_momentum():
  states, metrics = take(begin(), steps=2)
  way = jax.jit(gradient.direct(NET.encode, OBJECTIVE))
  trace = jax.tree.map(np.zeros_like, jax.device_get(states[0].params))
  for n, (before, after) in enumerate(itertools.pairwise(states)):
    rng = jax.random.fold_in(before.rng, n)
    (value, _), grads = way(before.params, (), toys.batch(8), rng)
    np.testing.assert_allclose(metrics[n]["loss"], value, rtol=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics[n]["gradient_norm"], norm, rtol=1e-5)
    trace = jax.tree.map(lambda m, g: 0.9 * m + np.asarray(g), trace, grads)
    expected = jax.tree.map(
        lambda w, m: np.asarray(w) - 0.5 * m, before.params, trace
    )
    assert toys.far(after.params, expected) <= 1e-5  # float32
    assert int(after.step) == n + 1
    assert np.array_equal(*(jax.random.key_data(s.rng) for s in (before, after)))


def test_each_step_draws_its_own_noise_and_draws_it_again():
  still = optim.sgd(steps=10, peak=1e-30).tx
  _, one = take(begin(still), steps=2, tx=still)
  _, two = take(begin(still), steps=2, tx=still)
  assert one[0]["loss"] != one[1]["loss"]
  assert [m["loss"] for m in one] == [m["loss"] for m in two]


def remembering():
  """An objective that counts how often it was asked."""

  def apply(params, memory, embedded, rng):
    value, (_, metrics) = OBJECTIVE.apply(params, (), embedded, rng)
    return value, ({"asked": memory["asked"] + 1}, metrics)

  return types.Objective(
      lambda rng, shapes: (OBJECTIVE.init(rng, shapes)[0], {"asked": jnp.zeros(())}),
      apply,
  )


def test_the_memory_of_the_objective_is_updated_with_the_state():
  objective = remembering()
  states, _ = take(begin(objective=objective), steps=2, objective=objective)
  assert [float(s.memory["asked"]) for s in states] == [0, 1, 2]


FROZEN = ("image/.*", "text/encoder/in/kernel")


def test_frozen_parameters_stay_bit_for_bit_and_have_no_optimizer_state():
  first = begin(ADAM, frozen=FROZEN)
  states, _ = take(first, steps=3, tx=ADAM, frozen=FROZEN)
  before, after = (paths.flatten(s.params) for s in (states[0], states[-1]))
  frozen = paths.any_of(FROZEN)
  assert list(before) == list(after)
  for path in before:
    same = np.array_equal(before[path], after[path])
    assert same == frozen(path), path
  slots = {
      jax.tree_util.keystr(path, simple=True, separator="/")
      for path, _ in jax.tree_util.tree_leaves_with_path(states[-1].opt_state)
  }
  for path in before:
    own = [slot for slot in slots if slot.endswith(f"/{path}")]
    assert len(own) == (0 if frozen(path) else 2), path


def test_a_pattern_that_freezes_nothing_is_refused_in_words():
  with pytest.raises(ValueError, match=r"'images/.*' .* matches no parameter"):
    begin(frozen=("image/.*", "images/.*"))


def test_a_stage_goes_on_with_what_was_learned():
  frozen = ("image/.*",)
  states, _ = take(begin(ADAM, frozen=frozen), 2, ADAM, frozen=frozen)
  old, new = states[-1], begin(ADAM, seed=1)
  carried = carry.carry(old, new, optimizer=False)
  jax.tree.map(np.testing.assert_array_equal, carried.params, old.params)
  assert int(carried.step) == 2
  assert np.array_equal(*(jax.random.key_data(s.rng) for s in (carried, old)))
  # Its slots are new, for all that trains now.
  assert jax.tree.structure(carried.opt_state) == jax.tree.structure(
      new.opt_state
  )
  for leaf in jax.tree.leaves(carried.opt_state):
    assert not np.any(leaf)
  # What it loses first is what the stage before would have lost next.
  quiet = jax.jit(gradient.direct(NET.encode, OBJECTIVE))
  one, two = (
      quiet(s.params, (), toys.batch(8), None)[0][0] for s in (old, carried)
  )
  assert one == two


def test_the_same_optimizer_goes_on_with_its_state():
  states, _ = take(begin(ADAM), 2, ADAM)
  carried = carry.carry(states[-1], begin(ADAM, seed=1), optimizer=True)
  jax.tree.map(
      np.testing.assert_array_equal, carried.opt_state, states[-1].opt_state
  )
  straight, _ = take(states[-1], 1, ADAM)
  resumed, _ = take(carried, 1, ADAM)
  jax.tree.map(
      np.testing.assert_array_equal, straight[-1].params, resumed[-1].params
  )


def test_memory_goes_on_where_its_shapes_are_the_same():
  objective = remembering()
  (_, old), _ = take(begin(objective=objective), objective=objective)
  new = begin(objective=objective, seed=1)
  assert carry.carry(old, new, optimizer=False).memory == {"asked": 1.0}
  other = carry.carry(old, begin(seed=1), optimizer=False)
  assert other.memory == ()


def curve(chunks, steps):
  """The losses of 256 pairs that are overfit."""
  net = model.model(
      {"image": toys.tower(256, 32), "text": toys.tower(256, 32)}
  )
  batch = {
      k: v for k, v in toys.batch(256).items() if k in ("image", "text")
  }
  tx = optim.adamw(steps=steps, peak=1e-2, schedule="constant", decay=0.0).tx
  objective = softmax.softmax(scale=10.0)
  state = step.fresh(net, objective, tx)(jax.random.key(0), batch)
  params = toys.double(state.params)
  state = dataclasses.replace(state, params=params, opt_state=tx.init(params))
  way = gradient.cached(net.encode, objective, chunks=chunks)
  update = checks.jit(step.update(way, tx))
  losses = []
  for _ in range(steps):
    state, metrics = update(state, batch)
    losses.append(float(metrics["loss"]))
  return losses


def test_256_pairs_are_overfit_alike_in_chunks_and_at_once(double):
  chunked, whole = curve(8, 60), curve(1, 60)
  # Adam keeps its mean in float32, and what is rounded there grows with steps.
  np.testing.assert_allclose(chunked, whole, rtol=1e-6)
  assert chunked[0] > np.log(256) - 1 and chunked[-1] < 0.05

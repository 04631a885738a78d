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
from basic.engine import model, step
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
  carried = step.carry(old, new, optimizer=False)
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
  carried = step.carry(states[-1], begin(ADAM, seed=1), optimizer=True)
  jax.tree.map(
      np.testing.assert_array_equal, carried.opt_state, states[-1].opt_state
  )
  straight, _ = take(states[-1], 1, ADAM)
  resumed, _ = take(carried, 1, ADAM)
  jax.tree.map(
      np.testing.assert_array_equal, straight[-1].params, resumed[-1].params
  )


def state(params, memory=(), opt_state=()):
  """A state of step 3."""
  return types.TrainState(
      jnp.int32(3), params, opt_state, memory, jax.random.key(0)
  )


def test_another_objective_begins_anew_and_towers_may_come_and_go():
  old, new = begin(), begin(seed=1)
  params = {
      "image": old.params["image"], "audio": {"encoder": {"kernel": jnp.ones(3)}},
      # Of another objective: the bias of a classifier, not that of a sigmoid.
      "objective": {"bias": jnp.ones(5), "kernel": jnp.ones((8, 5))},
  }
  after = {**new.params, "objective": {"bias": jnp.zeros(())}}
  carried = step.carry(state(params), state(after), optimizer=False)
  for name, expected in (("image", params), ("text", after), ("objective", after)):
    jax.tree.map(
        np.testing.assert_array_equal, carried.params[name], expected[name]
    )
  assert carried.params.keys() == after.keys()


def tower(**leaves):
  return {"image": {"encoder": leaves}}


LOST = {
    "a shape": (
        tower(kernel=jnp.ones(3)), tower(kernel=jnp.zeros(4)),
        r"image/encoder/kernel: \[3\] before, \[4\] in this stage",
    ),
    "positions of another width": (
        tower(positions=jnp.ones((3, 3, 2))), tower(positions=jnp.ones((4, 4, 3))),
        r"image/encoder/positions: \[3, 3, 2\] before, \[4, 4, 3\] in this",
    ),
    "a parameter that is gone": (
        tower(kernel=jnp.ones(3), bias=jnp.ones(3)), tower(kernel=jnp.zeros(3)),
        "image/encoder/bias: only the stage before has it",
    ),
    "a parameter that is new": (
        tower(kernel=jnp.ones(3)), tower(kernel=jnp.ones(3), bias=jnp.ones(3)),
        "image/encoder/bias: only this stage has it",
    ),
    "classes": (
        {"objective": {"kernel": jnp.ones((2, 3))}},
        {"objective": {"kernel": jnp.ones((2, 4))}},
        r"objective/kernel: \[2, 3\] before",
    ),
}


@pytest.mark.parametrize("what", LOST)
def test_what_would_be_lost_is_listed_and_refused_unless_it_is_said(what):
  before, after, sentence = LOST[what]
  old, new = state(before), state(after)
  with pytest.raises(ValueError, match=f"(?s)cannot go on with .*{sentence}"):
    step.carry(old, new, optimizer=False)
  with pytest.raises(ValueError, match=sentence):
    step.check_carry(*jax.eval_shape(lambda: (old, new)))
  # Said by a pattern, exactly what it matches starts anew.
  path = sentence.split(":")[0]
  carried = step.carry(old, new, optimizer=False, fresh=(path,))
  found, known = paths.flatten(carried.params), paths.flatten(before)
  for name, leaf in paths.flatten(after).items():
    expected = leaf if name == path else known[name]
    np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_a_parameter_that_would_fit_starts_anew_where_it_is_said():
  tx = optim.adamw(steps=9, peak=1e-2, clip=None).tx
  before, after = tower(a=jnp.ones(3), b=jnp.ones(3)), tower(
      a=jnp.zeros(3), b=jnp.zeros(3))
  moved = jax.tree.map(lambda x: x + 7, tx.init(before))
  carried = step.carry(
      state(before, opt_state=moved), state(after, opt_state=tx.init(after)),
      optimizer=True, fresh=("image/encoder/a",),
  )
  assert float(carried.params["image"]["encoder"]["a"][0]) == 0
  assert float(carried.params["image"]["encoder"]["b"][0]) == 1
  moments = {
      jax.tree_util.keystr(path, simple=True, separator="/"): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(carried.opt_state)
  }
  of_a = [x for path, x in moments.items() if path.endswith("encoder/a")]
  of_b = [x for path, x in moments.items() if path.endswith("encoder/b")]
  assert len(of_a) == len(of_b) == 2
  assert not any(map(np.any, of_a)) and all(map(np.all, of_b))


@pytest.mark.parametrize("pattern", ["image/encoder/kernl", "kernel", "("])
def test_a_pattern_that_starts_nothing_anew_is_refused(pattern):
  old = state(tower(kernel=jnp.ones(3)))
  with pytest.raises(ValueError, match=r"matches no parameter|not a regular expr"):
    step.carry(old, old, optimizer=False, fresh=(pattern,))


def test_learned_positions_of_another_size_go_on_with_moments_and_average():
  tx = optim.adamw(
      steps=9, peak=1e-2, clip=None, ema_decay=0.9, mu_dtype="float32").tx
  draw = np.random.default_rng(0)
  shapes = {"grid": ((3, 3, 4), (4, 5, 4)), "text": ((4, 2), (6, 2))}

  def made(n):
    leaves = {
        name: jnp.asarray(draw.normal(size=shape[n]), jnp.float32)
        for name, shape in shapes.items()
    }
    return {
        "image": {"encoder": {"positions": leaves["grid"]}},
        "text": {"encoder": {"positions": leaves["text"]}},
    }

  before, after = made(0), made(1)
  opt_state = tx.init(before)
  for _ in range(2):
    _, opt_state = tx.update(made(0), opt_state, before)
  carried = step.carry(
      state(before, opt_state=opt_state), state(after, opt_state=tx.init(after)),
      optimizer=True,
  )

  def resized(old, new):
    """By the definition: bilinear over the grid; rows of a text, then new ones."""
    return {
        "image/encoder/positions": jax.image.resize(
            old["image/encoder/positions"], (4, 5, 4), "bilinear", antialias=True
        ),
        "text/encoder/positions": jnp.concatenate([
            old["text/encoder/positions"], new["text/encoder/positions"][4:]
        ]),
    }

  def check(found, old, new):
    found, old, new = map(paths.flatten, (found, old, new))
    for path, expected in resized(old, new).items():
      np.testing.assert_allclose(found[path], expected, rtol=1e-6, atol=1e-7)

  check(carried.params, before, after)
  # The EMA of new positions of the text begins with them, and not at zero.
  check(optim.ema_params(carried.opt_state), optim.ema_params(opt_state), after)
  moments = [
      x for x in jax.tree.leaves(
          (opt_state, carried.opt_state), is_leaf=lambda x: hasattr(x, "mu")
      ) if hasattr(x, "mu")
  ]
  zeros = jax.tree.map(jnp.zeros_like, after)
  for name in ("mu", "nu"):
    old, found = (getattr(m, name) for m in moments)
    check(found, old, zeros)
  assert int(moments[1].count) == 2


def test_the_average_of_a_new_parameter_begins_with_it():
  tx = optim.adamw(steps=9, peak=1e-2, clip=None, ema_decay=0.9).tx
  before = tower(kernel=jnp.ones(3))
  _, opt_state = tx.update(before, tx.init(before), before)
  after = {**tower(kernel=jnp.zeros(3)), "text": {"kernel": jnp.full(2, 5.0)}}
  carried = step.carry(
      state(before, opt_state=opt_state), state(after, opt_state=tx.init(after)),
      optimizer=True,
  )
  average = optim.ema_params(carried.opt_state)
  np.testing.assert_array_equal(average["text"]["kernel"], 5.0)
  np.testing.assert_array_equal(
      average["image"]["encoder"]["kernel"],
      optim.ema_params(opt_state)["image"]["encoder"]["kernel"],
  )


def test_memory_of_another_shape_is_refused_unless_it_is_said():
  small, large = (
      state({}, {"queue": jnp.full((2, n, 4), n), "cursor": jnp.int32(n)})
      for n in (8, 16)
  )
  sentence = r"memory/queue: \[2, 8, 4\] before, \[2, 16, 4\] in this stage"
  with pytest.raises(ValueError, match=sentence):
    step.carry(small, large, optimizer=False)
  carried = step.carry(small, large, optimizer=False, fresh=("memory/.*",))
  # All of it: a cursor into a queue that is gone would mean nothing.
  jax.tree.map(np.testing.assert_array_equal, carried.memory, large.memory)
  carried = step.carry(small, small, optimizer=False)
  jax.tree.map(np.testing.assert_array_equal, carried.memory, small.memory)


def test_memory_goes_on_where_its_shapes_are_the_same():
  objective = remembering()
  (_, old), _ = take(begin(objective=objective), objective=objective)
  new = begin(objective=objective, seed=1)
  assert step.carry(old, new, optimizer=False).memory == {"asked": 1.0}
  other = step.carry(old, begin(seed=1), optimizer=False)
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

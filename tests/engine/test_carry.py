"""What a stage keeps of the one before it, and what may not be lost."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import optim, paths, types
from basic.engine import carry


def state(params, memory=(), opt_state=()):
  """A state of step 3."""
  return types.TrainState(
      jnp.int32(3), params, opt_state, memory, jax.random.key(0)
  )


def test_another_objective_begins_anew_and_towers_may_come_and_go():
  params = {
      "image": tower(kernel=jnp.ones(3))["image"],
      "audio": {"encoder": {"kernel": jnp.ones(3)}},
      # Of another objective: the bias of a classifier, not that of a sigmoid.
      "objective": {"bias": jnp.ones(5), "kernel": jnp.ones((8, 5))},
  }
  after = {
      "image": tower(kernel=jnp.zeros(3))["image"],
      "text": {"encoder": {"kernel": jnp.full(3, 2.0)}},
      "objective": {"bias": jnp.zeros(())},
  }
  carried = carry.carry(state(params), state(after), optimizer=False)
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
    carry.carry(old, new, optimizer=False)
  with pytest.raises(ValueError, match=sentence):
    carry.check(*jax.eval_shape(lambda: (old, new)))
  # Said by a pattern, exactly what it matches starts anew.
  path = sentence.split(":")[0]
  carried = carry.carry(old, new, optimizer=False, fresh=(path,))
  found, known = paths.flatten(carried.params), paths.flatten(before)
  for name, leaf in paths.flatten(after).items():
    expected = leaf if name == path else known[name]
    np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_a_parameter_that_would_fit_starts_anew_where_it_is_said():
  tx = optim.adamw(steps=9, peak=1e-2, clip=None).tx
  before, after = tower(a=jnp.ones(3), b=jnp.ones(3)), tower(
      a=jnp.zeros(3), b=jnp.zeros(3))
  moved = jax.tree.map(lambda x: x + 7, tx.init(before))
  carried = carry.carry(
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
    carry.carry(old, old, optimizer=False, fresh=(pattern,))


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
  carried = carry.carry(
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


@pytest.mark.parametrize(("least", "said"), [(5, True), (2, False), (9, False)])
def test_optimizer_state_that_cannot_go_on_is_named(caplog, least, said):
  tx = optim.adafactorw(
      steps=9, peak=1e-2, clip=None, min_dim_size_to_factor=least).tx

  def made(rows):
    return {"text": {"encoder": {"positions": jnp.ones((rows, 8))}}}

  before, after = made(4), made(6)
  _, opt_state = tx.update(before, tx.init(before), before)
  carry.carry(
      state(before, opt_state=opt_state), state(after, opt_state=tx.init(after)),
      optimizer=True,
  )
  found = [record.getMessage() for record in caplog.records]
  assert bool(found) == said
  if said:
    assert "starts anew" in found[0] and "rows/text/encoder/positions" in found[0]


def test_the_average_of_a_new_parameter_begins_with_it():
  tx = optim.adamw(steps=9, peak=1e-2, clip=None, ema_decay=0.9).tx
  before = tower(kernel=jnp.ones(3))
  _, opt_state = tx.update(before, tx.init(before), before)
  after = {**tower(kernel=jnp.zeros(3)), "text": {"kernel": jnp.full(2, 5.0)}}
  carried = carry.carry(
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
    carry.carry(small, large, optimizer=False)
  carried = carry.carry(small, large, optimizer=False, fresh=("memory/.*",))
  # All of it: a cursor into a queue that is gone would mean nothing.
  jax.tree.map(np.testing.assert_array_equal, carried.memory, large.memory)
  carried = carry.carry(small, small, optimizer=False)
  jax.tree.map(np.testing.assert_array_equal, carried.memory, small.memory)

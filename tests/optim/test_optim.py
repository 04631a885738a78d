"""Optimizers against loops in NumPy float64, and what patterns select."""

import re

import checks
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from basic import optim, paths

SHAPES = {
    "image/blocks/mlp/in/kernel": (3, 4),
    "image/blocks/mlp/in/bias": (4,),
    "image/positions": (2, 3),
    "text/embedding": (5, 2),
    "text/norm/scale": (2,),
    "objective/log_scale": (),
}
DECAYED = ("image/blocks/mlp/in/kernel", "text/embedding")


def tree(seed, size=1.):
  draw = np.random.default_rng(seed)
  return {p: size * draw.standard_normal(s) for p, s in SHAPES.items()}


def single(leaves):
  return paths.unflatten(
      {p: jnp.asarray(x, jnp.float32) for p, x in leaves.items()})


def run(optimizer, grads, start):
  """Parameters after each update, by path, and the last state."""
  params = single(start)
  state = optimizer.tx.init(params)
  update = jax.jit(optimizer.tx.update)
  seen = []
  for grad in grads:
    updates, state = update(single(grad), state, params)
    params = optax.apply_updates(params, updates)
    seen.append({p: np.asarray(x) for p, x in paths.flatten(params).items()})
  return seen, state


def clipped(grad, clip):
  norm = np.sqrt(sum(np.sum(g**2) for g in grad.values()))
  return {p: g * min(1., clip / norm) for p, g in grad.items()}


def warm_linear(step, peak, steps, warmup):
  if step < warmup:
    return peak * step / warmup
  return peak * (1 - (step - warmup) / (steps - warmup))


def multiplier(path):
  if path.startswith("image/blocks/"):
    return .5
  return 3. if path.startswith("image/") else 1.


RATES = (("image/blocks/.*", .5), ("image/.*", 3.))


def test_adamw_follows_its_equation_for_twenty_steps():
  # the gradients grow, so that the first are not clipped and the last are
  grads = [tree(n, size=.02 * (n + 1)) for n in range(20)]
  seen, _ = run(
      optim.adamw(
          steps=25, peak=.1, schedule="linear", warmup=4, b1=.8, b2=.95,
          eps=1e-6, decay=.2, clip=1., lr_multipliers=RATES),
      grads, tree(99))
  norms = [np.sqrt(sum(np.sum(g**2) for g in grad.values())) for grad in grads]
  assert min(norms) < 1 < max(norms)

  w = tree(99)
  m = {p: np.zeros(s) for p, s in SHAPES.items()}
  v = {p: np.zeros(s) for p, s in SHAPES.items()}
  for n, grad in enumerate(grads):
    grad = clipped(grad, 1.)
    rate = warm_linear(n, .1, 25, 4)
    for p, g in grad.items():
      m[p] = .8 * m[p] + .2 * g
      v[p] = .95 * v[p] + .05 * g**2
      u = m[p] / (1 - .8 ** (n + 1))
      u = u / (np.sqrt(v[p] / (1 - .95 ** (n + 1))) + 1e-6)
      decay = .2 if p in DECAYED else 0.
      w[p] = w[p] - rate * multiplier(p) * (u + decay * w[p])
    for p in SHAPES:
      # float32 over twenty steps of size 0.1: about 20 * 0.1 * 6e-8, times ten
      np.testing.assert_allclose(seen[n][p], w[p], rtol=2e-5, atol=2e-6)


def test_lion_follows_its_equation():
  grads = [tree(n) for n in range(6)]
  seen, _ = run(
      optim.lion(
          steps=10, peak=.01, schedule="linear", b1=.9, b2=.95, decay=.3,
          clip=None, lr_multipliers=RATES),
      grads, tree(99))
  w, m = tree(99), {p: np.zeros(s) for p, s in SHAPES.items()}
  for n, grad in enumerate(grads):
    rate = warm_linear(n, .01, 10, 0)
    for p, g in grad.items():
      u = np.sign(.9 * m[p] + .1 * g)
      m[p] = .95 * m[p] + .05 * g
      decay = .3 if p in DECAYED else 0.
      w[p] = w[p] - rate * multiplier(p) * (u + decay * w[p])
  for p in SHAPES:
    # float32, six steps
    np.testing.assert_allclose(seen[-1][p], w[p], rtol=1e-5, atol=1e-6)


def test_sgd_follows_its_equation():
  grads = [tree(n) for n in range(6)]
  seen, _ = run(
      optim.sgd(
          steps=10, peak=.1, schedule="linear", momentum=.7, decay=.3, clip=2.,
          lr_multipliers=RATES),
      grads, tree(99))
  w, m = tree(99), {p: np.zeros(s) for p, s in SHAPES.items()}
  for n, grad in enumerate(grads):
    rate = warm_linear(n, .1, 10, 0)
    for p, g in clipped(grad, 2.).items():
      m[p] = .7 * m[p] + g
      decay = .3 if p in DECAYED else 0.
      w[p] = w[p] - rate * multiplier(p) * (m[p] + decay * w[p])
  for p in SHAPES:
    # float32, six steps
    np.testing.assert_allclose(seen[-1][p], w[p], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "factory", [optim.adamw, optim.lion, optim.sgd, optim.adafactorw])
def test_without_gradient_weights_shrink_by_learning_rate_times_weight_decay(factory):
  optimizer = factory(steps=10, peak=.25, schedule="constant", decay=.5)
  start = tree(0)
  zero = {p: np.zeros(s) for p, s in SHAPES.items()}
  (after,), _ = run(optimizer, [zero], start)
  for p, x in single_leaves(start).items():
    kept = 1 - .25 * .5 if p in DECAYED else 1.
    # Products by powers of two are exact; the subtraction rounds, and once more
    # where the compiler does not fuse it.
    np.testing.assert_allclose(
        after[p], x * np.float32(kept), rtol=checks.rounding(2))
    assert p in DECAYED or np.array_equal(after[p], x)


def single_leaves(leaves):
  return {p: np.asarray(x) for p, x in paths.flatten(single(leaves)).items()}


def test_no_decay_exempts_paths_from_weight_decay():
  optimizer = optim.adamw(
      steps=10, peak=.5, schedule="constant", decay=.5,
      no_decay=(*optim.NO_DECAY, "text/embedding"))
  zero = {p: np.zeros(s) for p, s in SHAPES.items()}
  (after,), _ = run(optimizer, [zero], tree(0))
  start = single_leaves(tree(0))
  still = {p for p in SHAPES if np.array_equal(after[p], start[p])}
  assert still == set(SHAPES) - {"image/blocks/mlp/in/kernel"}


def test_of_an_objective_only_a_classifiers_kernel_has_weight_decay():
  params = {"objective": {
      name: jnp.ones(2) for name in ("kernel", "bias", "log_scale", "kernel_b")
  }}
  tx = optim.adamw(steps=10, peak=.5, schedule="constant", decay=.5).tx
  updates, _ = tx.update(
      jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  moved = {k for k, u in updates["objective"].items() if np.any(u)}
  assert moved == {"kernel"}


def test_the_reported_rate_is_the_rate_applied():
  optimizer = optim.sgd(steps=9, peak=.2, warmup=3, momentum=0., end=.1)
  one = {p: np.ones(s) for p, s in SHAPES.items()}
  seen, _ = run(optimizer, [one] * 9, {p: 0 * x for p, x in one.items()})
  moved = [float(x["objective/log_scale"]) for x in seen]
  rates = [float(optimizer.rate(n)) for n in range(9)]
  # float32 sums of nine terms
  np.testing.assert_allclose(moved, -np.cumsum(rates), rtol=1e-6)


@pytest.mark.parametrize("factory, slots", [
    (optim.adamw, 2), (optim.lion, 1), (optim.sgd, 1), (optim.lamb, 2),
    (optim.lars, 1), (optim.adafactorw, 2)])
def test_optimizer_state_repeats_the_parameter_paths(factory, slots):
  state = factory(steps=10, lr_multipliers=RATES).tx.init(single(tree(0)))
  found = [
      (jax.tree_util.keystr(keys, simple=True, separator="/"), leaf.shape)
      for keys, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
  ]
  for p, shape in SHAPES.items():
    assert [s for key, s in found if key.endswith(f"/{p}")] == [shape] * slots
  # whatever does not end in a parameter path is a counter
  assert all(
      shape == () for key, shape in found
      if not any(key.endswith(f"/{p}") for p in SHAPES))


def test_first_moment_in_bfloat16_stays_so_and_changes_little():
  grads = [tree(n) for n in range(10)]
  settings = dict(steps=20, peak=.01, schedule="constant", decay=0.)
  exact, _ = run(optim.adamw(**settings), grads, tree(99))
  seen, state = run(
      optim.adamw(**settings, mu_dtype="bfloat16"), grads, tree(99))
  names = {
      jax.tree_util.keystr(keys): leaf.dtype.name
      for keys, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}
  assert {d for key, d in names.items() if ".mu" in key} == {"bfloat16"}
  assert {d for key, d in names.items() if ".nu" in key} == {"float32"}
  start = single_leaves(tree(99))
  moved = np.concatenate([np.ravel(exact[-1][p] - start[p]) for p in SHAPES])
  wrong = np.concatenate([np.ravel(seen[-1][p] - exact[-1][p]) for p in SHAPES])
  # bfloat16 rounds by 2^-9; the root mean square of the error stays below 1%
  assert 0 < np.sqrt(np.mean(wrong**2)) < .01 * np.sqrt(np.mean(moved**2))


@pytest.mark.parametrize("settings", [
    dict(lr_multipliers=(("image/blocks", .5),)),  # not a whole path
    dict(lr_multipliers=(("image/.*", .5), ("vision/.*", .5))),
    dict(no_decay=(*optim.NO_DECAY, "text/embeding")),
])
def test_patterns_that_match_nothing_are_refused_at_init(settings):
  optimizer = optim.adamw(steps=10, **settings)
  (name, rows), = settings.items()
  pattern = rows[-1] if name == "no_decay" else rows[-1][0]
  with pytest.raises(
      ValueError, match=f"{re.escape(repr(pattern))} of {name} matches no"):
    optimizer.tx.init(single(tree(0)))


def test_default_patterns_may_match_nothing():
  params = {"image": {"kernel": jnp.ones(2)}}
  optim.adamw(steps=10).tx.init(params)


def test_empty_branches_and_shapes_alone_are_fine():
  tx = optim.adamw(steps=10, lr_multipliers=(("image/.*", 2.),)).tx
  params = {"image": {"kernel": jnp.ones(2)}, "objective": {}}
  shapes = jax.eval_shape(tx.init, params)
  assert jax.tree.structure(tx.init(params)) == jax.tree.structure(shapes)
  updates, _ = jax.eval_shape(tx.update, params, shapes, params)
  assert jax.tree.structure(updates) == jax.tree.structure(params)


def test_updates_need_the_parameters():
  tx = optim.sgd(steps=10).tx
  params = {"image": {"kernel": jnp.ones(2)}}
  with pytest.raises(ValueError, match="needs parameters"):
    tx.update(params, tx.init(params))


@pytest.mark.parametrize("factory, wrong, sentence", [
    (optim.adamw, dict(b1=1.), "b1 is 1.0"),
    (optim.adamw, dict(b2=-.1), "b2 is -0.1"),
    (optim.adamw, dict(eps=0.), "eps is 0.0"),
    (optim.adamw, dict(decay=-1.), "decay is -1.0"),
    (optim.adamw, dict(clip=0.), "clip is 0.0"),
    (optim.adamw, dict(warmup=-1), "warmup is -1"),
    (optim.adamw, dict(lr_multipliers=(("image/.*", 0.),)), "freeze them"),
    (optim.adamw, dict(lr_multipliers=(("image/.*",),)), "a row is"),
    (optim.lion, dict(b2=1.), "b2 is 1.0"),
    (optim.sgd, dict(momentum=1.), "momentum is 1.0"),
    (optim.lamb, dict(eps=-1.), "eps is -1.0"),
    (optim.lars, dict(trust_coefficient=0.), "trust_coefficient is 0.0"),
    (optim.adafactorw, dict(b1=1.), "b1 is 1.0"),
    (optim.adafactorw, dict(growth=0.), "growth is 0.0"),
    (optim.adafactorw, dict(min_dim_size_to_factor=0), "min_dim_size_to_factor is 0"),
    (optim.adafactorw, dict(eps=0.), "eps is 0.0"),
    (optim.adafactorw, dict(clip_rms=0.), "clip_rms is 0.0"),
    (optim.adamw, dict(ema_decay=1.), "ema_decay is 1.0"),
    (optim.lars, dict(ema_decay=0.), "ema_decay is 0.0"),
])
def test_settings_out_of_range_are_refused(factory, wrong, sentence):
  with pytest.raises(ValueError, match=sentence):
    factory(steps=10, **wrong)

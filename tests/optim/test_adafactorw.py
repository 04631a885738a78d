"""AdaFactorW against optax and NumPy, its optimizer state and its sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from basic import optim, paths, types
from basic.engine import checkpoint
from basic.sharding import layout

PLAIN = dict(
    steps=1_000, peak=1., schedule="constant", decay=0., clip=None,
    mu_dtype="float32")


def draws(shapes, steps, scale=1.):
  """Gradients whose rows and columns differ in size, as real ones do."""
  draw = np.random.default_rng(0)
  size = {p: np.exp(draw.standard_normal(s)) * scale for p, s in shapes.items()}
  return [
      paths.unflatten({
          p: jnp.asarray(size[p] * draw.standard_normal(s), jnp.float32)
          for p, s in shapes.items()})
      for _ in range(steps)
  ]


def ones(shapes):
  return paths.unflatten({p: jnp.ones(s) for p, s in shapes.items()})


def walk(tx, grads, params):
  """The updates of each step, and the last state."""
  state, update, seen = tx.init(params), jax.jit(tx.update), []
  for grad in grads:
    updates, state = update(grad, state, params)
    seen.append(paths.flatten(updates))
  return seen, state


SHAPES = {
    "wide": (10, 24), "tall": (24, 10), "three": (3, 12, 10),
    "split": (12, 3, 16), "small": (7, 40), "vector": (40,), "scalar": (),
}
FACTORED = {"wide", "tall", "three", "split"}


def test_a_hundred_steps_equal_optax_factored_rms():
  grads, params = draws(SHAPES, 100), ones(SHAPES)
  ours = optim.adafactorw(
      **PLAIN, b1=0., growth=.8, momentum="update", min_dim_size_to_factor=10).tx
  theirs = optax.scale_by_factored_rms(min_dim_size_to_factor=10)
  seen, state = walk(ours, grads, params)
  expected, known = walk(theirs, grads, params)
  for found, wanted in zip(seen, expected, strict=True):
    for path in SHAPES:
      # float32; an update is of size one
      np.testing.assert_allclose(-found[path], wanted[path], 1e-6, 1e-6)
  nu = state[1].nu
  assert set(nu.rows) == set(nu.columns) == FACTORED
  assert set(nu.full) == set(SHAPES) - FACTORED  # small ones are not factored
  for path in SHAPES:
    for mine, other in (
        (nu.rows, known.v_row), (nu.columns, known.v_col), (nu.full, known.v)):
      if path in mine:
        np.testing.assert_allclose(
            np.squeeze(mine[path]), np.squeeze(other[path]), rtol=1e-5)


def test_it_factors_from_128_as_optax_does_unless_told():
  shapes = {"a": (128, 130), "b": (127, 300)}
  state = optim.adafactorw(steps=1).tx.init(ones(shapes))
  assert set(state[1].nu.rows) == {"a"} and set(state[1].nu.full) == {"b"}


@pytest.mark.parametrize("growth", [None, .8])
@pytest.mark.parametrize("momentum", ["gradient", "update"])
@pytest.mark.parametrize("clip_rms", [None, .5])
def test_adams_and_adafactors_order_follow_their_equations(momentum, growth, clip_rms):
  b1, b2 = .9, .8
  shapes = {"w": (5, 4), "b": (3,)}
  grads = draws(shapes, 12)
  seen, _ = walk(
      optim.adafactorw(
          **PLAIN, b1=b1, b2=b2, growth=growth, momentum=momentum,
          clip_rms=clip_rms, min_dim_size_to_factor=4).tx,
      grads, ones(shapes))

  def limited(u):
    size = np.sqrt(np.mean(u**2))
    return u if clip_rms is None else u / max(1., size / clip_rms)

  for path in shapes:
    m, r, c, v = 0., 0., 0., 0.
    for t, grad in enumerate(grads, 1):
      g = np.asarray(grad[path], np.float64)
      b = (b2 - b2**t) / (1 - b2**t) if growth is None else min(b2, 1 - t**-growth)
      if path == "w":
        r = b * r + (1 - b) * np.mean(g**2 + 1e-30, axis=1)
        c = b * c + (1 - b) * np.mean(g**2 + 1e-30, axis=0)
        v = np.outer(r, c) / np.mean(r)
      else:
        v = b * v + (1 - b) * (g**2 + 1e-30)
      if momentum == "gradient":
        m = b1 * m + (1 - b1) * g
        u = limited(m / (1 - b1**t) / np.sqrt(v))
      else:
        m = u = b1 * m + (1 - b1) * limited(g / np.sqrt(v))
      # float32 over twelve steps of sums and roots
      np.testing.assert_allclose(-seen[t - 1][path], u, rtol=3e-6, atol=3e-6)


def test_unfactored_in_adams_order_it_is_adamw():
  grads, params = draws(SHAPES, 20), ones(SHAPES)
  settings = dict(steps=20, peak=.1, b1=.9, b2=.95, decay=.1)
  ours, _ = walk(
      optim.adafactorw(**settings, min_dim_size_to_factor=1_000, mu_dtype="float32").tx,
      grads, params)
  theirs, _ = walk(optim.adamw(**settings, eps=1e-20).tx, grads, params)
  for found, wanted in zip(ours, theirs, strict=True):
    for path in SHAPES:
      # float32; Adam's 1 - b2^t loses digits that ours keeps
      np.testing.assert_allclose(found[path], wanted[path], 1e-5, 1e-8)


@pytest.mark.parametrize("clip_rms", [None, .3])
@pytest.mark.parametrize("momentum", ["gradient", "update"])
def test_layers_of_a_stack_are_updated_independently(momentum, clip_rms):
  settings = dict(PLAIN, momentum=momentum, clip_rms=clip_rms, min_dim_size_to_factor=4)
  # more layers than columns: an axis of layers is never one of the two
  grads = draws({"blocks/kernel": (9, 5, 4)}, 5)
  stacked, state = walk(
      optim.adafactorw(**settings).tx, grads, ones({"blocks/kernel": (9, 5, 4)}))
  assert state[1].nu.rows["blocks"]["kernel"].shape == (9, 1, 4)
  for n in (0, 8):
    alone, _ = walk(
        optim.adafactorw(**settings).tx,
        [{"kernel": g["blocks"]["kernel"][n]} for g in grads],
        {"kernel": jnp.ones((5, 4))})
    for found, wanted in zip(stacked, alone, strict=True):
      # float32, the same operations in another order
      np.testing.assert_allclose(
          found["blocks/kernel"][n], wanted["kernel"], rtol=2e-6)


def test_a_gradient_of_zeros_moves_nothing():
  zeros = jax.tree.map(jnp.zeros_like, ones(SHAPES))
  for momentum in ("gradient", "update"):
    (updates,), _ = walk(
        optim.adafactorw(**PLAIN, momentum=momentum, min_dim_size_to_factor=10).tx,
        [zeros], ones(SHAPES))
    assert all(not np.any(u) for u in updates.values())


def test_optimizer_state_takes_two_bytes_a_weight_and_four_a_row_and_column():
  n, m = 256, 640
  shapes = jax.eval_shape(
      optim.adafactorw(steps=1).tx.init,
      {"kernel": jax.ShapeDtypeStruct((n, m), jnp.float32)})
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes[1]))
  assert size == 2 * n * m + 4 * (n + m) + 4  # and a counter


@pytest.mark.parametrize("momentum", ["gradient", "update"])
def test_a_first_moment_in_bfloat16_changes_updates_by_less_than_one_percent(momentum):
  grads, params = draws(SHAPES, 30), ones(SHAPES)
  settings = dict(PLAIN, momentum=momentum, min_dim_size_to_factor=10)
  exact, _ = walk(optim.adafactorw(**settings).tx, grads, params)
  settings["mu_dtype"] = "bfloat16"
  seen, state = walk(optim.adafactorw(**settings).tx, grads, params)
  assert {m.dtype.name for m in jax.tree.leaves(state[1].mu)} == {"bfloat16"}
  assert {v.dtype.name for v in jax.tree.leaves(state[1].nu)} == {"float32"}
  wanted = np.concatenate([np.ravel(x[p]) for x in exact for p in SHAPES])
  found = np.concatenate([np.ravel(x[p]) for x in seen for p in SHAPES])
  error = np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))
  assert 0 < error < .01  # 2^-9 a rounding


def test_optimizer_state_is_restored_bit_for_bit(tmp_path):
  params = ones(SHAPES)
  tx = optim.adafactorw(steps=10, min_dim_size_to_factor=10, ema_decay=.9).tx
  _, opt_state = walk(tx, draws(SHAPES, 2), params)
  state = types.TrainState(
      jnp.int32(2), params, opt_state, (), jax.random.key(0))
  fresh = types.TrainState(
      jnp.int32(0), params, tx.init(params), (), jax.random.key(1))
  with checkpoint.Checkpoints(tmp_path / "checkpoints", every=1) as checkpoints:
    checkpoints.save(2, state, {"examples": 2})
    found, _ = checkpoints.restore(fresh)
  assert jax.tree.structure(found) == jax.tree.structure(state)
  pairs = list(zip(
      jax.tree.leaves(found.opt_state), jax.tree.leaves(opt_state), strict=True))
  assert {a.dtype.name for a, _ in pairs} == {"bfloat16", "float32", "int32"}
  for a, b in pairs:
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_optimizer_state_is_sharded_like_the_weights():
  axes = (
      ("image/blocks/kernel", ("layers", "embed", "mlp")),
      ("image/bias", ("mlp",)),
  )
  where = layout.Layout(layout.mesh(data=2, fsdp=2, model=2), axes)
  shapes = {
      "image": {
          "blocks": {"kernel": jax.ShapeDtypeStruct((3, 8, 16), jnp.float32)},
          "bias": jax.ShapeDtypeStruct((16,), jnp.float32),
      },
      "objective": {"log_scale": jax.ShapeDtypeStruct((), jnp.float32)},
  }
  tx = optim.adafactorw(steps=1, min_dim_size_to_factor=8, ema_decay=.9).tx
  state = {"params": shapes, "opt_state": jax.eval_shape(tx.init, shapes)}
  specs = {
      jax.tree_util.keystr(keys, simple=True, separator="/"): tuple(s.spec)
      for keys, s in jax.tree_util.tree_flatten_with_path(where.place(state))[0]
  }
  slots = "opt_state/inner/1/"
  for tree in ("params/", "opt_state/average/", f"{slots}mu/"):
    assert specs[f"{tree}image/blocks/kernel"] == (None, "fsdp", "model")
    assert specs[f"{tree}image/bias"] == ("model",)
  # of size 1 where they are means, and split along what is left
  assert specs[f"{slots}nu/rows/image/blocks/kernel"] == (None, "fsdp", None)
  assert specs[f"{slots}nu/columns/image/blocks/kernel"] == (None, None, "model")
  assert specs[f"{slots}nu/full/image/bias"] == ("model",)
  assert specs[f"{slots}nu/full/objective/log_scale"] == ()


def test_sharded_updates_equal_those_of_one_device():
  axes = (("kernel", ("embed", "mlp")),)
  where = layout.Layout(layout.mesh(data=2, fsdp=2, model=2), axes)
  tx = optim.adafactorw(steps=9, min_dim_size_to_factor=8, peak=.1, ema_decay=.9).tx
  params = {"kernel": jnp.ones((8, 16))}
  (grad,) = draws({"kernel": (8, 16)}, 1)
  alone = jax.jit(tx.update)(grad, tx.init(params), params)
  state = tx.init(params)
  arguments = [jax.device_put(x, where.place(x)) for x in (grad, state, params)]
  split = jax.jit(tx.update)(*arguments)
  rows = split[1].inner[1].nu.rows["kernel"]
  assert rows.addressable_shards[0].data.shape == (4, 1)
  for a, b in zip(
      jax.tree.leaves(split), jax.tree.leaves(alone), strict=True):
    # float32 sums in another order; bfloat16 may fall on the other side
    rtol = 1e-2 if a.dtype == jnp.bfloat16 else 1e-6
    np.testing.assert_allclose(
        np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=rtol)

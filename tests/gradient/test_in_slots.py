"""A gradient that is summed chunk by chunk in the optimizer state."""

import checks
import jax
import numpy as np
import pytest
import toys

from basic import gradient, optim, paths, types
from basic.engine import model, step
from basic.objectives import softmax
from basic.ops import factored
from basic.sharding import layout

ROWS, CHUNKS, REPLICAS = 64, 4, 4
MODEL = toys.two_towers(dropout=.2)
OBJECTIVE = softmax.softmax(scale=10.)
SETTINGS = dict(
    steps=50, peak=1e-2, schedule="constant", clip=None, mu_dtype="float32",
    accumulate="slots")
# Toys are small, and their kernels get rows and columns all the same.
FACTORED = optim.adafactorw(min_dim_size_to_factor=8, **SETTINGS).tx
WHOLE = optim.adafactorw(min_dim_size_to_factor=1_000, **SETTINGS).tx


def place(**sizes):
  devices = jax.devices()[: int(np.prod(list(sizes.values())))]
  return layout.Layout(layout.mesh(devices, **sizes), MODEL.axes)


def begin(tx, where, net=MODEL, objective=OBJECTIVE):
  batch = toys.batch(ROWS)
  fresh = checks.jit(step.fresh(net, objective, tx))
  return fresh(jax.random.key(0), batch), where.shard(batch)


def run(way, tx, sizes, count=2, **settings):
  """The state after some steps, and the metrics of the last."""
  where = place(**sizes)
  with where.context():
    state, batch = begin(tx, where)
    gradients = getattr(gradient, way)(MODEL.encode, OBJECTIVE, **settings)
    update = checks.jit(step.update(gradients, tx))
    for _ in range(count):
      state, metrics = update(state, batch)
  return jax.device_get((state, metrics))


@pytest.mark.parametrize("chunks, sizes", [
    (CHUNKS, dict(data=REPLICAS)),
    ({"image": 4, "text": 1}, dict(data=2)),
    (1, dict(data=2, fsdp=2)),
], ids=["chunks", "of one view", "split parameters"])
def test_without_factored_moments_steps_equal_those_of_the_summed_gradient(
    chunks, sizes
):
  found, metrics = run("in_slots", WHOLE, sizes, chunks=chunks)
  expected, theirs = run("cached", WHOLE, sizes, chunks=chunks)
  # Sums of 64 rows in another order, in both passes and both steps.
  limit = checks.rounding(4 * ROWS)
  assert toys.far(found.params, expected.params) < limit
  assert toys.far(found.opt_state[1].mu, expected.opt_state[1].mu) < limit
  assert metrics["loss"] == pytest.approx(theirs["loss"], rel=limit)
  assert "gradient_norm" in theirs and "gradient_norm" not in metrics


def parts_of(state, batch):
  """The image tower's gradient by chunk and replica, [chunk replica ...] by path.

  One row at a time, from the definition: rows lie in blocks on the replicas,
  and chunk c of a replica holds every CHUNKS-th of its rows, from the c-th.
  """
  rng = jax.random.fold_in(state.rng, state.step)
  of_rows, _ = jax.random.split(rng)
  keys = gradient.row_keys(of_rows, ROWS)
  z = MODEL.encode(state.params, batch, keys)
  view, params = MODEL.encode.views["image"], state.params

  def loss(views):
    return OBJECTIVE.apply(
        params["objective"], (), types.Embedded(views, {}), None)[0]

  bars = jax.grad(loss)(z.views)["image"].pooled

  @jax.jit
  def pull(image, key, bar):
    _, back = jax.vjp(
        lambda p: view.apply(p, image[None], key[None]).pooled[0],
        params["image"])
    return back(bar)[0]

  found = {}
  for row in range(ROWS):
    mine = pull(batch["image"][row], keys[row], bars[row])
    replica, within = divmod(row, ROWS // REPLICAS)
    for path, leaf in paths.flatten(mine).items():
      shape = (CHUNKS, REPLICAS, *leaf.shape)
      sums = found.setdefault(path, np.zeros(shape))
      sums[within % CHUNKS, replica] += np.asarray(leaf, np.float64)
  return found


def test_rows_and_columns_are_the_estimate_from_chunks_and_replicas():
  state, _ = begin(FACTORED, place(data=1))
  parts = parts_of(state, toys.batch(ROWS))
  found, _ = run("in_slots", FACTORED, dict(data=REPLICAS), 1, chunks=CHUNKS)
  slots = found.opt_state[1]
  for path, part in parts.items():
    c = part.sum(1)
    spread = ((part**2).sum(1) - c**2 / REPLICAS) * REPLICAS / (REPLICAS - 1)
    square = (CHUNKS * c**2 - (CHUNKS - 1) * spread).sum(0)
    shape = square.shape
    rows, columns = factored.axes(shape, 8)
    for kept, axis in ((slots.nu.rows, columns), (slots.nu.columns, rows)):
      # The first decay rate is 0: the state is the estimate of the first step.
      expected = square.mean(axis, keepdims=True)
      ours = paths.flatten(kept)[f"image/{path}"]
      scale = (part**2).sum((0, 1)).mean(axis)
      np.testing.assert_allclose(
          ours, expected, rtol=0, atol=1e-4 * scale.max())  # float32
    mean = paths.flatten(slots.mu)[f"image/{path}"]
    np.testing.assert_allclose(
        mean, .1 * c.sum(0), rtol=0,
        atol=checks.rounding(ROWS, size=np.abs(mean).max()))


def test_factored_steps_stay_near_those_of_the_summed_gradient():
  # The toys' text kernel has columns whose gradients all but vanish after the
  # first steps: a floor that forgets them divides the first moment by nothing.
  found, _ = run("in_slots", FACTORED, dict(data=REPLICAS), 8, chunks=CHUNKS)
  expected, _ = run("cached", FACTORED, dict(data=REPLICAS), 8, chunks=CHUNKS)
  start = paths.flatten(begin(FACTORED, place(data=1))[0].params)
  ours, theirs = map(paths.flatten, (found.params, expected.params))
  for path, before in start.items():
    a, b = np.ravel(ours[path] - before), np.ravel(theirs[path] - before)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert cosine > .8, path
    assert .5 < np.linalg.norm(a) / np.linalg.norm(b) < 2, path


def test_no_buffer_holds_the_summed_gradient():
  net = model.model(
      {n: toys.tower(hidden=4_096) for n in ("image", "text")}, width=8)
  size = 4 * 4_096 * (16 + 8)  # bytes of the image tower; the text's are fewer

  def temporaries(way):
    where = place(data=2)
    with where.context():
      state, batch = begin(FACTORED, where, net)
      gradients = getattr(gradient, way)(net.encode, OBJECTIVE, chunks=CHUNKS)
      compiled = jax.jit(
          step.update(gradients, FACTORED), donate_argnums=0
      ).lower(jax.device_put(state, where.everywhere), batch).compile(checks.HASTE)
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries("in_slots") <= temporaries("cached") - .5 * size


def refused(match, tx=WHOLE, encode=MODEL.encode, sizes=None, chunks=CHUNKS):
  where = place(**(sizes or dict(data=2)))
  with where.context(), pytest.raises(ValueError, match=match):
    state, batch = begin(tx, where)
    gradients = gradient.in_slots(encode, OBJECTIVE, chunks=chunks)
    jax.eval_shape(step.update(gradients, tx), state, batch)


@pytest.mark.parametrize("tx", [
    optim.adafactorw(steps=5, clip=None).tx,
    optim.adamw(steps=5, clip=None).tx,
    optim.lamb(steps=5, clip=None, ema_decay=.9).tx,
], ids=["adafactorw", "adamw", "lamb"])
def test_an_optimizer_that_needs_the_summed_gradient_refuses_chunks(tx):
  refused("chunk by chunk .* only adafactorw takes, with accumulate", tx)


@pytest.mark.parametrize("settings", [
    {}, dict(clip=None, momentum="update")], ids=["clipped", "AdaFactor's"])
def test_settings_that_need_the_summed_gradient_are_refused(settings):
  with pytest.raises(ValueError, match="need the whole gradient at once"):
    optim.adafactorw(steps=5, accumulate="slots", **settings)


def test_chunks_on_one_replica_are_refused():
  for sizes in (dict(data=1), dict(data=2, fsdp=2)):
    refused("1 replica shows no variance", FACTORED, sizes=sizes)


def test_rows_that_do_not_divide_are_refused():
  refused("64 does not divide into 5 chunks on each of 2", chunks=5)


def test_two_views_of_one_tower_are_refused():
  first = MODEL.encode.views["image"]
  twice = MODEL.encode._replace(views={"image": first, "again": first})
  refused(r"found {'image': 2, 'text': 0}", encode=twice)

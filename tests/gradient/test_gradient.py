"""Cached and direct gradients are the same numbers (laws 3; checks 1-3, 10)."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from basic import gradient, types
from basic.engine import model
from basic.objectives import sigmoid, softmax
from basic.planning import collectives, flops
from basic.sharding import layout, row_sharding

OBJECTIVES = {
    "softmax": softmax.softmax(smoothing=0.1, distinct="caption_id", tile=5),
    "sigmoid": sigmoid.sigmoid(bias=-2.0, tile=5),
}


def setting(rows, objective, dropout=0.4):
  net = toys.two_towers(dropout)
  batch = toys.batch(rows)
  params = net.init(jax.random.key(1), batch)
  phi, memory = objective.init(jax.random.key(2), None)
  return net, {**params, "objective": phi}, memory, batch


@pytest.mark.parametrize("chunks", [1, 2, 4, 16, {"image": 4}])
@pytest.mark.parametrize("rng", [None, 7])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_cached_equals_direct_in_float64(double, name, rng, chunks):
  objective = OBJECTIVES[name]
  net, params, memory, batch = setting(32, objective)
  params = toys.double(params)
  rng = rng and jax.random.key(rng)
  one = gradient.direct(net.encode, objective)
  two = gradient.cached(net.encode, objective, chunks=chunks)
  expected = jax.jit(one)(params, memory, batch, rng)
  found = jax.jit(two)(params, memory, batch, rng)
  # float64, sums of 32 rows in another order. The temperature is among them.
  assert toys.far(found, expected) <= 1e-12


@pytest.mark.parametrize("kept", [1, 3, 100])
def test_chunks_that_keep_their_activations_change_no_value(double, kept):
  objective = OBJECTIVES["softmax"]
  net, params, memory, batch = setting(32, objective)
  params = toys.double(params)
  rng = jax.random.key(3)
  expected = jax.jit(gradient.direct(net.encode, objective))(
      params, memory, batch, rng
  )
  # A chunk of 8 rows of a toy tower stores about 4 KiB.
  found = jax.jit(gradient.cached(
      net.encode, objective, chunks=4, keep_bytes=kept * 12_000
  ))(params, memory, batch, rng)
  assert toys.far(found, expected) <= 1e-12


@pytest.mark.parametrize("chunks", [1, 4, 16])
def test_cached_equals_direct_in_float32(chunks):
  objective = OBJECTIVES["softmax"]
  net, params, memory, batch = setting(64, objective)
  rng = jax.random.key(3)
  expected = jax.jit(gradient.direct(net.encode, objective))(
      params, memory, batch, rng
  )
  found = jax.jit(gradient.cached(net.encode, objective, chunks=chunks))(
      params, memory, batch, rng
  )
  assert toys.far(found, expected) <= checks.rounding(64)  # rows


def test_averaging_the_losses_of_microbatches_is_wrong(double):
  # Negative control: each row's softmax needs the columns of all chunks.
  objective = softmax.softmax()
  net, params, memory, batch = setting(64, objective, dropout=0.0)
  params = toys.double(params)
  whole = jax.jit(gradient.direct(net.encode, objective))
  expected = whole(params, memory, batch, None)[1]

  def part(k):
    return whole(params, memory, jax.tree.map(lambda a: a[k::4], batch), None)

  parts = [part(k)[1] for k in range(4)]
  averaged = jax.tree.map(lambda *g: sum(g) / 4, *parts)
  assert toys.far(averaged, expected) > 0.1


def test_noise_of_a_row_does_not_depend_on_the_chunks():
  net, params, _, batch = setting(16, OBJECTIVES["sigmoid"])
  keys = gradient.row_keys(jax.random.key(0), 16)
  whole = net.encode(params, batch, keys)
  part = net.encode(
      params, jax.tree.map(lambda a: a[3::4], batch), keys[3::4]
  )
  # Sums of 16 pixels, 16 units and 8 features, of order one.
  np.testing.assert_allclose(
      part.views["image"].pooled, whole.views["image"].pooled[3::4],
      rtol=0, atol=checks.rounding(40),
  )
  quiet = net.encode(params, batch, None)
  assert not np.allclose(quiet.views["image"].pooled, whole.views["image"].pooled)


def counting(net, counts):
  """The model, counting how often each view is traced forward."""

  def counted(name, view):
    def apply(params, inputs, keys):
      counts[name] = counts.get(name, 0) + 1
      return view.apply(params, inputs, keys)

    return view._replace(apply=apply)

  views = {name: counted(name, view) for name, view in net.encode.views.items()}
  return net.encode._replace(views=views)


def test_a_frozen_tower_has_no_second_pass_and_no_gradient(double):
  objective = OBJECTIVES["softmax"]
  net, params, memory, batch = setting(32, objective)
  params = toys.double(params)
  rng, counts = jax.random.key(0), {}
  encode = counting(net, counts)
  frozen = ("image/.*",)
  (value, _), grads = jax.jit(gradient.cached(
      encode, objective, chunks=4, frozen=frozen
  ))(params, memory, batch, rng)
  assert counts == {"image": 1, "text": 1}  # the second pass is not traced
  (full, _), all_grads = jax.jit(gradient.direct(net.encode, objective))(
      params, memory, batch, rng
  )
  np.testing.assert_allclose(value, full, rtol=1e-12)
  assert sorted(grads) == ["objective", "text"]
  assert toys.far(grads["text"], all_grads["text"]) <= 1e-12
  direct = jax.eval_shape(
      gradient.direct(net.encode, objective, frozen=frozen),
      params, memory, batch, rng,
  )[1]
  assert jax.tree.structure(direct) == jax.tree.structure(grads)


@pytest.mark.parametrize("trains", ["image", "text"])
def test_only_a_tower_that_trains_is_encoded_twice(trains):
  objective = OBJECTIVES["softmax"]
  net, params, memory, batch = setting(32, objective)
  other = {"image": "text", "text": "image"}[trains]

  def work(way, **settings):
    way = way(net.encode, objective, frozen=(f"{other}/.*",), **settings)
    return flops.count(way, params, memory, batch, None).flops

  view = net.encode.views[trains]
  forward = flops.count(view.apply, params[trains], batch[trains], None).flops
  more = work(gradient.cached, chunks=4) - work(gradient.direct)
  # No derivative needs the last product, and it is left out.
  assert forward / 2 < more <= forward


def test_part_of_a_tower_can_be_frozen(double):
  objective = OBJECTIVES["softmax"]
  net, params, memory, batch = setting(32, objective)
  params = toys.double(params)
  frozen = (".*/in/kernel", "objective/.*")
  found, expected = (
      jax.jit(way)(params, memory, batch, None)
      for way in (
          gradient.cached(net.encode, objective, chunks=4, frozen=frozen),
          gradient.direct(net.encode, objective, frozen=frozen),
      )
  )
  assert "in" not in found[1]["image"]["encoder"] and "objective" not in found[1]
  assert toys.far(found, expected) <= 1e-12


def test_two_views_of_one_tower_add_their_gradients(double):
  net = model.model(
      {"image": toys.tower(dropout=0.3)}, width=8,
      views={"crop a": "image", "crop b": "image"},
  )
  batch = {
      "crop a": toys.batch(16)["image"], "crop b": toys.batch(16, 1)["image"]
  }
  objective = softmax.softmax(views=("crop a", "crop b"))
  phi, memory = objective.init(jax.random.key(2), None)
  params = toys.double({**net.init(jax.random.key(0), batch), "objective": phi})
  rng = jax.random.key(1)
  found, expected = (
      jax.jit(way)(params, memory, batch, rng)
      for way in (
          gradient.cached(
              net.encode, objective, chunks={"crop a": 4, "crop b": 2}
          ),
          gradient.direct(net.encode, objective),
      )
  )
  assert toys.far(found, expected) <= 1e-12


def deep(depth=8, width=256):
  """A tower whose activations are far larger than its parameters."""

  def init(rng, inputs):
    return {"kernel": jax.random.normal(rng, (width, width)) * width**-0.5}

  def apply(params, inputs, keys):
    h = inputs.astype(jnp.float32)
    for _ in range(depth):
      h = jnp.tanh(h @ params["kernel"])
    return types.Features(h[:, :8])

  return types.Encoder(init, apply, ((".*kernel", ("embed", "mlp")),))


def temporaries(rows, chunks, keep_bytes=0):
  """Compiled temporary bytes of a gradient; chunks 0: direct."""
  net = model.model({"image": deep(), "text": deep()})
  objective = softmax.softmax(tile=64)
  way = (
      gradient.cached(
          net.encode, objective, chunks=chunks, keep_bytes=keep_bytes
      )
      if chunks else gradient.direct(net.encode, objective)
  )
  batch = {
      name: jax.ShapeDtypeStruct((rows, 256), jnp.float32)
      for name in ("image", "text")
  }
  params = jax.eval_shape(net.init, jax.random.key(0), batch)
  phi, memory = objective.init(jax.random.key(0), None)
  compiled = jax.jit(lambda p, b: way(p, memory, b, None)).lower(
      {**params, "objective": phi}, batch
  ).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_activations_of_a_chunk_do_not_depend_on_the_batch():
  # 256 rows a chunk. What grows are the embeddings and their gradients; a copy
  # of the batch would be 2,048 bytes a row, activations 16,384.
  small, large = temporaries(1_024, 4), temporaries(4_096, 16)
  per_row = 2 * 2 * 8 * 4
  assert large - small <= per_row * (4_096 - 1_024)
  assert large < temporaries(4_096, 0) / 3


def test_kept_activations_use_their_budget_and_no_more():
  # A chunk of 256 rows stores 8 layers x 2 x 256 KiB = 4 MiB.
  none, some, most = (
      temporaries(2_048, 8, mib * 2**20) for mib in (0, 28, 56)
  )
  slack = 2 * 2**20  # what the chunk that is worked on takes anyway
  assert none + 16 * 2**20 < some <= none + 28 * 2**20 + slack
  assert some + 16 * 2**20 < most <= none + 56 * 2**20 + slack


def summed(chunks, rows=32, keep_bytes=0):
  """All-reduces of a step on four copies of the parameters; chunks 0: direct."""
  objective = OBJECTIVES["softmax"]
  net, params, memory, batch = setting(rows, objective)
  way = (
      gradient.cached(
          net.encode, objective, chunks=chunks, keep_bytes=keep_bytes
      )
      if chunks else gradient.direct(net.encode, objective)
  )
  where = layout.Layout(layout.mesh(jax.devices()[:4]), net.axes)
  with where.context():
    params = jax.device_put(params, where.everywhere)
    made = jax.jit(lambda p, b: way(p, memory, b, jax.random.key(0))).lower(
        params, where.shard(batch)
    ).compile()
  return collectives.read(made.as_text(), 4).kinds["all-reduce"]


@pytest.mark.parametrize("keep_bytes", [0, 20_000, 10**6])
def test_gradients_are_summed_over_devices_once_a_step(keep_bytes):
  assert summed(4, keep_bytes=keep_bytes) == summed(0)


@pytest.mark.parametrize("keep_bytes", [12_000, 30_000])
def test_a_budget_is_that_of_all_devices_together(keep_bytes):
  # What is kept is not encoded again, so the work saved tells how much is.
  objective = OBJECTIVES["softmax"]
  net, params, memory, batch = setting(32, objective)

  def saved():
    none, some = (
        flops.count(
            gradient.cached(net.encode, objective, chunks=4, keep_bytes=kept),
            params, memory, batch, jax.random.key(0),
        ).flops
        for kept in (0, keep_bytes)
    )
    return none - some

  alone = saved()
  with layout.Layout(layout.mesh(jax.devices()[:4]), net.axes).context():
    assert saved() == alone > 0


def test_without_by_replica_gradients_are_summed_for_every_chunk(monkeypatch):
  # The fault that the test above watches for, planted.
  monkeypatch.setattr(row_sharding, "by_replica", lambda f, multiple: f)
  # Three times more, of what is not the loss's own.
  assert summed(4).bytes > 2 * summed(0).bytes
  assert summed(4).runs > summed(0).runs


def test_rows_that_the_replicas_do_not_divide_are_encoded_together():
  # Two rows a chunk, four devices: slow, and the same numbers.
  objective = OBJECTIVES["softmax"]
  net, params, memory, batch = setting(8, objective)
  way = gradient.cached(net.encode, objective, chunks=4)
  rng = jax.random.key(3)
  expected = jax.jit(way)(params, memory, batch, rng)
  where = layout.Layout(layout.mesh(jax.devices()[:4]), net.axes)
  with where.context():
    found = jax.jit(way)(params, memory, where.shard(batch), rng)
    found = jax.block_until_ready(found)
  # 8 rows through towers of 16 pixels, 16 units and 8 features.
  assert toys.far(jax.device_get(found), expected) <= checks.rounding(48)


@pytest.mark.parametrize("chunks, sentence", [
    (5, "a batch of 32 does not divide into 5 chunks"),
    (0, "it takes 1 or more"),
    ({"images": 2}, r"names 'images'; the views are \['image', 'text'\]"),
])
def test_chunks_that_do_not_fit_are_refused_in_words(chunks, sentence):
  objective = OBJECTIVES["sigmoid"]
  net, params, memory, batch = setting(32, objective)
  with pytest.raises(ValueError, match=sentence):
    gradient.cached(net.encode, objective, chunks=chunks)(
        params, memory, batch, None
    )

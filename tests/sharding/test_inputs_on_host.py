"""Inputs that wait on the host: the same numbers, a chunk at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from basic import gradient, types
from basic.engine import model
from basic.experiment import build
from basic.planning import draft, memory
from basic.sharding import host_rows, layout

ROWS = 32


def loss(params, z, rng):
  """Feels all pairs, and reads a leaf that is not encoded; quick to compile."""
  x, y = z.views["image"].pooled, z.views["text"].pooled
  s = x @ y.T + params["scale"] * z.field("label")[None, :]
  return jnp.mean(jax.nn.logsumexp(s, 1) - jnp.diag(s)), {}


OBJECTIVE = types.stateless(lambda rng, z: {"scale": jnp.ones(())}, loss)


def traced(inputs, chunks, mesh, **how):
  """(its layout, a traced gradient on a mesh, its arguments)."""
  net = toys.two_towers(dropout=0.4)
  batch = toys.batch(ROWS)
  rng = np.random.default_rng(1)
  params = jax.tree.map(  # Sooner than by `init`, which is compiled.
      lambda a: 0.3 * rng.normal(size=a.shape).astype(a.dtype),
      jax.eval_shape(net.init, jax.random.key(1), batch),
  )
  params["objective"] = {"scale": np.float32(1)}
  way = gradient.cached(
      net.encode, OBJECTIVE, chunks=chunks, inputs=inputs, **how
  )
  waiting = gradient.waiting(chunks, net.encode.views)
  devices = jax.devices()[:int(np.prod(list(mesh.values())))]
  where = layout.Layout(
      layout.mesh(devices, **mesh), net.axes,
      waiting if inputs == "host" else {},
  )
  where.check_waiting(ROWS)
  arguments = (
      jax.device_put({"params": params}, where.place({"params": params})),
      where.shard(batch),
  )
  with where.context():
    return where, jax.jit(
        lambda p, b: way(p["params"], (), b, jax.random.key(3))
    ).trace(*arguments), arguments


def result(*given, **how):
  where, made, arguments = traced(*given, **how)
  with where.context():
    call = made.lower().compile({"xla_backend_optimization_level": 0})
    return jax.device_get(call(*arguments))


@pytest.mark.parametrize(("chunks", "mesh", "how"), [
    (4, dict(data=2), {}),
    (
        {"image": 8, "text": 2}, dict(data=2, fsdp=2),
        dict(keep_bytes=6_000, frozen=("text/.*",)),
    ),
])
def test_every_number_is_that_of_inputs_on_the_device(chunks, mesh, how):
  # Noise is on, so that a row in another's place would draw another's.
  found = result("host", chunks, mesh, **how)
  expected = result("device", chunks, mesh, **how)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_devices_hold_one_chunk_of_fields_in_host_memory():
  _, made, (_, batch) = traced("host", {"image": 8}, dict(data=2))
  assert isinstance(batch["image"], host_rows.HostRows)
  places = {
      name: jax.tree.leaves(leaf)[0].sharding.memory_kind
      for name, leaf in batch.items()
  }
  assert places == {
      "image": "pinned_host", "text": "device", "label": "device",
      "caption_id": "device",
  }
  found = list(toys.reading_the_host(made.jaxpr.jaxpr))
  # A slice that is moved becomes a transfer of the slice; anything else would
  # be computed by the host, or refused by compilers.
  loops = {
      "scan", "jit", "shard_map", "remat2", "checkpoint", "closed_call",
      "custom_vjp_call",
  }
  moves = [shapes for name, shapes in found if name == "device_put"]
  others = {name for name, _ in found} - loops
  assert others == {"dynamic_slice", "squeeze", "device_put"}
  # Once in each pass: of 32 rows an eighth, on each of two devices half.
  assert moves == [[(2, 16)]] * 2


def test_a_field_in_another_memory_is_refused_in_words():
  net = toys.two_towers()
  way = gradient.cached(net.encode, OBJECTIVE, chunks=4, inputs="host")
  batch = toys.batch(ROWS)
  with pytest.raises(ValueError, match="'image' is on the device, and "
                                       "inputs='host' with 4 chunks expects it "
                                       "on the host in 4 chunks"):
    way({}, (), batch, None)
  batch["image"] = host_rows.fold(batch["image"], 8)
  with pytest.raises(ValueError, match="on the host in 8 chunks, and"):
    way({}, (), batch, None)
  way = gradient.cached(net.encode, OBJECTIVE, chunks=4)
  with pytest.raises(ValueError, match=r"inputs='device' with 4 chunks expects "
                                       "it on the device"):
    way({}, (), batch, None)


def test_fields_that_cannot_stay_in_host_memory_are_refused_in_words(monkeypatch):
  where = layout.Layout(
      layout.mesh(jax.devices()[:4]), waiting={"image": 8}
  )
  where.check_waiting(64)
  with pytest.raises(ValueError, match="cuts 'image' into 8 chunks on each of 4 "
                                       "devices, which do not divide a batch of "
                                       "48; use a multiple of 32"):
    where.check_waiting(48)
  monkeypatch.setattr(layout, "HOST", "moon")
  with pytest.raises(ValueError, match=r"needs devices that can read host "
                                       r"memory of the kind 'moon'.*='device'"):
    where.check_waiting(64)
  layout.Layout(where.mesh).check_waiting(63)


def test_a_plan_counts_host_memory_apart_from_device_memory():
  where = layout.Layout(layout.mesh(jax.devices()[:4]), waiting={"image": 4})
  net = model.model({"image": toys.tower()})
  batch = {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype)
      for name, x in toys.batch(ROWS).items() if name in ("image", "label")
  }

  def update(state, batch):  # Reads a chunk of what waits, and a label.
    read = batch["image"].chunk(jnp.int32(1)).sum() + batch["label"].sum()
    return jax.tree.map(lambda a: a + read.astype(a.dtype), state), {}

  program = build.Program(
      where, net, OBJECTIVE, float, fresh=lambda: None,
      update=jax.jit(update, donate_argnums=0), batch=batch,
  )
  params = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(
          a.shape, a.dtype, sharding=where.everywhere
      ),
      jax.eval_shape(net.init, jax.random.key(0), batch),
  )
  state = types.TrainState((), {**params, "objective": {}}, (), (), ())
  compiled = memory.step(program, state, batch)
  said = memory.breakdown(
      compiled, compiled, state, where.sharded(batch),
      memory.embedded(program, state, batch), (),
  )
  images = 8 * 4 * 4 * 4  # float32 of 4 x 4 pixels, 8 rows a device
  assert said["input_on_host"] == images
  assert said["input"] == 8 * 4  # labels
  parts = {
      k: n for k, n in said.items() if k not in ("total", "loss", "input_on_host")
  }
  assert sum(parts.values()) == said["total"] and min(parts.values()) >= 0
  # This compiler, whose host is its device, counts both together.
  counted = compiled.memory_analysis()
  assert said["total"] == (
      counted.argument_size_in_bytes + counted.output_size_in_bytes
      + counted.temp_size_in_bytes - counted.alias_size_in_bytes - images
  )


def test_a_setting_keeps_chunked_views_in_host_memory():
  tower = dict(width=8, depth=1, heads=1, dtype="float32")
  config = dict(
      steps=1, batch_size=32,
      source=dict(name="tfds", dataset="nowhere", split="train"),
      image=dict(name="vit", patch=16, **tower),
      text=dict(name="text_transformer", vocab=64, length=8, **tower),
      objective=dict(name="sigmoid"), optimizer=dict(name="sgd", peak=.1),
      gradient=dict(
          name="cached", chunks=dict(image=4, text=1), inputs="host"),
      mesh=dict(data=4),
  )
  made = draft.draft(config, image=32, on=jax.devices()[:4])
  where = made.program.layout
  assert where.waiting == {"image": 4}
  with where.context():
    jax.eval_shape(made.program.update, made.state, where.sharded(made.batch))
  config["batch_size"] = 40
  with pytest.raises(ValueError, match="cuts 'image' into 4 chunks"):
    draft.draft(config, image=32, on=jax.devices()[:4])
  config["gradient"] = dict(name="direct", inputs="host")
  with pytest.raises(ValueError, match=r"direct\(\) has no setting 'inputs'"):
    draft.draft(config, image=32)

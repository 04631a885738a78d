"""A training step is the same on every mesh, and moves no more than it must.

Real towers with every kind of noise and the gradient in chunks. Plain descent
shows the size of every gradient, which the first step of Adam does not; both
are taken where both are affordable.
"""

import functools
import re

import checks
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from basic import gradient, optim, paths, types
from basic.encoders import text_transformer, vit
from basic.engine import model, step
from basic.objectives import softmax
from basic.planning import collectives
from basic.sharding import layout

ROWS, WIDTH, SIDE = 16, 8, 16

MESHES = {
    "1": (1, 1, 1), "2": (2, 1, 1), "8": (8, 1, 1),
    "fsdp 4": (1, 4, 1), "tensor 4": (1, 1, 4), "all 8": (2, 2, 2),
}
DESCENT = optim.sgd(steps=10, peak=0.5, clip=1.0, decay=1e-2).tx
ADAM = optim.adamw(steps=10, peak=1e-2, eps=1e-3, decay=1e-2).tx
BOTH = ("1", "all 8")  # A second optimizer takes the compiler seconds.

MODEL = model.model(
    {
        "image": vit.vit(
            width=16, depth=2, heads=4, patch=8, dropout=0.1,
            drop_patches=0.25, stochastic_depth=0.2, dtype="float32",
        ),
        "text": text_transformer.text_transformer(
            vocab=48, length=6, width=16, depth=1, heads=4, dtype="float32",
        ),
    },
    width=WIDTH,
)
OBJECTIVE = softmax.softmax(smoothing=0.1, distinct="caption_id", tile=6)


def batch():
  draw = np.random.default_rng(0)
  text = draw.integers(1, 48, (ROWS, 6))
  text[::3, 4:] = 0
  return {
      "image": draw.integers(0, 256, (ROWS, SIDE, SIDE, 3)).astype(np.uint8),
      "text": text.astype(np.int32),
      "caption_id": draw.integers(0, 12, ROWS).astype(np.int32),
  }


def place_on(name):
  shape = MESHES[name]
  mesh = jax.make_mesh(
      shape, layout.AXES, axis_types=(AxisType.Auto,) * 3,
      devices=jax.devices()[: int(np.prod(shape))],
  )
  return layout.Layout(mesh, MODEL.axes)


@functools.cache
def started(tx):
  """A first state, on the host: the same for all meshes, and never compiled."""
  shapes = jax.eval_shape(
      step.fresh(MODEL, OBJECTIVE, tx), jax.random.key(0), batch()
  )
  draw = np.random.default_rng(1)

  def fill(path, leaf):
    drawn = 0.2 * draw.normal(size=leaf.shape) + path.endswith("scale")
    return np.asarray(drawn, leaf.dtype)

  def zeros(tree):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)

  return types.TrainState(
      zeros(shapes.step), paths.map_paths(fill, shapes.params),
      zeros(shapes.opt_state), shapes.memory, jax.random.key(2),
  )


def shared(gradients):
  """A gradient that is computed once for all optimizers that ask for it."""
  found = []

  def once(*args):
    if not found:
      found.append(gradients(*args))
    return found[0]

  return once


@functools.cache
def program(name, chunks=2):
  """(compiled step of each optimizer, its arguments)."""
  place = place_on(name)
  txs = (DESCENT, ADAM) if name in BOTH else (DESCENT,)
  whole = (
      gradient.cached(MODEL.encode, OBJECTIVE, chunks=chunks)
      if chunks else gradient.direct(MODEL.encode, OBJECTIVE)
  )

  def take(states, batch):
    one = shared(whole)
    return [
        step.update(one, tx)(state, batch)
        for tx, state in zip(txs, states, strict=True)
    ]

  with place.context():
    placed = [place.place(started(tx)) for tx in txs]
    arguments = (
        jax.device_put([started(tx) for tx in txs], placed),
        place.shard(batch()),
    )
    function = checks.jit(take, out_shardings=[(p, None) for p in placed])
    return function.lower(*arguments).compile(), arguments


@functools.cache
def stepped(name):
  """[(state, metrics)] after one step, for each optimizer of the mesh."""
  compiled, arguments = program(name)
  return jax.block_until_ready(compiled(*arguments))


def leaves(state):
  return {
      path: np.asarray(leaf, np.float64)
      for path, leaf in paths.flatten(jax.device_get(state.params)).items()
  }


@pytest.mark.parametrize("name", [
    "2", pytest.param("8", marks=pytest.mark.slow), "fsdp 4", "tensor 4",
    "all 8",
])
def test_every_mesh_takes_the_step_of_one_device(name):
  norm = np.linalg.norm
  for tx, (found, metrics), (expected, values) in zip(
      (DESCENT, ADAM), stepped(name), stepped("1"), strict=False
  ):
    for metric, value in values.items():
      np.testing.assert_allclose(metrics[metric], value, rtol=1e-5)
    found, expected, start = map(leaves, (found, expected, started(tx)))
    for path in start:
      # A bias of keys moves all scores of a query alike: its gradient is zero
      # but for rounding.
      still = path.endswith("key/bias")
      moved = norm(expected[path] - start[path])
      assert still or moved > 1e-4, path
      allowed = 1e-5 if still else 1e-5 * moved  # float32, some 1e4 terms
      assert norm(found[path] - expected[path]) <= allowed, path


def test_adam_alone_would_not_notice_a_gradient_of_twice_the_size():
  # Why descent is among the optimizers.
  params = {"kernel": np.ones(3, np.float32)}
  adam = optim.adamw(steps=10, peak=1.0, clip=None, decay=0.0).tx
  once, twice = (
      adam.update({"kernel": size * params["kernel"]}, adam.init(params), params)
      for size in (1.0, 2.0)
  )
  np.testing.assert_allclose(once[0]["kernel"], twice[0]["kernel"], rtol=1e-6)


def split(array):
  return array.sharding.spec != PartitionSpec() and any(array.sharding.spec)


def test_optimizer_state_lives_where_its_parameters_do():
  _, (state, _) = stepped("all 8")
  parameters = paths.flatten(state.params)
  slots = {
      jax.tree_util.keystr(path, simple=True, separator="/"): leaf
      for path, leaf in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
  }
  assert sum(map(split, parameters.values())) > 10
  for path, parameter in parameters.items():
    own = [leaf for slot, leaf in slots.items() if slot.endswith(f"/{path}")]
    assert len(own) == 2, f"{path} has no two moments: {sorted(slots)}"
    for leaf in own:
      assert leaf.sharding.is_equivalent_to(parameter.sharding, leaf.ndim)


@pytest.mark.parametrize("name", ["fsdp 4", "tensor 4"])
def test_each_kind_of_mesh_splits_parameters_its_own_way(name):
  (state, _), = stepped(name)
  kernel = state.params["image"]["encoder"]["blocks"]["mlp"]["in"]["kernel"]
  axis = {"fsdp 4": 1, "tensor 4": 2}[name]  # [layers embed mlp]
  whole = list(kernel.shape)
  whole[axis] //= 4
  assert {shard.data.shape for shard in kernel.addressable_shards} == {
      tuple(whole)
  }


def test_a_step_takes_what_a_step_gave():
  # Another sharding, and the compiled program would refuse it.
  compiled, (_, rows) = program("all 8")
  again = compiled([state for state, _ in stepped("all 8")], rows)
  for state, metrics in jax.block_until_ready(again):
    assert int(state.step) == 2 and np.isfinite(metrics["loss"])


MOVES = r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"


def moves(name, chunks):
  """Kind -> sizes, in elements, of what a compiled step moves."""
  text = program(name, chunks)[0].as_text()
  found = {}
  for line in text.splitlines():
    if match := re.search(rf"= (.*?) {MOVES}(-start)?\(", line):
      shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
      sizes = [int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes]
      found.setdefault(match[2], []).extend(sizes)
  return found


def test_chunks_by_stride_move_nothing_that_the_whole_batch_does_not():
  cached, direct = moves("2", 2), moves("2", 0)
  assert direct and set(cached) <= set(direct)
  for kind, sizes in cached.items():
    if kind == "all-reduce":
      continue  # as below
    # Embeddings and tags of rows; an image or a token would be larger.
    assert max(sizes) <= ROWS * WIDTH, (kind, sizes)
    assert len(sizes) <= len(direct[kind]) + 2, (kind, sizes)


def test_gradients_of_chunks_are_summed_over_devices_once():
  cached, direct = (
      collectives.read(program("2", chunks)[0].as_text(), 2).kinds["all-reduce"]
      for chunks in (2, 0)
  )
  assert cached.runs <= direct.runs and cached.bytes == direct.bytes

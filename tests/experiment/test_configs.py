"""Every experiment in configs/ builds, and takes two steps at reduced size."""

import ast
import dataclasses
import math

import checks
import experiments
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import paths
from basic.engine import carry
from basic.experiment import build, settings
from basic.sharding import layout

every = pytest.mark.parametrize("name", experiments.NAMES)
# Made small, some experiments are alike: one of them runs by default.
each_kind = pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow)
    if name in ("basic_s", "basic_m", "folder") else name for name in experiments.NAMES
])


@pytest.fixture
def alone(monkeypatch):
  """A mesh of one device: no law of placement is at stake here."""

  def mesh(*, data: int = -1, fsdp: int = 1, model: int = 1):
    return checks.line(1)

  monkeypatch.setattr(layout, "mesh", mesh)


@every
def test_the_first_line_is_the_command(name):
  path = f"configs/{name}.py"
  text = ast.get_docstring(ast.parse((experiments.ROOT / path).read_text()))
  first, *rest = text.splitlines()
  assert first == (
      f"python -m basic.train --config {path} --workdir runs/{name}"
  )
  assert not rest or rest[0] == "", "the second line is blank"


def enter(stage, old):
  """The first state of a stage: drawn, or what the stage before learned."""
  shapes = jax.eval_shape(stage.program.fresh)
  if old is None or set(shapes.params) - set(old.params):  # A tower is new.
    new = stage.program.fresh.lower().compile(compiler_options=checks.HASTE)()
    return new if old is None else carry.carry(old, new, optimizer=False)
  new = dataclasses.replace(
      old, params=zeros(shapes.params), opt_state=zeros(shapes.opt_state),
      memory=zeros(shapes.memory),
  )
  return carry.carry(old, new, optimizer=stage.rate_start < stage.start)


def zeros(shapes):
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def learns(before, after, frozen):
  """What trains has moved, and what is frozen has not."""
  before, after = (paths.flatten(jax.device_get(p)) for p in (before, after))
  moved = {
      path for path, leaf in before.items()
      if not np.array_equal(leaf, after[path])
  }
  assert moved and not any(map(paths.any_of(frozen), moved))


@each_kind
def test_two_steps_at_reduced_size(name, alone, tmp_path):
  config = experiments.shrunk(experiments.read(name))
  programs, state = {}, None
  for stage in build.run(config, tmp_path):
    with stage.program.layout.context(), stage.stream(0) as stream:
      state = enter(stage, state)
      before, start = jax.device_get(state.params), int(state.step)
      batch = stage.program.layout.shard(next(stream))
      lowered = stage.program.update.lower(state, batch)
      text = lowered.as_text()  # Stages often differ in nothing but data.
      if text not in programs:
        programs[text] = lowered.compile(compiler_options=checks.HASTE)
      for _ in range(2):
        state, metrics = programs[text](state, batch)
        batch = stage.program.layout.shard(next(stream))
        for metric, value in metrics.items():
          assert math.isfinite(value), f"{metric} is {value}"
    assert int(state.step) == start + 2
    learns(before, state.params, stage.config["frozen"])


@every
def test_a_shrunken_experiment_is_small_and_still_itself(name, alone, tmp_path):
  whole = experiments.read(name)
  small = experiments.shrunk(whole)
  for group in ("image", "text", "objective", "optimizer", "gradient"):
    if whole[group] is not None:
      assert small[group]["name"] == whole[group]["name"]
  shapes = next(experiments.programs(small, checks.line(1))).fresh
  size = sum(a.size for a in jax.tree.leaves(jax.eval_shape(shapes).params))
  assert size < 100_000


def test_even_the_largest_experiment_shrinks():
  giant = settings.complete(dict(
      steps=500_000, batch_size=65_536,
      source=dict(
          name="tfds", dataset="nowhere", split="train", data_dir="nowhere"),
      image=dict(name="vit", variant="G/14", remat="full"),
      text=dict(
          name="text_transformer", vocab=32_000, length=64, width=1024,
          depth=24, heads=16),
      projection=dict(width=1_024), augment=dict(size=224, crop="random"),
      objective=dict(name="softmax", distinct="caption_id"),
      gradient=dict(name="cached", chunks={"image": 64, "text": 8}),
      optimizer=dict(name="adamw", warmup=10_000),
      evals=dict(x=dict(name="retrieval", source=dict(
          name="tfds", dataset="nowhere", split="val",
          data_dir="nowhere"))),
      stages=(dict(steps=9_000, frozen=("image/.*",)), dict(
          steps=1_000, batch_size=1_024, augment=dict(size=512))),
  ))
  small = experiments.shrunk(giant)
  assert small["source"]["name"] == "shapes" and small["evals"] == {}
  assert small["gradient"]["chunks"] == {"image": 2, "text": 2}
  for program in experiments.programs(small, checks.line(1)):
    state = jax.eval_shape(program.fresh)
    assert sum(a.size for a in jax.tree.leaves(state.params)) < 100_000

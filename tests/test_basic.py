"""BASIC-S, -M and -L as published, and the toy of their three stages."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import experiments
import jax
import pytest

from basic import paths
from basic.experiment import build, settings
from basic.planning import draft, flops
from basic.sharding import layout

# Image: CoAtNet-0, -3 and -7 with the pre-logits layer and 1,000 classes (Dai
# et al., tables 3 and 12, to the digits that arithmetic gives); text: 12 d^2 +
# 13 d a layer, 32,000 words and 64 places of width d.
PUBLISHED = {
    "basic_s": (25.0e6, 108.41e6),
    "basic_m": (166.9e6, 183.99e6),
    "basic_l": (2440.6e6, 669.97e6),
}


def module(name):
  spec = importlib.util.spec_from_file_location(
      name, experiments.ROOT / "configs" / f"{name}.py")
  found = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(found)
  return found


def drafts(name):
  return draft.drafts({
      **module(name).get_config().to_dict(),
      "mesh": dict(data=jax.device_count()),
  })


@pytest.mark.parametrize("name", PUBLISHED)
def test_towers_have_their_published_sizes(name):
  found = draft.run_parameters(drafts(name))
  for tower, count in zip(("image", "text"), PUBLISHED[name], strict=True):
    assert found["parameters"][tower] == pytest.approx(count, rel=1e-3), tower
  parts = dict(found["parameters"])
  assert parts.pop("total") == sum(parts.values())
  assert [stage["batch_size"] for stage in found["stages"]] == [
      16_384, 65_536, 65_536]
  first, second, third = (stage["trainable"] for stage in found["stages"])
  assert first == found["parameters"]["image"]
  assert third == found["trainable"] > second
  locked = found["stages"][1]["parameters"]
  assert second == locked["total"] - locked["image"]


def test_the_slots_of_basic_l_are_those_of_the_formula():
  made = drafts("basic_l")[-1]
  expected = 8  # Two counters of steps.
  for path, leaf in paths.flatten(made.state.params).items():
    expected += 2 * leaf.size + 4 * squares(path, leaf.shape)
  found = draft.parameters(made)
  assert found["optimizer_bytes"] == expected
  assert found["optimizer_bytes_per_parameter"] == pytest.approx(2.016, abs=1e-3)


def squares(path, shape):
  """Numbers that stand for the mean squares of a weight: n + m, or n m."""
  first = 1 if "/blocks/" in path else 0  # Layers in front are no rows.
  sizes = sorted(shape[first:])
  if len(sizes) < 2 or sizes[-2] < 32:
    return math.prod(shape)
  rest = math.prod(shape) // (sizes[-1] * sizes[-2])
  return rest * (sizes[-1] + sizes[-2])


def test_basic_l_is_laid_out_for_512_devices():
  mesh = module("basic_l").get_config().mesh
  assert mesh.data * mesh.fsdp * mesh.model == 512


@pytest.mark.slow
def test_basic_l_is_counted_by_the_program():
  done = subprocess.run(
      [
          sys.executable, "-m", "basic.plan", "--config=configs/basic_l.py",
          "--parameters-only", "--json",
      ],
      cwd=experiments.ROOT, capture_output=True, text=True, check=False,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)["parameters"]
  assert found["image"] == pytest.approx(2440.6e6, rel=1e-3)
  assert found["text"] == pytest.approx(669.97e6, rel=1e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_stages_read_labels_first_and_text_then(name):
  config = settings.complete(module(name).get_config().to_dict())
  first, second, third = (s["source"] for s in build.stage_configs(config))
  assert first["label"] and first["text"] is None
  assert second == third and second["text"] and second["label"] is None


def test_parameters_and_slots_of_basic_l_are_split_over_fsdp():
  config = settings.complete(module("basic_l").get_config().to_dict())
  stage = build.stage_configs(config)[0]
  shapes = {"image": jax.ShapeDtypeStruct((512, 224, 224, 3), "uint8"),
            "label": jax.ShapeDtypeStruct((512,), "int32")}
  stage["batch_size"] = 512
  mesh = layout.mesh(jax.devices()[:8], data=1, fsdp=8, model=1)
  program = build.program(stage, mesh, shapes, steps=10)
  shapes = jax.eval_shape(program.fresh)
  places = program.layout.place(shapes)
  here = sum(
      math.prod(s.shard_shape(a.shape)) * a.dtype.itemsize
      for a, s in zip(
          jax.tree.leaves(shapes), jax.tree.leaves(places), strict=True)
  )
  whole = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(shapes))
  # Gains, offsets and tables of relative positions are copied.
  assert here < whole / 8 * 1.1


def test_the_control_of_the_toy_costs_what_its_stages_cost():
  toy = module("basic_toy")
  stages = [
      flops.count(made.program.update, made.state, made.batch).flops
      * made.config["steps"]
      for made in draft.drafts(one_device(toy.get_config()))
  ]
  control, = draft.drafts(one_device(toy.get_config("scratch")))
  step = flops.count(
      control.program.update, control.state, control.batch).flops
  assert control.config["steps"] == pytest.approx(sum(stages) / step, rel=1e-2)
  last = draft.draft(one_device(toy.get_config())).config
  for key in ("source", "image", "text", "projection", "batch_size", "evals"):
    assert control.config[key] == last[key], key


def one_device(config):
  return {**config.to_dict(), "mesh": dict(data=jax.device_count())}

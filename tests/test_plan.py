"""The plan of a run against the run itself."""

import json
import math
import os
import pathlib
import subprocess
import sys

import checks
import numpy as np
import pytest
import tiny

from basic import plan
from basic.experiment import build, schema, settings
from basic.planning import (
    devices,
    draft,
    flops,
    inputs,
    memory,
    roofline,
    table,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent


def small(**changes):
  """Two towers of one block on the digits, for eight devices."""
  base = dict(
      steps=2, batch_size=64,
      source=dict(name="digits", length=300),
      image=dict(
          name="vit", width=32, depth=1, heads=2, patch=8, dtype="float32"),
      text=dict(
          name="text_transformer", vocab=128, length=8, width=32, depth=1,
          heads=2, dtype="float32"),
      projection=dict(width=16),
      tokenizer=dict(captions=300),
      objective=dict(name="softmax", tile=16),
      optimizer=dict(name="adamw", peak=1e-3),
      mesh=dict(data=8),
  )
  return {**base, **changes}


# Compiled several times over, or as slowly as training compiles it.
TOYS = dict(
    image=dict(name="toy", hidden=32), text=dict(name="toy", hidden=32),
    optimizer=dict(name="sgd", peak=1e-3),
)
CASES = {
    # Rows enough for them to outweigh the parameters.
    "direct": small(
        **TOYS, batch_size=1_024, objective=dict(name="softmax", tile=32),
        source=dict(name="digits", length=300, canvas=24, channels=1),
    ),
    "cached": small(
        **TOYS, gradient=dict(name="cached", chunks=4),
        mesh=dict(data=2, fsdp=2, model=2),
        objective=dict(name="softmax", tile=16, distinct="caption_id"),
    ),
    "locked": small(
        gradient=dict(name="cached", chunks=dict(image=8, text=2)),
        frozen=("image/.*",),
        objective=dict(name="sigmoid", tile=16),
    ),
}


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  plugin = schema.plugin
  monkeypatch.setattr(
      schema, "plugin",
      lambda folder, name: tiny.toy if name == "toy" else plugin(folder, name),
  )


def streamed(stage):
  with stage.stream(0) as stream:
    return next(stream)


def blank(stage):
  """In no time, where rows are many."""
  return {
      name: np.ones(leaf.shape, leaf.dtype)
      for name, leaf in stage.program.batch.items()
  }


def ran(config, workdir, options=None, read=streamed):
  """Bytes by the compiler of a step that really ran, and its loss."""
  stage = build.run(settings.complete(config), workdir)[0]
  with stage.program.layout.context():
    state = stage.program.fresh.lower().compile(checks.HASTE)()
    batch = stage.program.layout.shard(read(stage))
    compiled = stage.program.update.lower(state, batch).compile(options)
    _, metrics = compiled(state, batch)
  found = compiled.memory_analysis()
  total = (
      found.argument_size_in_bytes + found.output_size_in_bytes
      + found.temp_size_in_bytes - found.alias_size_in_bytes
  )
  return total, float(metrics["loss"])


def compiled_total(config):
  made = draft.draft(config)
  return memory.total(memory.step(made.program, made.state, made.batch))


@pytest.mark.parametrize("name", ["cached", "locked"])
def test_the_total_is_that_of_the_step_that_runs(name, tmp_path):
  # Once as training compiles it; the other one sooner, and slower to run.
  hurry = None if name == "cached" else checks.HASTE
  check(plan.plan(CASES[name]), *ran(CASES[name], tmp_path, hurry))


def check(planned, total, loss):
  assert math.isfinite(loss)
  found = planned["bytes_per_device"]
  # The same program: no more than what shapes cannot know may differ.
  assert found["total"] == pytest.approx(total, rel=0.1)
  beside = ("total", "loss", "input_on_host")
  parts = {k: v for k, v in found.items() if k not in beside}
  assert sum(parts.values()) == found["total"]
  assert min(found.values()) >= 0 and found["parameters"] > 0
  count = dict(planned["parameters"])
  assert list(count) == ["image", "text", "projection", "objective", "total"]
  assert count.pop("total") == sum(count.values())
  assert json.loads(json.dumps(planned)) == planned


def test_a_direct_step_is_refused_with_the_chunks_that_would_fit(tmp_path):
  config = CASES["direct"]
  four = compiled_total(
      {**config, "gradient": dict(name="cached", chunks=4)}
  )
  planned = plan.plan(config, room=four, chip=roofline.chip("H100"))
  check(planned, *ran(config, tmp_path, checks.HASTE, blank))
  found = planned["fit"]
  assert not found["fits"] and found["fewest_chunks"] == 4
  assert found["largest_chunk"] == 256
  assert found["sentence"].endswith("; 4 chunks would fit")
  text = table.table(planned)
  assert found["sentence"] in text and "examples a second" in text


def test_the_plan_of_a_stage_with_stored_embeddings_counts_embeddings_as_input():
  stages = (
      dict(steps=1, frozen=("image/.*",)),
      dict(steps=1, frozen=("image/.*",), stored=("image",)),
  )
  config = {**CASES["direct"], "batch_size": 8, "stages": stages}
  kept = plan.plan(config, room=2**30, chip=roofline.chip("H100"))
  # One row on each device, and an embedding in place of 576 pixels.
  assert 4 * 16 < kept["bytes_per_device"]["input"] < 24 * 24
  # The forward pass of the tower is still reported, but is in no step.
  plain = draft.draft(config, stage=0)
  with plain.program.layout.context():
    work = flops.count(plain.program.update, plain.state, plain.batch).flops
  forward = kept["flops"]["forward"]["image"]
  assert forward == 2 * (24 * 24 * 32 + 32 * 8 + 8 * 16)
  assert work - kept["flops"]["per_step"] == 8 * forward
  assert kept["fit"]["fits"] and kept["fit"]["fewest_chunks"] == 1
  assert "'image' are stored" in kept["notes"][0]


@pytest.mark.parametrize("stage", [1, 7, -2])
def test_a_stage_out_of_range_is_refused(stage):
  with pytest.raises(ValueError, match=f"stage is {stage}, and the run has 1, "):
    draft.draft(CASES["direct"], stage=stage)


def test_inputs_in_host_memory_are_read_once_in_each_pass():
  found = {}
  for frozen in ((), ("image/.*",)):
    made = draft.draft({
        **CASES["direct"], "frozen": frozen, "gradient": dict(
            name="cached", chunks=dict(image=4), inputs="host"),
    })
    placed = made.program.layout.sharded(made.batch)
    found[frozen] = memory.brought(made.program, made.state, placed, frozen)
  images = 1_024 // 8 * 24 * 24
  assert found == {(): 2 * images, ("image/.*",): images}


def test_only_trainable_parameters_have_optimizer_state():
  made = draft.draft(CASES["locked"])
  found = draft.parameters(made)
  count = found["parameters"]
  of_image = 32 * 16  # Of the two projections, the frozen one.
  assert found["trainable"] == count["total"] - count["image"] - of_image
  # Two moments in float32, and the counter of steps.
  assert found["optimizer_bytes"] - 8 * found["trainable"] in (4, 8, 12)


def test_a_source_that_is_not_on_this_machine_can_be_planned():
  config = settings.complete(small(
      source=dict(name="tfds", dataset="nowhere", split="train", channels=1)
  ))
  found = inputs.inputs(config, 24)
  shapes = {leaf: shape.shape for leaf, shape in found.batch.items()}
  assert shapes == {
      "image": (64, 24, 24, 1), "text": (64, 8), "label": (64,),
      "caption_id": (64, 2),
  }
  assert "nowhere" in found.assumed
  with pytest.raises(ValueError, match="give --image 224, or set"):
    inputs.inputs(config)


def test_an_available_source_gives_the_fields_and_images_may_be_resized():
  config = settings.complete(small())
  assert inputs.inputs(config).batch["image"].shape == (64, 32, 32, 3)
  assert inputs.inputs(config, 48).batch["image"].shape == (64, 48, 48, 3)


def test_counting_allocates_nothing_and_trains_no_vocabulary():
  config = small(
      image=dict(name="vit", width=2048, depth=64, heads=16, patch=8),
      text=dict(name="text_transformer", width=2048, depth=12, heads=16),
  )
  found = draft.parameters(draft.draft(config))["parameters"]
  assert found["image"] == pytest.approx(64 * 12 * 2048**2, rel=0.01)
  assert found["total"] > 3e9


@pytest.mark.parametrize("text", [
    "date=4", "data", "data=0", "data=-1", "data=2,data=4", "data=²", "",
    "data=" + "9" * 5_000,
], ids=lambda text: text[:10])
def test_an_invalid_mesh_is_refused(text):
  with pytest.raises(ValueError, match="such as data=64,model=4"):
    devices.sizes(text, {})


@pytest.mark.parametrize("mesh", [
    {"data": 0}, {"data": -3}, {"data": "8"}, {"data": True}, {"date": 2},
])
def test_an_invalid_mesh_of_the_configuration_is_refused(mesh):
  with pytest.raises(ValueError, match="each with a number of devices"):
    devices.sizes(None, mesh)


@pytest.mark.parametrize("image", [0, -5])
def test_an_image_size_that_is_not_positive_is_refused(image):
  with pytest.raises(ValueError, match=f"--image is {image}; it takes a size"):
    draft.draft(CASES["direct"], image=image)


@pytest.mark.parametrize("name", ["nonsense", ""])
def test_an_unknown_topology_is_refused(name):
  with pytest.raises(ValueError, match="It takes a TPU slice such as v5e:4x8"):
    devices.topology(name)


def test_more_devices_than_can_be_simulated_are_refused():
  with pytest.raises(ValueError, match="8192 devices"):
    devices.sizes("data=1024,model=8", {})


def test_an_axis_of_minus_one_is_planned_as_one_device():
  assert devices.sizes(None, {"data": -1, "model": 2}) == {
      "data": 1, "fsdp": 1, "model": 2
  }


def test_the_compilers_out_of_memory_message_is_parsed():
  text = "Ran out of memory in memory space hbm. Used 22.50G of 15.75G hbm."
  found = memory.TooLarge.read(text)
  assert found.needs == int(22.5 * 2**30) and found.has == int(15.75 * 2**30)
  assert memory.TooLarge.read("INTERNAL: something else") is None


def test_the_program_plans_for_devices_that_the_machine_does_not_have(tmp_path):
  config = small(mesh=dict(data=-1), optimizer=TOYS["optimizer"])
  (tmp_path / "tiny.py").write_text(
      "from ml_collections import ConfigDict\n"
      f"def get_config():\n  return ConfigDict({config!r})\n"
  )
  done = subprocess.run(
      [
          sys.executable, "-m", "basic.plan", f"--config={tmp_path}/tiny.py",
          "--config.batch_size=16", "--mesh=data=16", "--memory=1KiB",
          "--chip=v5e", "--json",
      ],
      cwd=ROOT, capture_output=True, text=True, check=False,
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
  )
  assert done.returncode == 1, done.stderr
  found = json.loads(done.stdout)
  assert found["devices"] == 16
  assert found["collectives"]["all-reduce"]["bytes"] > 0
  assert "no number of chunks fits" in found["fit"]["sentence"]
  assert found["seconds"]["step"] > 0

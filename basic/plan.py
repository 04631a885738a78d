"""python -m basic.plan --config configs/digits.py --mesh data=8 --memory 8GiB

Estimates what a run needs without its hardware: parameters, bytes on one device,
floating-point operations, collectives, the time of a step by the peak rates of a
chip, and the smallest number of chunks that fits a memory. Exit status 1 if the
step does not fit.

The step is built for the given mesh on as many virtual CPU devices and compiled
without allocating arrays; the figures are the compiler's. Those of the CPU
compiler are upper bounds in practice: it fuses less, keeps some bfloat16 values in
float32 and does not reduce-scatter, which made totals 1.7 and 3.6 times those of
the TPU compiler in two cases. With `--topology v5e:4x8` and the package libtpu,
the TPU compiler is used, without a TPU; it takes minutes.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from basic import cli
from basic.experiment import build, overrides, sanity, settings
from basic.planning import (
    collectives,
    devices,
    draft,
    fit,
    flops,
    memory,
    roofline,
    table,
)


def plan(
    config: Mapping[str, Any] | ml_collections.ConfigDict,
    *,
    image: int | None = None,
    stage: int = -1,
    on: Sequence[Any] | None = None,
    room: int | None = None,
    chip: roofline.Chip | None = None,
) -> dict[str, Any]:
  """Compiles a configuration for its mesh and reports what a step needs.

  Args:
    config: settings of `manual.experiment`, as a nested mapping or a
      ConfigDict.
    image: size of images in pixels; None: that of the source or of `augment`.
    stage: index of the stage; -1 is the last one.
    on: devices to plan for; None: all devices of JAX, including virtual ones.
    room: memory of a device in bytes; None: the chip's, if given.
    chip: peak rates of a device; None leaves out the time.

  Returns:
    What `draft.parameters` returns, `batch_size`, `mesh`, `devices`,
    `bytes_per_device` (`memory.breakdown`), `flops`, `collectives` by kind,
    `fit` (None without a memory), `seconds` (None without a chip), `notes`.

  Raises:
    ValueError: as `draft`; or if the compiler knows the memory of its device and
      the step does not fit.
  """
  plain = sanity.plain(config)
  made = draft.draft(plain, image=image, stage=stage, on=on)
  try:
    compiled = memory.step(made.program, made.state, made.batch)
  except memory.TooLarge as error:
    raise ValueError(_fit(made, error.needs, error.has)["sentence"]) from error
  mesh, size = made.program.layout.mesh, made.config["batch_size"]
  traffic = collectives.read(_text(compiled), mesh.size)
  room = chip.memory if room is None and chip is not None else room
  # Devices of a topology cannot run programs, so programs are built outside the
  # context of the mesh, and only traced and compiled inside.
  placed = made.program.layout.sharded(made.batch)
  with made.program.layout.context():
    work = flops.count(made.program.update, made.state, placed)
    z = memory.embedded(
        made.program, made.state, made.batch, made.config["stored"]
    )
    loss = memory.loss_alone(made.program, made.state, z)
    forward = _forward(made)
  return {
      **draft.parameters(made),
      "batch_size": size,
      "mesh": dict(mesh.shape),
      "devices": mesh.size,
      "bytes_per_device": memory.breakdown(
          compiled, loss, made.state, placed, z, made.config["frozen"]
      ),
      "flops": {
          "per_example": work.flops / size, "per_step": work.flops,
          "forward": forward,
      },
      "collectives": {
          kind: {"count": t.runs, "bytes": t.bytes}
          for kind, t in traffic.kinds.items()
      },
      "fit": None if room is None else _fit(
          made, memory.total(compiled), room
      ),
      "seconds": None if chip is None else roofline.seconds(
          work, traffic, chip=chip, devices=mesh.size, batch_size=size,
          state=2 * memory.held((made.state.params, made.state.opt_state)),
          brought=memory.brought(
              made.program, made.state, placed, made.config["frozen"]
          ),
      ),
      "notes": _notes(made, work, traffic) + _which(plain, stage),
  }


def _text(compiled: Any) -> str:
  """The optimised HLO of a compiled program."""
  text = compiled.as_text()
  if text is None:
    raise RuntimeError(
        "the compiler returns no text of the compiled program, so its "
        "collectives cannot be counted; plan for another device type."
    )
  return text


def _forward(made):
  """FLOPs of one example's forward pass by view, stored views included."""
  counts = {}
  for name, view in made.program.model.encode.views.items():
    inputs = made.shapes[view.field]
    row = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    counts[name] = flops.count(
        lambda params, row, view=view: view.apply(params, row, None),
        made.state.params[view.tower], row,
    ).flops
  return counts


def _fit(made, configured, room):
  """Whether the step fits, and the smallest number of chunks that does."""
  config, mesh = made.config, made.program.layout.mesh
  of_config = config["gradient"].get("chunks")  # `direct` has no chunks.
  chunks = max(of_config.values()) if isinstance(of_config, dict) else (
      of_config or 1
  )

  def needs(count: int) -> int:
    name = config["gradient"]["name"] if of_config else "cached"
    changed = settings.changed(
        config, {"gradient": {"name": name, "chunks": count}}
    )
    program = build.program(
        settings.complete(changed), mesh, made.shapes, steps=config["steps"]
    )
    try:
      return memory.total(memory.step(program, made.state, made.batch))
    except memory.TooLarge as error:
      return max(error.needs, room + 1)

  rows = mesh.shape["data"] * mesh.shape["fsdp"]
  result = fit.fit(
      needs, memory=room, configured=configured, chunks=chunks,
      counts=fit.counts(config["batch_size"], rows),
      batch_size=config["batch_size"],
  )
  return {**result._asdict(), "sentence": fit.sentence(result)}


def _notes(made, work, traffic):
  notes = []
  if made.assumed:
    shapes = {leaf: list(s.shape[1:]) for leaf, s in made.shapes.items()}
    notes.append(
        f"a row is assumed to hold {shapes}, for the source "
        f"{made.config['source']['name']!r} cannot be opened here: "
        f"{made.assumed}"
    )
  for leaf in made.config["stored"]:
    notes.append(
        f"embeddings of {leaf!r} are stored: its forward pass runs once over "
        "the source, and in no step"
    )
  if made.config["objective"].get("kernel") == "pallas":
    notes.append(
        "the kernel 'pallas' is for GPUs, and is planned as CPUs interpret it"
    )
  if made.config["gradient"]["name"] == "in_slots":
    notes.append(
        "in_slots holds no sum of chunks: 'gradients' are those of one; that "
        "slots are read and written for each is not in the time"
    )
  for what, count in (("flops", work.unbounded), ("bytes", traffic.unbounded)):
    if count:
      notes.append(
          f"{count} loops have a length that only the run decides; their "
          f"{what} are counted as one round"
      )
  return notes


def _which(config, stage):
  """A note on which of several stages is planned."""
  stages = build.stage_configs(settings.complete(config))
  number = range(1, len(stages) + 1)[stage]
  return [] if len(stages) == 1 else [
      f"this is stage {number} of {len(stages)}; --stage 0 to "
      f"{len(stages) - 1} plans another"
  ]


def _answer(given: Any, assignments: Sequence[str]) -> dict[str, Any]:
  """The plan for the flags and settings of the command line."""
  config = sanity.plain(overrides.apply(given.config, assignments))
  sanity.check_overrides(config, overrides.names(assignments))
  sanity.check(config, settings.complete(config))
  asked = {"image": given.image}
  if given["parameters-only"].value:
    # Parameter counts do not depend on the mesh.
    config["mesh"] = devices.virtual(devices.sizes("data=1", {}))
    if given.stage is None:
      return draft.run_parameters(draft.drafts(config, **asked))
    return draft.parameters(draft.draft(config, stage=given.stage, **asked))
  asked["stage"] = -1 if given.stage is None else given.stage
  if given.topology is not None:
    asked["on"] = devices.topology(given.topology)
    if given.mesh is not None:
      config["mesh"] = devices.sizes(given.mesh, {})
  else:
    wanted = devices.sizes(given.mesh, config.get("mesh") or {})
    config["mesh"] = devices.virtual(wanted)
  return plan(
      config, **asked,
      room=None if given.memory is None else fit.size(given.memory),
      chip=None if given.chip is None else roofline.chip(given.chip),
  )


def main(arguments: list[str]) -> None:
  """Prints the plan; exits with status 1 if the step does not fit."""
  with cli.sentences():
    answer = _answer(flags.FLAGS, arguments[1:])
  print(json.dumps(answer) if flags.FLAGS.json else table.table(answer))
  if answer.get("fit") and not answer["fit"]["fits"]:
    sys.exit(1)


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "Experiment to plan.", sys_argv=[])
  flags.DEFINE_string("mesh", None, "Devices: data=64,fsdp=1,model=4.")
  flags.DEFINE_string("topology", None, "TPUs to compile for: v5e:4x8.")
  flags.DEFINE_string("memory", None, "What a device has: 80GiB.")
  flags.DEFINE_string("chip", None, "Peak numbers: H100, v5e, H100,exact=5e13.")
  flags.DEFINE_integer("image", None, "Size of images in pixels.")
  flags.DEFINE_integer(
      "stage", None, "Which stage, from 0; by default the last, and all of them "
      "where parameters are counted.")
  flags.DEFINE_bool("parameters-only", False, "Count them and compile nothing.")
  flags.DEFINE_bool("json", False, "Print one JSON object, not a table.")
  flags.mark_flags_as_required(["config"])
  app.run(main, flags_parser=cli.parser(
      app.parse_flags_with_usage, overrides.split))

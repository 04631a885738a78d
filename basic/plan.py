"""python -m basic.plan --config configs/digits.py --mesh data=8 --memory 8GiB

Says what a run needs before there is a machine for it: parameters, bytes on one
device, floating-point operations, collectives, the time that a step takes by a
chip's peak numbers, and the fewest chunks that fit a memory. Exit status 1: it
does not fit.

The step is built for the mesh that is asked for, on as many virtual CPU
devices, and compiled without allocating anything; the compiler's figures are
the answer. Those of a CPU are on the safe side of an accelerator's: it fuses
less, keeps some bfloat16 values in float32 and scatters no sums, which made
totals 1.7 and 3.6 times those for TPUs where both were compiled. With
`--topology v5e:4x8` and the package libtpu, the compiler of TPUs answers, and
needs no TPU either; it takes minutes.
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
from basic.experiment import build, sanity, settings
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
  """Compiles a configuration for its mesh and says what a step takes.

  Args:
    config: settings of `manual.experiment`, as a nested mapping or a
      ConfigDict.
    image: size of images in pixels; None: as the source or `augment` says.
    stage: which, from 0; -1 is the last.
    on: devices to plan for; None: those that JAX has, virtual ones included.
    room: bytes that a device has; None: the chip's, if one is given.
    chip: peak numbers of a device; None leaves the time out.

  Returns:
    What `draft.parameters` returns, `batch_size`, `mesh`, `devices`,
    `bytes_per_device` (`memory.breakdown`), `flops`, `collectives` by kind,
    `fit` (None without a memory), `seconds` (None without a chip), `notes`.

  Raises:
    ValueError: as `draft`; or, in a sentence, if a compiler that knows its
      device finds that the step does not fit it.
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
  # A mesh of devices that are not here runs nothing, so that programs are
  # built outside its context and only traced and compiled within.
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
  """Of one example's forward pass, by view, though it be done once and kept."""
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
  """Whether it fits, and the fewest chunks that do; each is compiled."""
  config, mesh = made.config, made.program.layout.mesh
  of_config = config["gradient"].get("chunks")  # A direct one has none.
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
  """Which of several stages the plan is of."""
  stages = build.stage_configs(settings.complete(config))
  number = range(1, len(stages) + 1)[stage]
  return [] if len(stages) == 1 else [
      f"this is stage {number} of {len(stages)}; --stage 0 to "
      f"{len(stages) - 1} plans another"
  ]


def _answer(given: Any) -> dict[str, Any]:
  """The plan that the command line asks for."""
  sanity.check_overrides(
      given.config, config_flags.get_override_values(given["config"])
  )
  config = sanity.plain(given.config)
  sanity.check(config, settings.complete(config))
  asked = {"image": given.image}
  if given["parameters-only"].value:
    # One device is enough to count, whatever the mesh.
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
  """Prints the plan; exits with 1 if what is planned does not fit."""
  del arguments
  with cli.sentences():
    answer = _answer(flags.FLAGS)
  print(json.dumps(answer) if flags.FLAGS.json else table.table(answer))
  if answer.get("fit") and not answer["fit"]["fits"]:
    sys.exit(1)


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "Experiment to plan.")
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
  app.run(main, flags_parser=cli.parser(app.parse_flags_with_usage))

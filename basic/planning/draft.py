"""A stage as shapes: built for its devices, and nothing allocated."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from basic import paths, types
from basic.experiment import build, settings
from basic.planning import inputs, memory
from basic.sharding import layout


class Draft(NamedTuple):
  """A stage as shapes.

  Attributes:
    config: complete.
    program: what it computes.
    state: placed shapes.
    batch: placed shapes of what a step takes: embeddings where they are stored.
    shapes: of a batch before any of it is stored.
    assumed: what the source could not say.
  """

  config: dict[str, Any]
  program: build.Program
  state: types.TrainState
  batch: dict[str, jax.ShapeDtypeStruct]
  shapes: dict[str, jax.ShapeDtypeStruct]
  assumed: str


def draft(
    config: Mapping[str, Any],
    *,
    image: int | None = None,
    stage: int = -1,
    on: Sequence[Any] | None = None,
) -> Draft:
  """Builds a stage of a configuration, and allocates nothing.

  Args:
    config: settings of `settings.experiment`.
    image: size of images in pixels; None: as the source or `augment` says.
    stage: which, from 0; -1 is the last.
    on: devices to plan for; None: those that JAX has, virtual ones included.

  Returns:
    Its program, and its state and batch as shapes.

  Raises:
    ValueError: if settings do not fit each other or the devices, nothing says
      how large images are, or there is no such stage.
  """
  stages = build.stage_configs(settings.complete(config))
  if not -len(stages) <= stage < len(stages):
    raise ValueError(
        f"stage is {stage}, and there are {len(stages)}; it takes 0 to "
        f"{len(stages) - 1}, or -1 for the last."
    )
  chosen = stages[stage]
  batch, assumed = inputs.inputs(chosen, image)
  mesh = layout.mesh(on, **chosen["mesh"])
  program = build.program(chosen, mesh, batch, steps=chosen["steps"])
  return Draft(
      chosen, program, program.state(),
      memory.on_rows(program, program.batch), batch, assumed,
  )


def drafts(config: Mapping[str, Any], **given: Any) -> list[Draft]:
  """Every stage of a configuration, as `draft` makes one; takes what it takes."""
  count = len(build.stage_configs(settings.complete(config)))
  return [draft(config, stage=n, **given) for n in range(count)]


def parameters(draft: Draft) -> dict[str, Any]:
  """Counts parameters by tower, and what the optimizer keeps of them.

  A tower is its encoder, and the classes that a classification tells apart by
  it, as publications count; the projections to a common width stand apart.

  Args:
    draft: of the stage.

  Returns:
    `parameters` by tower, of `projection` and `objective` where there are any,
    and in `total`; `trainable`; `optimizer_bytes` (one copy, all devices
    together) and `optimizer_bytes_per_parameter` that trains.
  """
  trainable, _ = paths.split(draft.state.params, draft.config["frozen"])
  count = sum(leaf.size for leaf in jax.tree.leaves(trainable))
  slots = memory.whole(draft.state.opt_state)
  return {
      "parameters": _by_part([draft]),
      "trainable": count,
      "optimizer_bytes": slots,
      "optimizer_bytes_per_parameter": slots / max(count, 1),
  }


def run_parameters(drafts: Sequence[Draft]) -> dict[str, Any]:
  """Counts the parameters of a run: each once, however many stages have it.

  Args:
    drafts: of all stages.

  Returns:
    What `parameters` returns, of all stages together and, as to what trains
    and its slots, of the stage that trains most; and `stages`, that of each.
  """
  stages = [
      {
          "steps": each.config["steps"],
          "batch_size": each.config["batch_size"], **parameters(each),
      }
      for each in drafts
  ]
  most = max(stages, key=lambda found: found["trainable"])
  return {
      **{k: x for k, x in most.items() if k not in ("steps", "batch_size")},
      "parameters": _by_part(drafts),
      "stages": stages,
  }


def _by_part(drafts: Sequence[Draft]) -> dict[str, int]:
  """Part of the model -> its parameters, those that stages share once."""
  sizes = {
      (_part(draft, path), path, leaf.shape): leaf.size
      for draft in drafts
      for path, leaf in paths.flatten(draft.state.params).items()
  }
  found: dict[str, int] = {}
  for (part, _, _), size in sizes.items():
    found[part] = found.get(part, 0) + size
  last = ("projection", "objective")
  order = sorted(found.keys() - set(last)) + [p for p in last if p in found]
  return {**{p: found[p] for p in order}, "total": sum(found.values())}


def _part(draft: Draft, path: str) -> str:
  """The tower of a parameter, or what else it belongs to."""
  part, _, rest = path.partition("/")
  if rest.startswith("projection/"):
    return "projection"
  view = draft.config["objective"].get("view")  # What is classified, if any.
  if part == "objective" and view is not None:
    return draft.program.model.encode.views[view].tower
  return part

"""A stage as shapes and shardings, with nothing allocated."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from basic import paths, types
from basic.experiment import build, settings
from basic.planning import inputs, memory
from basic.sharding import layout


class Draft(NamedTuple):
  """A stage as shapes and shardings.

  Attributes:
    config: complete configuration of the stage.
    program: what it computes.
    state: ShapeDtypeStructs with shardings.
    batch: likewise, of what a step takes: embeddings where they are stored.
    shapes: ShapeDtypeStructs of the batch as the source gives it.
    assumed: why shapes had to be assumed, "" if the source gave them.
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
  """Builds a stage of a configuration without allocating anything.

  Args:
    config: settings of `manual.experiment`.
    image: image size in pixels; None: that of the source or of `augment`.
    stage: index of the stage; -1 is the last.
    on: devices to plan for; None: those that JAX has, virtual ones included.

  Returns:
    Its program, and its state and batch as ShapeDtypeStructs.

  Raises:
    ValueError: if settings do not fit each other or the devices, the image size
      is unknown, or there is no such stage.
  """
  stages = build.stage_configs(settings.complete(config))
  if not -len(stages) <= stage < len(stages):
    raise ValueError(
        f"stage is {stage}, and the run has {len(stages)}, numbered from 0; give "
        f"at most {len(stages) - 1}, or -1 for the last."
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
  """`draft` for every stage of a configuration, with the same arguments."""
  count = len(build.stage_configs(settings.complete(config)))
  return [draft(config, stage=n, **given) for n in range(count)]


def parameters(draft: Draft) -> dict[str, Any]:
  """Counts parameters by tower, and the bytes of the optimizer state.

  As in publications, a tower is its encoder and the classifier head on it, if
  any; projections to the shared embedding space are counted apart.

  Args:
    draft: of the stage.

  Returns:
    `parameters`: by tower, `projection` and `objective` where there are any,
    and `total`; `trainable`; `optimizer_bytes`, of one copy over all devices;
    and `optimizer_bytes_per_parameter`, per trainable one.
  """
  trainable, _ = paths.split(draft.state.params, draft.config["frozen"])
  count = sum(leaf.size for leaf in jax.tree.leaves(trainable))
  optimizer_bytes = memory.whole(draft.state.opt_state)
  return {
      "parameters": _by_part([draft]),
      "trainable": count,
      "optimizer_bytes": optimizer_bytes,
      "optimizer_bytes_per_parameter": optimizer_bytes / max(count, 1),
  }


def run_parameters(drafts: Sequence[Draft]) -> dict[str, Any]:
  """Counts the parameters of a run, those that stages share only once.

  Args:
    drafts: of all stages.

  Returns:
    What `parameters` returns: parameters of all stages together; trainable ones
    and optimizer bytes of the stage that trains most. And `stages`, the same
    for each.
  """
  stages = [
      {
          "steps": each.config["steps"],
          "batch_size": each.config["batch_size"], **parameters(each),
      }
      for each in drafts
  ]
  most = max(stages, key=lambda stage: stage["trainable"])
  return {
      **{k: x for k, x in most.items() if k not in ("steps", "batch_size")},
      "parameters": _by_part(drafts),
      "stages": stages,
  }


def _by_part(drafts: Sequence[Draft]) -> dict[str, int]:
  """Part of the model -> number of parameters, those of several stages once."""
  sizes = {
      (_part(draft, path), path, leaf.shape): leaf.size
      for draft in drafts
      for path, leaf in paths.flatten(draft.state.params).items()
  }
  counts: dict[str, int] = {}
  for (part, _, _), size in sizes.items():
    counts[part] = counts.get(part, 0) + size
  last = ("projection", "objective")
  order = sorted(counts.keys() - set(last)) + [p for p in last if p in counts]
  return {**{p: counts[p] for p in order}, "total": sum(counts.values())}


def _part(draft: Draft, path: str) -> str:
  """The tower that a parameter belongs to, or "projection" or "objective"."""
  part, _, rest = path.partition("/")
  if rest.startswith("projection/"):
    return "projection"
  view = draft.config["objective"].get("view")  # The view that is classified.
  if part == "objective" and view is not None:
    return draft.program.model.encode.views[view].tower
  return part

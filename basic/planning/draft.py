"""A stage as shapes: built for its devices, and nothing allocated."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from basic import build, layout, paths, settings, types
from basic.planning import inputs, memory


class Draft(NamedTuple):
  """A stage as shapes.

  Attributes:
    config: complete.
    program: what it computes.
    state: placed shapes.
    batch: placed shapes.
    assumed: what the source could not say.
  """

  config: dict[str, Any]
  program: build.Program
  state: types.TrainState
  batch: dict[str, jax.ShapeDtypeStruct]
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
    ValueError: if settings do not fit each other or the devices, or nothing
      says how large images are.
  """
  chosen = build.stage_configs(settings.complete(config))[stage]
  batch, assumed = inputs.inputs(chosen, image)
  mesh = layout.mesh(on, **chosen["mesh"])
  program = build.program(chosen, mesh, batch, steps=chosen["steps"])
  return Draft(
      chosen, program, memory.state(program), memory.on_rows(program, batch),
      assumed,
  )


def parameters(draft: Draft) -> dict[str, Any]:
  """Counts parameters by tower, and what the optimizer keeps of them.

  Args:
    draft: of the stage.

  Returns:
    `parameters` by tower and in `total`, `trainable`, `optimizer_bytes` (one
    copy, all devices together).
  """
  def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

  params = draft.state.params
  trainable, _ = paths.split(params, draft.config["frozen"])
  return {
      "parameters": {
          **{tower: count(part) for tower, part in params.items()},
          "total": count(params),
      },
      "trainable": count(trainable),
      "optimizer_bytes": memory.whole(draft.state.opt_state),
  }

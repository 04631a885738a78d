"""Configurations to objects: names and numbers in, functions out.

Past this file nobody sees a setting. `run` makes every stage of an experiment;
nothing is on a device until `Stage.fresh` is called.
"""

import functools
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from basic import gradient, optim, paths, types
from basic.data import pipeline, stored_embeddings
from basic.engine import model, step
from basic.experiment import (
  evaluation,
  input_pipeline,
  schema,
  settings,
)
from basic.sharding import layout

Settings = settings.Settings

# Rows that are encoded at a time where nothing is kept of them.
_STORE_ROWS = 256
_log = logging.getLogger(__name__)


class Program(NamedTuple):
  """What a stage computes, apart from its data.

  Attributes:
    layout: placement of its parameters.
    model: its towers.
    objective: its loss.
    rate: step of the schedule -> learning rate.
    fresh: () -> TrainState, placed; pure, so that `eval_shape` serves.
    update: (state, batch) -> (state, metrics), compiled, state donated.
    batch: ShapeDtypeStructs of what `update` takes: embeddings where they are
      stored.
  """

  layout: layout.Layout
  model: types.Model
  objective: types.Objective
  rate: Callable[[int], Any]
  fresh: Callable[[], types.TrainState]
  update: Callable[..., Any]
  batch: types.Batch

  def state(self) -> types.TrainState:
    """Shapes and shardings of the state, nothing allocated."""
    shapes = jax.eval_shape(self.fresh)
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        shapes, self.layout.place(shapes),
    )


class Stage(NamedTuple):
  """One stretch of steps under the same settings.

  Attributes:
    start: the step it begins at.
    end: the step it ends at.
    rate_start: the step at which its optimizer's schedule begins.
    config: its complete configuration.
    shapes: ShapeDtypeStructs of the global batch, as it is before any of it is
      stored.
    program: what it computes.
    store: parameters -> None; writes the embeddings that the stream reads,
      where there are such and they are not there.
    stream: position -> Stream of batches on the host.
    source: where they come from.
    evals: its evaluations.
    starts_anew: patterns of the parameters that do not continue from the stage
      before.
  """

  start: int
  end: int
  rate_start: int
  config: dict[str, Any]
  shapes: types.Batch
  program: Program
  store: Callable[[types.Params], None]
  stream: Callable[[int], pipeline.Stream]
  source: types.Source
  evals: tuple[evaluation.Evaluation, ...]
  starts_anew: tuple[str, ...] = ()


def run(config: Settings, workdir: str | os.PathLike) -> list[Stage]:
  """Builds every stage of a complete configuration.

  Args:
    config: from `settings.complete`.
    workdir: folder of the run; its vocabulary is stored there, and used again.

  Returns:
    The stages, in order; most runs have one.

  Raises:
    ValueError: if settings do not fit each other: a batch that devices or
      chunks do not divide, a source without examples, views without a tower.
  """
  mesh = layout.mesh(**config["mesh"])
  configs = stage_configs(config)
  tokenizer = input_pipeline.run_tokenizer(configs, workdir)
  stages: list[Stage] = []
  starts = np.cumsum([0] + [c["steps"] for c in configs]).tolist()
  for n, stage_config in enumerate(configs):
    first, last = _span(configs, n)
    stages.append(_stage(
        stage_config, mesh, tokenizer, workdir, start=starts[n], end=starts[n + 1],
        rate_start=starts[first], rate_steps=starts[last + 1] - starts[first],
    ))
    if config["stages"]:
      own, _ = settings.split_stage(config["stages"][n])
      stages[n] = stages[n]._replace(starts_anew=own["fresh"])
  return stages


def stage_configs(config: Settings) -> list[dict[str, Any]]:
  """The complete configuration of every stage, in order."""
  if not config["stages"]:
    return [dict(config)]
  base = {**config, "stages": ()}
  stages = []
  for changes in config["stages"]:
    _, changes = settings.split_stage(changes)
    stages.append(settings.complete(settings.changed(base, changes)))
  return stages


def check_stages(stages: list[Stage]) -> None:
  """Refuses stages that would lose what the stage before them learned.

  Args:
    stages: of a run, in order.

  Raises:
    ValueError: as `engine.step.check_carry`, with the number of the stage.
  """
  for n, (before, after) in enumerate(itertools.pairwise(stages), 1):
    try:
      step.check_carry(
          jax.eval_shape(before.program.fresh),
          jax.eval_shape(after.program.fresh),
          fresh=after.starts_anew,
      )
    except ValueError as error:
      raise ValueError(f"stages[{n}]: {error}") from error


def _span(configs: Sequence[Settings], n: int) -> tuple[int, int]:
  """First and last stage that share the optimizer of stage n."""

  def shared(a, b):
    return all(configs[a][k] == configs[b][k] for k in ("optimizer", "frozen"))

  first = last = n
  while first > 0 and shared(first - 1, n):
    first -= 1
  while last + 1 < len(configs) and shared(last + 1, n):
    last += 1
  return first, last


def program(
    config: Settings, mesh: Any, shapes: types.Batch, *, steps: int
) -> Program:
  """Builds what a stage computes for batches of these shapes.

  Args:
    config: complete, of one stage.
    mesh: from `layout.mesh`.
    shapes: ShapeDtypeStructs of a global batch.
    steps: length of its optimizer's schedule.

  Returns:
    A program; nothing is on a device.

  Raises:
    ValueError: if settings do not fit each other.
  """
  towers = {
      name: schema.make("encoders", config[name])
      for name in ("image", "text") if config[name] is not None
  }
  both = model.model(towers, views=config["views"], **config["projection"])
  objective = schema.make("objectives", config["objective"])
  placement = layout.Layout(
      mesh, model.axes(both, objective), _waiting(config, both.encode)
  )
  placement.check_batch(config["batch_size"])
  placement.check_waiting(config["batch_size"])
  optimizer = _called(optim, config["optimizer"], steps=steps)
  frozen = config["frozen"]
  stored = config["stored"]
  gradients = _called(
      gradient, config["gradient"],
      stored_embeddings.encode(both.encode, stored), objective, frozen=frozen,
  )
  init = functools.partial(
      step.fresh(both, objective, optimizer.tx, frozen=frozen),
      jax.random.key(config["seed"]), shapes,
  )
  state = jax.eval_shape(init)
  placed = placement.place(state)
  _check_trainable(state.params, frozen)
  stored_embeddings.check(
      stored, both.encode, state.params, frozen, config["augment"], shapes
  )
  return Program(
      placement, both, objective, optimizer.rate,
      fresh=jax.jit(init, out_shardings=placed),
      update=jax.jit(
          step.update(gradients, optimizer.tx, frozen=frozen),
          donate_argnums=0, out_shardings=(placed, None),
      ),
      batch=stored_embeddings.shapes(stored, both.encode, state.params, shapes),
  )


def _check_trainable(params, frozen):
  """Refuses a stage that cannot learn, and warns of one that learns no tower."""
  trainable, _ = paths.split(params, frozen)
  if not trainable:
    raise ValueError(
        f"frozen={tuple(frozen)} matches every parameter, so nothing would be "
        "trained; leave some of them out."
    )
  if set(trainable) == {"objective"} and set(params) != {"objective"}:
    _log.warning(
        "frozen=%s matches all parameters of the towers: only %s will be trained",
        tuple(frozen), sorted(paths.flatten(trainable)),
    )


def _waiting(config, encode):
  """Leaf of the batch that waits on the host -> its chunks."""
  chosen = config["gradient"]
  if chosen.get("inputs", "device") == "device":  # Not every one has this setting.
    return {}
  return gradient.waiting(chosen["chunks"], encode.views)


def _stage(
    config, mesh, tokenizer, workdir, *, start, end, rate_start, rate_steps
):
  source = schema.make("sources", config["source"])
  to_arrays = input_pipeline.to_arrays(
      source, tokenizer, config, config["captions"]
  )
  shapes = input_pipeline.shapes(source, to_arrays, config["batch_size"])
  made = program(config, mesh, shapes, steps=rate_steps)
  files = stored_embeddings.files(config["stored"], workdir, start)
  read = stored_embeddings.Stored(source, files) if files else source
  of_read = input_pipeline.to_arrays(
      source, tokenizer, config, config["captions"], embedded=files
  )
  towers = evaluation.encoder(
      made.model, made.layout,
      {view.field for view in made.model.encode.views.values()},
  )
  return Stage(
      start=start, end=end, rate_start=rate_start, config=config,
      shapes=shapes, program=made, source=source,
      store=functools.partial(_store, files, source, to_arrays, made),
      stream=functools.partial(
          input_pipeline.stream, read, of_read, config["batch_size"], config["seed"]
      ),
      evals=tuple(
          evaluation.evaluation(
              label, own, towers, made.layout, tokenizer, config
          )
          for label, own in config["evals"].items()
      ),
  )


def _store(files, source, to_arrays, program, params):
  """Writes what locked towers make of the source, unless it is there already."""
  devices = program.layout.mesh.size
  rows = -(-_STORE_ROWS // devices) * devices
  for field, path in files.items():
    tower = evaluation.encoder(program.model, program.layout, {field})

    def embed(batch, field=field, tower=tower):
      return tower.encode(params, batch).views[field].pooled

    with pipeline.once(source, prepare=to_arrays, batch_size=rows) as passed:
      stored_embeddings.write(path, len(source), passed, embed)


def _called(module: Any, config: Settings, *args: Any, **given: Any) -> Any:
  own = {k: v for k, v in config.items() if k != "name"}
  return getattr(module, config["name"])(*args, **{**given, **own})

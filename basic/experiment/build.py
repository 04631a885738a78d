"""Configurations to objects: names and numbers in, functions out.

Past this file nobody sees a setting. `run` makes every stage of an experiment;
nothing is on a device until `Stage.fresh` is called.
"""

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from basic import gradient, optim, types
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


class Stage(NamedTuple):
  """One stretch of steps under the same settings.

  Attributes:
    start: the step it begins at.
    end: the step it ends at.
    rate_start: the step at which its optimizer's schedule begins.
    config: its complete configuration.
    batch_size: rows of the global batch.
    shapes: ShapeDtypeStructs of the global batch, as it is before any of it is
      stored.
    batch: those of what `update` takes.
    layout: placement of its parameters.
    rate: step of the schedule -> learning rate.
    fresh: () -> TrainState, placed; pure, so that `eval_shape` serves.
    update: (state, batch) -> (state, metrics), compiled, state donated.
    store: parameters -> None; writes the embeddings that the stream reads,
      where there are such and they are not there.
    stream: position -> Stream of batches on the host.
    source: where they come from.
    evals: what is judged.
    starts_anew: patterns of what does not go on from the stage before.
  """

  start: int
  end: int
  rate_start: int
  config: dict[str, Any]
  batch_size: int
  shapes: types.Batch
  batch: types.Batch
  layout: layout.Layout
  rate: Callable[[int], Any]
  fresh: Callable[[], types.TrainState]
  update: Callable[..., Any]
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
  words = input_pipeline.words(configs, workdir)
  stages: list[Stage] = []
  starts = np.cumsum([0] + [c["steps"] for c in configs]).tolist()
  for n, stage_config in enumerate(configs):
    first, last = _span(configs, n)
    stages.append(_stage(
        stage_config, mesh, words, workdir, start=starts[n], end=starts[n + 1],
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
          jax.eval_shape(before.fresh), jax.eval_shape(after.fresh),
          fresh=after.starts_anew,
      )
    except ValueError as error:
      raise ValueError(f"stages[{n}]: {error}") from error


def _span(configs: list[Settings], n: int) -> tuple[int, int]:
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
  tree = model.model(towers, views=config["views"], **config["projection"])
  objective = schema.make("objectives", config["objective"])
  where = layout.Layout(
      mesh, model.axes(tree, objective), _waiting(config, tree.encode)
  )
  where.check_batch(config["batch_size"])
  where.check_waiting(config["batch_size"])
  optimizer = _called(optim, config["optimizer"], steps=steps)
  frozen = config["frozen"]
  kept = config["stored"]
  gradients = _called(
      gradient, config["gradient"],
      stored_embeddings.encode(tree.encode, kept), objective, frozen=frozen,
  )
  init = functools.partial(
      step.fresh(tree, objective, optimizer.tx, frozen=frozen),
      jax.random.key(config["seed"]), shapes,
  )
  state = jax.eval_shape(init)
  placed = where.place(state)
  stored_embeddings.check(
      kept, tree.encode, state.params, frozen, config["augment"], shapes
  )
  return Program(
      where, tree, objective, optimizer.rate,
      fresh=jax.jit(init, out_shardings=placed),
      update=jax.jit(
          step.update(gradients, optimizer.tx, frozen=frozen),
          donate_argnums=0, out_shardings=(placed, None),
      ),
      batch=stored_embeddings.shapes(kept, tree.encode, state.params, shapes),
  )


def _waiting(config, encode):
  """Leaf of the batch that waits on the host -> its chunks."""
  how = config["gradient"]
  if how.get("inputs", "device") == "device":  # A gradient without has no say.
    return {}
  return gradient.waiting(how["chunks"], encode.views)


def _stage(
    config, mesh, words, workdir, *, start, end, rate_start, rate_steps
):
  source = schema.make("sources", config["source"])
  ready = input_pipeline.prepare(source, words, config, config["captions"])
  shapes = input_pipeline.shapes(source, ready, config["batch_size"])
  made = program(config, mesh, shapes, steps=rate_steps)
  files = stored_embeddings.files(config["stored"], workdir, start)
  read = stored_embeddings.Stored(source, files) if files else source
  arrays = input_pipeline.prepare(
      source, words, config, config["captions"], given=files
  )
  return Stage(
      start=start, end=end, rate_start=rate_start, config=config,
      batch_size=config["batch_size"], shapes=shapes, batch=made.batch,
      layout=made.layout, rate=made.rate, fresh=made.fresh, update=made.update,
      store=functools.partial(
          _store, files, source, ready, made.model, made.layout
      ),
      stream=functools.partial(
          input_pipeline.stream, read, arrays, config["batch_size"], config["seed"]
      ),
      source=source,
      evals=tuple(
          evaluation.evaluation(
              label, how, made.model, made.layout, words, config
          )
          for label, how in config["evals"].items()
      ),
  )


def _store(files, source, ready, tree, where, params):
  """Runs locked towers over the source, as far as that is not done."""
  devices = where.mesh.size
  rows = -(-_STORE_ROWS // devices) * devices
  for leaf, path in files.items():
    encode = evaluation.encoding(tree, where, {leaf})

    def embed(batch, leaf=leaf, encode=encode):
      return encode(params, batch).views[leaf].pooled

    with pipeline.once(source, prepare=ready, batch_size=rows) as passed:
      stored_embeddings.write(path, len(source), passed, embed)


def _called(module: Any, config: Settings, *args: Any, **given: Any) -> Any:
  own = {k: v for k, v in config.items() if k != "name"}
  return getattr(module, config["name"])(*args, **{**given, **own})

"""Builds the stages of an experiment from its configuration.

The code called from here takes plain arguments and never reads a configuration.
`run` builds every stage; nothing is placed on a device until `Program.fresh` is
called.
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
from basic.data import orders, pipeline, stored_embeddings
from basic.engine import carry, model, step
from basic.experiment import check_sources, evaluation, input_pipeline, schema, settings
from basic.ops import photometric
from basic.sharding import layout

Settings = settings.Settings

# Rows per batch when embeddings are computed for storage, without gradients.
_STORE_ROWS = 256
_log = logging.getLogger(__name__)


class Program(NamedTuple):
  """What a stage computes, apart from its data.

  Attributes:
    layout: mesh and shardings of its parameters and batches.
    model: its towers.
    objective: its loss.
    rate: step of the schedule -> learning rate.
    fresh: () -> initial TrainState, sharded; pure, so `eval_shape` can trace it.
    update: (state, batch) -> (state, metrics), compiled; the state is donated.
    batch: ShapeDtypeStructs of the batch that `update` takes, with embeddings
      in place of the inputs of stored views.
  """

  layout: layout.Layout
  model: types.Model
  objective: types.Objective
  rate: Callable[[int], Any]
  fresh: Callable[[], types.TrainState]
  update: Callable[..., Any]
  batch: types.Batch

  def state(self) -> types.TrainState:
    """Shapes and shardings of the state; nothing is allocated."""
    shapes = jax.eval_shape(self.fresh)
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        shapes, self.layout.place(shapes),
    )


class Stage(NamedTuple):
  """A number of consecutive steps with the same settings.

  Attributes:
    start: steps already taken when it begins.
    end: steps taken when it ends.
    rate_start: the step at which its learning rate schedule begins.
    config: its complete configuration.
    shapes: ShapeDtypeStructs of the global batch as read from the source,
      before fields of stored views are replaced by embeddings.
    program: what it computes.
    store: parameters -> None; computes and writes the stored embeddings that
      `stream` reads, unless they exist already.
    stream: position -> Stream of batches in host memory.
    source: the dataset that the batches are read from.
    vocabulary: fingerprint of the run's vocabulary; None without one.
    evals: its evaluations.
    starts_anew: patterns of parameter paths that are initialised again instead
      of continuing from the stage before.
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
  vocabulary: str | None
  evals: tuple[evaluation.Evaluation, ...]
  starts_anew: tuple[str, ...]


@schema.sharing()
def run(config: Settings, workdir: str | os.PathLike) -> list[Stage]:
  """Builds every stage of a complete configuration.

  Args:
    config: from `settings.complete`.
    workdir: folder of the run; its vocabulary is stored there and reused.

  Returns:
    The stages, in order; most runs have only one.

  Raises:
    ValueError: if settings contradict each other: a batch size that is not
      divisible by the devices or chunks, a source without examples, views
      without a tower.
  """
  mesh = layout.mesh(**config["mesh"])
  configs = stage_configs(config)
  check_sources.check_sources(configs, workdir)
  tokenizer = input_pipeline.run_tokenizer(configs, workdir)
  stages: list[Stage] = []
  starts = np.cumsum([0] + [c["steps"] for c in configs]).tolist()
  for n, stage_config in enumerate(configs):
    first, last = span(configs, n)
    own: Any = {"fresh": ()}  # Settings that only a stage has.
    if config["stages"]:
      own, _ = settings.split_stage(config["stages"][n])
    stages.append(_stage(
        stage_config, mesh, tokenizer, workdir, start=starts[n], end=starts[n + 1],
        rate_start=starts[first], rate_steps=starts[last + 1] - starts[first],
        starts_anew=own["fresh"],
    ))
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
  """Rejects stages that would silently discard what the previous stage learned.

  Args:
    stages: all stages of a run, in order.

  Raises:
    ValueError: as `engine.carry.check`, with the number of the stage.
  """
  for n, (before, after) in enumerate(itertools.pairwise(stages), 1):
    try:
      carry.check(
          jax.eval_shape(before.program.fresh),
          jax.eval_shape(after.program.fresh),
          fresh=after.starts_anew,
      )
    except ValueError as error:
      raise ValueError(f"stages[{n}]: {error}") from error


def span(configs: Sequence[Settings], n: int) -> tuple[int, int]:
  """First and last of the consecutive stages that share stage n's optimizer.

  They share one learning rate schedule too.

  Args:
    configs: complete configurations of all stages.
    n: index of a stage.
  """

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
    config: complete configuration of one stage.
    mesh: from `layout.mesh`.
    shapes: ShapeDtypeStructs of a global batch.
    steps: length of the learning rate schedule.

  Returns:
    A program; nothing is placed on a device yet.

  Raises:
    ValueError: if settings contradict each other.
  """
  network, objective = networks(config)
  placement = layout.Layout(
      mesh, model.axes(network, objective), _waiting(config, network.encode)
  )
  placement.check_batch(config["batch_size"])
  placement.check_waiting(config["batch_size"])
  chosen = optimizer(config, steps)
  frozen = config["frozen"]
  stored = config["stored"]
  gradients = _call(
      gradient, config["gradient"],
      stored_embeddings.encode(network.encode, stored), objective, frozen=frozen,
  )
  init = functools.partial(
      step.fresh(network, objective, chosen.tx, frozen=frozen),
      jax.random.key(config["seed"]), shapes,
  )
  state = jax.eval_shape(init)
  shardings = placement.place(state)
  _check_trainable(state.params, frozen)
  stored_embeddings.check(
      stored, network.encode, state.params, frozen, config["augment"], shapes
  )
  return Program(
      placement, network, objective, chosen.rate,
      fresh=jax.jit(init, out_shardings=shardings),
      update=jax.jit(
          step.update(gradients, chosen.tx, frozen=frozen),
          donate_argnums=0, out_shardings=(shardings, None),
      ),
      batch=stored_embeddings.shapes(
          stored, network.encode, state.params, shapes
      ),
  )


def optimizer(config: Settings, steps: int) -> optim.Optimizer:
  """The optimizer of a stage.

  Args:
    config: complete configuration of one stage.
    steps: length of the learning rate schedule, unless the settings give it.
  """
  return _call(optim, config["optimizer"], steps=max(steps, 1))


def networks(config: Settings) -> tuple[types.Model, types.Objective]:
  """The towers of a stage, and its objective.

  Args:
    config: complete configuration of one stage.

  Raises:
    ValueError: if settings contradict each other.
  """
  towers = {
      name: schema.make("encoders", config[name])
      for name in ("image", "text") if config[name] is not None
  }
  changes = {
      field: functools.partial(photometric.photometric, **each)
      for field, each in config["photometric"].items()
  }
  network = model.model(
      towers, views=config["views"], changes=changes, **config["projection"]
  )
  return network, schema.make("objectives", config["objective"])


def _check_trainable(params, frozen):
  """Rejects a stage that trains nothing; warns if it trains no tower."""
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
  """Field of the batch kept in host memory -> its number of chunks."""
  method = config["gradient"]
  # Only methods that work in chunks have the setting `inputs`.
  if method.get("inputs", "device") == "device":
    return {}
  return gradient.waiting(method["chunks"], encode.views)


def _stage(
    config, mesh, tokenizer, workdir, *, start, end, rate_start, rate_steps,
    starts_anew,
):
  """Builds one stage of a run: its program, its data and its evaluations."""
  tokenizer = input_pipeline.at_length(tokenizer, config)
  source = schema.make("sources", config["source"])
  to_arrays = input_pipeline.to_arrays(
      source, tokenizer, config, config["captions"]
  )
  shapes = input_pipeline.shapes(source, to_arrays, config["batch_size"])
  stage_program = program(config, mesh, shapes, steps=rate_steps)
  orders.order(source, seed=config["seed"], **input_pipeline.order(config))
  files = stored_embeddings.files(config["stored"], workdir, start)
  train_source = (
      stored_embeddings.Stored(source, files) if files else source
  )
  train_arrays = input_pipeline.to_arrays(
      source, tokenizer, config, config["captions"], embedded=files
  )
  towers = evaluation.encoder(
      stage_program.model, stage_program.layout,
      {view.field for view in stage_program.model.encode.views.values()},
      stage_program.objective,
  )
  return Stage(
      start=start, end=end, rate_start=rate_start, config=config,
      starts_anew=starts_anew, shapes=shapes, program=stage_program, source=source,
      vocabulary=(
          None if tokenizer is None else input_pipeline.fingerprint(workdir)
      ),
      store=functools.partial(
          _store, files, source, to_arrays, stage_program,
          input_pipeline.patience(config),
      ),
      stream=functools.partial(
          input_pipeline.stream, train_source, train_arrays,
          config["batch_size"], config["seed"], config["loader"],
          input_pipeline.patience(config),
      ),
      evals=tuple(
          evaluation.evaluation(
              label, eval_config, towers, stage_program.layout, tokenizer, config
          )
          for label, eval_config in config["evals"].items()
      ),
  )


def _store(files, source, to_arrays, program, patience, params):
  """Stores the embeddings of the source by locked towers, unless they exist."""
  devices = program.layout.mesh.size
  rows = -(-_STORE_ROWS // devices) * devices
  for field, path in files.items():
    tower = evaluation.encoder(program.model, program.layout, {field})

    def embed(batch, field=field, tower=tower):
      return tower.encode(params, batch).views[field].pooled

    with pipeline.once(
        source, prepare=to_arrays, batch_size=rows, patience=patience
    ) as batches:
      stored_embeddings.write(path, len(source), batches, embed)


def _call(module: Any, config: Settings, *args: Any, **defaults: Any) -> Any:
  """Calls the function `name` of a module with the group's other settings."""
  arguments = {k: v for k, v in config.items() if k != "name"}
  return getattr(module, config["name"])(*args, **{**defaults, **arguments})

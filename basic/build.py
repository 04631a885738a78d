"""Configurations to objects: names and numbers in, functions out.

Past this file nobody sees a setting. `run` makes every stage of an experiment;
nothing is on a device until `Stage.fresh` is called.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from basic import (
    gradient,
    images,
    initial,
    layout,
    model,
    optim,
    pipeline,
    schema,
    settings,
    step,
    tokenizer,
    types,
    vocabulary,
)

Settings = settings.Settings


def _made(folder: str, settings: Settings, **given: Any) -> Any:
  """Calls the plug-in that complete settings name."""
  function = schema.plugin(folder, settings["name"])
  wanted = {k: v for k, v in given.items() if schema.takes(function, k)}
  own = {k: v for k, v in settings.items() if schema.takes(function, k)}
  return function(**{**wanted, **own})


class Shown(NamedTuple):
  """Examples with their embeddings, on the host.

  Attributes:
    images: uint8 [n h w c]; None where the data has none.
    captions: n strings, the first of each example; empty where there are none.
    views: pooled embeddings [n d] by view, not normalised.
  """

  images: Any
  captions: list[str]
  views: Mapping[str, Any]


class Evaluation(NamedTuple):
  """An evaluator with its data: `run(params)` gives metrics.

  Attributes:
    prefix: of its metrics: "zeroshot/pairs".
    every: steps between two; None: at the end only.
    run: parameters -> metrics, floats.
    samples: (parameters, count) -> the first examples, to look at.
  """

  prefix: str
  every: int | None
  run: Callable[[types.Params], dict[str, float]]
  samples: Callable[[types.Params, int], Shown]


class Program(NamedTuple):
  """What a stage computes, apart from its data.

  Attributes:
    layout: placement of its parameters.
    model: its towers.
    objective: its loss.
    rate: step of the schedule -> learning rate.
    fresh: () -> TrainState, placed; pure, so that `eval_shape` serves.
    update: (state, batch) -> (state, metrics), compiled, state donated.
  """

  layout: layout.Layout
  model: types.Model
  objective: types.Objective
  rate: Callable[[int], Any]
  fresh: Callable[[], types.TrainState]
  update: Callable[..., Any]


class Stage(NamedTuple):
  """One stretch of steps under the same settings.

  Attributes:
    start: the step it begins at.
    end: the step it ends at.
    rate_start: the step at which its optimizer's schedule begins.
    config: its complete configuration.
    batch_size: rows of the global batch.
    shapes: ShapeDtypeStructs of the global batch.
    layout: placement of its parameters.
    rate: step of the schedule -> learning rate.
    fresh: () -> TrainState, placed; pure, so that `eval_shape` serves.
    update: (state, batch) -> (state, metrics), compiled, state donated.
    stream: position -> Stream of batches on the host.
    source: where they come from.
    evals: what is judged.
  """

  start: int
  end: int
  rate_start: int
  config: dict[str, Any]
  batch_size: int
  shapes: types.Batch
  layout: layout.Layout
  rate: Callable[[int], Any]
  fresh: Callable[[], types.TrainState]
  update: Callable[..., Any]
  stream: Callable[[int], pipeline.Stream]
  source: types.Source
  evals: tuple[Evaluation, ...]


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
  words = _words(configs, workdir)
  stages: list[Stage] = []
  starts = np.cumsum([0] + [c["steps"] for c in configs]).tolist()
  for n, stage_config in enumerate(configs):
    first, last = _span(configs, n)
    stages.append(_stage(
        stage_config, mesh, words, start=starts[n], end=starts[n + 1],
        rate_start=starts[first], rate_steps=starts[last + 1] - starts[first],
    ))
  return stages


def stage_configs(config: Settings) -> list[dict[str, Any]]:
  """The complete configuration of every stage, in order."""
  if not config["stages"]:
    return [dict(config)]
  base = {**config, "stages": ()}
  return [
      settings.complete(settings.changed(base, changes))
      for changes in config["stages"]
  ]


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


Words = tokenizer.Tokenizer | vocabulary.Vocabulary


def _words(configs, workdir) -> Words | None:
  """The run's vocabulary: stored with it, its weights', or of its captions."""
  texts = [c for c in configs if c["text"] is not None]
  if not texts:
    return None
  config = texts[0]
  text, how = config["text"], config["tokenizer"]
  folder = pathlib.Path(workdir)
  # Without a configuration it is left from a start that failed.
  if (folder / "config.json").exists() and (folder / tokenizer.FILE).exists():
    return tokenizer.Tokenizer(tokenizer.load(folder), text["length"])
  if how["model"] is None and (words := initial.words(config, folder)):
    return words
  if how["model"] is not None:
    content = pathlib.Path(how["model"]).read_bytes()
  else:
    content = tokenizer.train(
        _captions(_made("sources", config["source"]), how["captions"]),
        vocab=text["vocab"], seed=config["seed"],
    )
  words = tokenizer.Tokenizer(content, text["length"])
  if words.vocab > text["vocab"]:
    raise ValueError(
        f"the vocabulary has {words.vocab} pieces and text.vocab is "
        f"{text['vocab']}; set text.vocab to {words.vocab} or more."
    )
  tokenizer.save(content, folder)
  return words


def _captions(source, count):
  """All captions of examples spread evenly over a source."""
  if len(source) == 0:
    raise ValueError("the source has no examples; check its name and split.")
  for index in np.linspace(0, len(source) - 1, min(count, len(source))):
    try:
      text = source[int(index)].get("text", ())
    except types.Unreadable:
      continue  # Counted when training meets it.
    captions = text if isinstance(text, (tuple, list)) else (text,)
    yield from (caption for caption in captions if isinstance(caption, str))


def batch_shapes(
    config: Settings, tokenize: Callable[[Any], Any] | None
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a global batch of a stage, from one example of its source."""
  return _shapes(
      _made("sources", config["source"]),
      _prepare(tokenize, config["augment"]), config["batch_size"],
  )


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
      name: _made("encoders", config[name])
      for name in ("image", "text") if config[name] is not None
  }
  tree = model.model(towers, views=config["views"], **config["projection"])
  where = layout.Layout(mesh, tree.axes)
  where.check_batch(config["batch_size"])
  objective = _made("objectives", config["objective"])
  optimizer = _called(optim, config["optimizer"], steps=steps)
  frozen = config["frozen"]
  gradients = _called(
      gradient, config["gradient"], tree.encode, objective, frozen=frozen
  )
  init = functools.partial(
      step.fresh(tree, objective, optimizer.tx, frozen=frozen),
      jax.random.key(config["seed"]), shapes,
  )
  placed = where.place(jax.eval_shape(init))
  return Program(
      where, tree, objective, optimizer.rate,
      fresh=jax.jit(init, out_shardings=placed),
      update=jax.jit(
          step.update(gradients, optimizer.tx, frozen=frozen),
          donate_argnums=0, out_shardings=(placed, None),
      ),
  )


def _stage(config, mesh, words, *, start, end, rate_start, rate_steps):
  source = _made("sources", config["source"])
  ready = _prepare(words, config["augment"])
  shapes = _shapes(source, ready, config["batch_size"])
  made = program(config, mesh, shapes, steps=rate_steps)
  return Stage(
      start=start, end=end, rate_start=rate_start, config=config,
      batch_size=config["batch_size"], shapes=shapes, layout=made.layout,
      rate=made.rate,
      fresh=made.fresh, update=made.update,
      stream=functools.partial(
          _stream, source, ready, config["batch_size"], config["seed"]
      ),
      source=source,
      evals=tuple(
          _evaluation(label, how, made.model, made.layout, words, ready)
          for label, how in config["evals"].items()
      ),
  )


def _called(module: Any, config: Settings, *args: Any, **given: Any) -> Any:
  own = {k: v for k, v in config.items() if k != "name"}
  return getattr(module, config["name"])(*args, **{**given, **own})


def _prepare(words, augment):
  return pipeline.prepare(
      tokenize=words, augment=images.augment(**augment)
  )


def _stream(source, ready, batch_size, seed, position):
  return pipeline.stream(
      source, prepare=ready, batch_size=batch_size, seed=seed, start=position,
      shard=(jax.process_index(), jax.process_count()),
  )


def _shapes(source, ready, batch_size):
  """Shapes of a global batch, from one example."""
  with pipeline.stream(
      source, prepare=ready, batch_size=1, seed=0, threads=0
  ) as one:
    return {
        name: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in next(one).items()
        if layout.holds(leaf)
    }


def _caption(example):
  text = example["text"]
  return text if isinstance(text, str) else text[0]


def _evaluation(label, config, tree, where, words, ready):
  source = _made("sources", config["source"])
  size = config["batch_size"]
  where.check_batch(size, f"evals.{label}.batch_size")
  judge = _made(
      "evals", config, tokenize=None if words is None else words.batch,
      classes=getattr(source, "classes", ()), batch_size=size,
  )
  leaves = {view.leaf for view in tree.encode.views.values()}
  # Replicated, so that every process can read all of it.
  embed = jax.jit(
      lambda params, batch: tree.encode(params, batch),
      out_shardings=where.everywhere,
  )

  def encode(params, batch):
    return embed(params, where.spread(
        {k: np.asarray(v) for k, v in batch.items() if k in leaves}
    ))

  def batches(limit):
    # Every process judges all of it: results need no collective.
    return pipeline.once(source, prepare=ready, batch_size=size, limit=limit)

  def judged(params):
    with batches(config["limit"]) as passed:
      found = judge(functools.partial(encode, params), passed)
    unreadable = {f"/unreadable/{k}": n for k, n in passed.unreadable.items()}
    return {name: float(x) for name, x in {**found, **unreadable}.items()}

  def samples(params, count):
    images, captions, views = [], [], []
    with batches(min(count, len(source))) as passed:
      for n, (batch, mask) in enumerate(passed):
        z = encode(params, batch)
        views.append({k: f.pooled[mask] for k, f in z.views.items()})
        if "image" in batch:
          images.append(batch["image"][mask])
        if "text" in batch:
          captions += [_caption(source[n * size + i]) for i in mask.nonzero()[0]]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *views)
    return Shown(np.concatenate(images) if images else None, captions, joined)

  return Evaluation(f"{config['name']}/{label}", config["every"], judged, samples)

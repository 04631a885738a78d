"""What a stage is judged by: an evaluator, its data, and samples to look at."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from basic import types
from basic.data import pipeline
from basic.experiment import input_pipeline, schema, settings
from basic.sharding import layout

Settings = settings.Settings


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


def encoding(
    tree: types.Model, where: layout.Layout, leaves: Collection[str]
) -> Callable[[types.Params, Mapping[str, Any]], types.Embedded]:
  """Encodes batches that every process holds in full.

  Args:
    tree: the towers.
    where: placement of their parameters.
    leaves: of a batch that are encoded, if it has them; others stay behind.

  Returns:
    (parameters, batch on the host) -> embeddings, without noise, of which every
    process can read all.
  """
  embed = jax.jit(
      lambda params, batch: tree.encode(params, batch),
      out_shardings=where.everywhere,
  )

  def encode(params, batch):
    return embed(params, where.spread(
        {k: np.asarray(v) for k, v in batch.items() if k in leaves}
    ))

  return encode


def evaluation(
    label: str,
    config: Settings,
    tree: types.Model,
    where: layout.Layout,
    words: input_pipeline.Words | None,
    stage: Settings,
) -> Evaluation:
  """Joins an evaluator of the configuration with its data and the towers.

  Args:
    label: its name in the configuration.
    config: its settings, complete.
    tree: the towers.
    where: placement of their parameters.
    words: the vocabulary of the run.
    stage: the complete configuration of the stage.

  Returns:
    An evaluation; its source is open, and nothing has run.

  Raises:
    ValueError: if settings do not fit each other.
  """
  source = schema.make("sources", config["source"])
  caption = input_pipeline.caption(source, config["label_captions"])
  ready = input_pipeline.prepare(source, words, stage, config["label_captions"])
  size = config["batch_size"]
  where.check_batch(size, f"evals.{label}.batch_size")
  judge = schema.make(
      "evals", config, tokenize=None if words is None else words.batch,
      classes=getattr(source, "classes", ()), batch_size=size,
  )
  encode = encoding(
      tree, where, {view.field for view in tree.encode.views.values()}
  )

  def batches(limit):
    # Every process judges all of it: results need no collective.
    return pipeline.once(source, prepare=ready, batch_size=size, limit=limit)

  def judged(params):
    with batches(config["limit"]) as passed:
      found = judge(functools.partial(encode, params), passed)
    unreadable = {f"/unreadable/{k}": n for k, n in passed.unreadable.items()}
    return {name: float(x) for name, x in {**found, **unreadable}.items()}

  def samples(params, count):
    images, said, views = [], [], []
    with batches(min(count, len(source))) as passed:
      for n, (batch, mask) in enumerate(passed):
        z = encode(params, batch)
        views.append({k: f.pooled[mask] for k, f in z.views.items()})
        if "image" in batch:
          images.append(batch["image"][mask])
        if "text" in batch:
          said += [_first(source[n * size + i], caption) for i in mask.nonzero()[0]]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *views)
    return Shown(np.concatenate(images) if images else None, said, joined)

  return Evaluation(f"{config['name']}/{label}", config["every"], judged, samples)


def _first(example, caption):
  """The first of the captions of an example."""
  text = example["text"] if caption is None else caption(example, None)
  return text if isinstance(text, str) else text[0]

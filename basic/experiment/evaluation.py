"""Evaluations of a stage: an evaluator, its dataset, and what the report shows."""

import functools
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from basic import cli, types
from basic.data import pipeline
from basic.engine import shared_rows
from basic.experiment import input_pipeline, schema, settings, shown
from basic.ops import bootstrap
from basic.sharding import layout

Settings = settings.Settings

# Examples that a rehearsal reads, and that it reads if those were not enough: the
# first ones may all be unreadable, or have no captions.
_REHEARSED = (32, 1024)
# Batches of small datasets may still have this many rows, since class prompts
# are encoded in batches of the same size.
_ROWS = 1024
_log = logging.getLogger(__name__)


class Encoder(NamedTuple):
  """Encodes batches without dropout.

  Attributes:
    encode: (parameters, batch) -> embeddings, replicated, so that every process
      can read all of them. A field in host memory is the same in every process;
      one that is an array over all devices is taken as it is.
    shapes: (shapes of the parameters, shapes of a batch) -> shapes of the
      embeddings; only traced, and `encode` reuses the cached trace.
    fields: names of the fields of a batch that it reads.
  """

  encode: Callable[[types.Params, Mapping[str, Any]], types.Embedded]
  shapes: Callable[[types.Params, Mapping[str, Any]], types.Embedded]
  fields: Collection[str]


class Evaluation(NamedTuple):
  """An evaluator with its dataset: `run(params)` returns metrics.

  Attributes:
    prefix: of its metrics' names: "zeroshot/pairs".
    every: steps between two evaluations; None: at the end only.
    run: parameters -> metrics, floats; `bootstrap.Measured` if the evaluator's are.
    rehearse: shapes of the parameters -> None; runs the evaluation on a few
      examples with zeros for embeddings, to raise before training what `run`
      would raise after it.
    samples: (parameters, count) -> some of its examples, for the report.
    answers: (parameters, count) -> the answers to some of its images, for the
      report, or None if they have no classes; None unless it is zero-shot.
  """

  prefix: str
  every: int | None
  run: Callable[[types.Params], dict[str, float]]
  rehearse: Callable[[types.Params], None]
  samples: Callable[[types.Params, int], shown.Shown]
  answers: Callable[[types.Params, int], shown.Answers | None] | None = None


def encoder(
    model: types.Model, placement: layout.Layout, fields: Collection[str]
) -> Encoder:
  """Compiles the towers for batches of an evaluation.

  All evaluations of a stage share one encoder: those with batches of the same
  shape share the compiled program.

  Args:
    model: the towers.
    placement: mesh and shardings of their parameters.
    fields: fields of a batch that are encoded; others are not transferred.

  Returns:
    An encoder.
  """
  embed = jax.jit(
      lambda params, batch: model.encode(params, batch),
      out_shardings=placement.everywhere,
  )

  def encode(params, batch):
    batch = {k: v for k, v in batch.items() if k in fields}
    # In a run of several processes, some are the rows of all of them already.
    placed = {k: v for k, v in batch.items() if isinstance(v, jax.Array)}
    spread = placement.spread(
        {k: np.asarray(v) for k, v in batch.items() if k not in placed}
    )
    return embed(params, {**placed, **spread})

  def shapes(params, batch):
    return jax.eval_shape(
        embed, params, {k: v for k, v in batch.items() if k in fields}
    )

  return Encoder(encode, shapes, fields)


def evaluation(
    label: str,
    config: Settings,
    towers: Encoder,
    placement: layout.Layout,
    tokenizer: input_pipeline.Tokenizer | None,
    stage: Settings,
) -> Evaluation:
  """Builds an evaluation from its settings and the towers of a stage.

  Args:
    label: its name in the configuration.
    config: its complete settings.
    towers: encoder of the stage.
    placement: mesh and shardings of the parameters.
    tokenizer: of the run; None without text.
    stage: the complete configuration of the stage.

  Returns:
    An evaluation; its source is open, and nothing has been computed.

  Raises:
    ValueError: if settings contradict each other.
  """
  source = schema.make("sources", config["source"])
  placement.check_batch(config["batch_size"], f"evals.{label}.batch_size")
  size = _rows(config, len(source), placement.mesh.size)
  evaluate = schema.make(
      "evals", {**config, "batch_size": size},
      tokenize=None if tokenizer is None else tokenizer.batch,
      classes=getattr(source, "classes", ()),
  )
  to_arrays = input_pipeline.to_arrays(
      source, tokenizer, stage, config["label_captions"]
  )
  patience = input_pipeline.patience(stage)

  def batches(limit, shard=(0, 1)):
    return pipeline.once(
        source, prepare=to_arrays, batch_size=size, shard=shard, limit=limit,
        patience=patience,
    )

  def run(params):
    shard = jax.process_index(), jax.process_count()
    with batches(config["limit"], shard) as dataset:
      metrics = evaluate(
          lambda batch: towers.encode(params, batch),
          shared_rows.shared(dataset, placement, towers.fields),
      )
    return _floats(metrics, _unreadable(label, config, source, dataset, stage))

  def rehearse(params):
    limit = min(config["limit"] or len(source), len(source))
    for count in (counts := sorted({min(each, limit) for each in _REHEARSED})):
      try:
        with batches(count) as dataset:
          evaluate(_zeros(towers, params, size), dataset)
        return
      except Exception as error:
        if count != counts[-1] and not isinstance(error, cli.Stalled):
          continue
        error.add_note(
            f"evals.{label} was tried on its first {count} examples before the "
            "first step, so nothing has been trained."
        )
        raise

  read = functools.partial(
      pipeline.once, prepare=to_arrays, batch_size=size, patience=patience
  )
  return Evaluation(
      f"{config['name']}/{label}", config["every"], run, rehearse,
      *shown.of(source, config, towers, placement, tokenizer, size, read),
  )


def _floats(metrics, counts):
  """Metrics and counts as floats; those that can be resampled still can be."""
  found = {name: float(x) for name, x in {**metrics, **counts}.items()}
  if isinstance(metrics, bootstrap.Measured):
    return bootstrap.Measured(metrics.again, metrics.per_example, found)
  return found


def _unreadable(label, config, source, dataset, stage):
  """Counts by reason; warns if more is unreadable than training allows."""
  unreadable = shared_rows.total(dataset.unreadable)
  count, examples = sum(unreadable.values()), len(source)
  examples = min(config["limit"] or examples, examples)
  if count / examples > stage["unreadable"]["most"]:
    listed = ", ".join(f"{n} x {reason}" for reason, n in unreadable.items())
    _log.warning(
        "evals.%s: %d of its %d examples could not be read (%s), so its results "
        "are those of the others and not comparable.",
        label, count, examples, listed,
    )
  return {f"/unreadable/{reason}": n for reason, n in unreadable.items()}


def _rows(config, examples, devices):
  """Rows of a batch: at most what the dataset, or class prompts, can fill."""
  count = max(min(config["limit"] or examples, examples), _ROWS)
  return min(config["batch_size"], -(-count // devices) * devices)


def _zeros(towers, params, size):
  """An encoder that returns zeros of the shapes of the towers' embeddings."""

  def encode(batch):
    # The same number of rows as in `run`, so that `run` reuses this trace.
    shapes = towers.shapes(params, {
        name: jax.ShapeDtypeStruct((size, *np.shape(x)[1:]), np.asarray(x).dtype)
        for name, x in batch.items()
    })
    rows = len(next(iter(batch.values())))
    return jax.tree.map(lambda z: np.zeros((rows, *z.shape[1:]), z.dtype), shapes)

  return encode

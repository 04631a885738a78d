"""Evaluations of a stage: an evaluator, its dataset, and samples for the report."""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from basic import cli, types
from basic.data import pipeline
from basic.engine import shared_rows
from basic.experiment import input_pipeline, schema, settings
from basic.sharding import layout

Settings = settings.Settings

# Examples that a rehearsal reads, and that it reads if those were not enough: the
# first ones may all be unreadable, or have no captions.
_REHEARSED = (32, 1024)
# Batches of small datasets may still have this many rows, since class prompts
# are encoded in batches of the same size.
_ROWS = 1024
_log = logging.getLogger(__name__)


class Shown(NamedTuple):
  """Examples with their embeddings, in host memory.

  Attributes:
    images: uint8 [n h w c]; None if the data has no images.
    captions: the first caption of each example; empty if there are none.
    views: pooled embeddings [n d] by view, not normalised.
  """

  images: Any
  captions: list[str]
  views: Mapping[str, Any]


class Encoder(NamedTuple):
  """Encodes batches without dropout.

  Attributes:
    encode: (parameters, batch) -> embeddings, replicated, so that every process
      can read all of them. A field in host memory is the same in every process;
      one that is an array over all devices is taken as it is.
    shapes: (shapes of the parameters, shapes of a batch) -> shapes of the
      embeddings; only traced, and `encode` reuses the cached trace.
    fields: names of the fields of a batch that it reads.
    logits: parameters -> how the objective scores pairs; None if it does not.
  """

  encode: Callable[[types.Params, Mapping[str, Any]], types.Embedded]
  shapes: Callable[[types.Params, Mapping[str, Any]], types.Embedded]
  fields: Collection[str]
  logits: Callable[[types.Params], types.Logits | None] = lambda params: None


class Evaluation(NamedTuple):
  """An evaluator with its dataset: `run(params)` returns metrics.

  Attributes:
    prefix: of its metrics' names: "zeroshot/pairs".
    every: steps between two evaluations; None: at the end only.
    run: parameters -> metrics, floats.
    rehearse: shapes of the parameters -> None; runs the evaluation on a few
      examples with zeros for embeddings, to raise before training what `run`
      would raise after it.
    samples: (parameters, count) -> the first examples, for the report.
  """

  prefix: str
  every: int | None
  run: Callable[[types.Params], dict[str, float]]
  rehearse: Callable[[types.Params], None]
  samples: Callable[[types.Params, int], Shown]


class _Data(NamedTuple):
  """A source that an evaluation reads, how many of its examples, and how."""

  name: str
  source: types.Source
  count: int
  prepare: Any

  @classmethod
  def of(cls, name: str, source: Any, limit: int | None, prepare: Any) -> "_Data":
    return cls(name, source, min(limit or len(source), len(source)), prepare)


def encoder(
    model: types.Model,
    placement: layout.Layout,
    fields: Collection[str],
    objective: types.Objective | None = None,
) -> Encoder:
  """Compiles the towers for batches of an evaluation.

  All evaluations of a stage share one encoder: those with batches of the same
  shape share the compiled program.

  Args:
    model: the towers.
    placement: mesh and shardings of their parameters.
    fields: fields of a batch that are encoded; others are not transferred.
    objective: whose temperature evaluators may ask for.

  Returns:
    An encoder.
  """
  score = None if objective is None else objective.logits
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

  def logits(params):
    return None if score is None else score(params["objective"])

  return Encoder(encode, shapes, fields, logits)


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
  read = _read(label, config, source, tokenizer, stage)
  most = max(each.count for each in read)
  size = _rows(config["batch_size"], most, placement.mesh.size)
  evaluate = schema.make(
      "evals", {**config, "batch_size": size},
      tokenize=None if tokenizer is None else tokenizer.batch,
      classes=getattr(source, "classes", ()),
  )
  patience = input_pipeline.patience(stage)

  def batches(data, limit, shard):
    return pipeline.once(
        data.source, prepare=data.prepare, batch_size=size, shard=shard,
        limit=min(data.count, limit), patience=patience,
    )

  def judge(encode, logits, limit, shard):
    asked = {"logits": logits} if schema.takes(evaluate, "logits") else {}
    with contextlib.ExitStack() as opened:
      passes = [opened.enter_context(batches(each, limit, shard)) for each in read]
      rows = passes if shard[1] == 1 else [
          shared_rows.shared(each, placement, towers.fields) for each in passes
      ]
      return evaluate(encode, *rows, **asked), passes

  def run(params):
    metrics, passes = judge(
        lambda batch: towers.encode(params, batch), towers.logits(params), most,
        (jax.process_index(), jax.process_count()),
    )
    for data, each in zip(read, passes, strict=True):
      metrics = {**metrics, **_unreadable(label, data, each.unreadable, stage)}
    return {name: float(x) for name, x in metrics.items()}

  def rehearse(params):
    zeros = _zeros(towers, params, size)
    _rehearse(label, most, lambda n: judge(zeros, types.Logits(1.0), n, (0, 1)))

  def samples(params, count):
    with batches(read[0]._replace(count=len(source)), count, (0, 1)) as dataset:
      return _samples(
          source, dataset, lambda batch: towers.encode(params, batch),
          input_pipeline.caption(source, config["label_captions"]), size,
      )

  return Evaluation(
      f"{config['name']}/{label}", config["every"], run, rehearse, samples
  )


def _rehearse(label, most, attempt):
  """Judges the first few examples, and more of them if that fails."""
  for count in (counts := sorted({min(each, most) for each in _REHEARSED})):
    try:
      attempt(count)
      return
    except Exception as error:
      if count != counts[-1] and not isinstance(error, cli.Stalled):
        continue
      error.add_note(
          f"evals.{label} was tried on its first {count} examples before the "
          "first step, so nothing has been trained."
      )
      raise


def _read(label, config, source, tokenizer, stage):
  """What an evaluation reads: its source, and its reference if it has one."""
  prepare = functools.partial(
      input_pipeline.to_arrays, tokenize=tokenizer, config=stage,
      templates=config["label_captions"],
  )
  read = [_Data.of("", source, config["limit"], prepare(source))]
  if "reference" in config:
    second = _second(label, config, source)
    limit = config["reference_limit"]
    read.append(_Data.of("/reference", second, limit, prepare(second)))
  return read


def _second(label, config, source):
  """The source `reference` of an evaluation, which has the labels of the first."""
  second = schema.make("sources", config["reference"])
  if not len(second):
    raise ValueError(
        f"evals.{label}.reference has no examples; check its name and split."
    )
  names = [tuple(getattr(each, "classes", ())) for each in (source, second)]
  if all(names) and names[0] != names[1]:
    pairs = itertools.zip_longest(*names)
    n, (first, other) = next((n, p) for n, p in enumerate(pairs) if p[0] != p[1])
    raise ValueError(
        f"evals.{label}: label {n} is {first!r} in its source and {other!r} in its "
        "reference; both need the same classes in the same order."
    )
  return second


def _unreadable(label, data, unreadable, stage):
  """Counts by reason; warns if more is unreadable than training allows."""
  unreadable = shared_rows.total(unreadable)
  count = sum(unreadable.values())
  if count / data.count > stage["unreadable"]["most"]:
    listed = ", ".join(f"{n} x {reason}" for reason, n in unreadable.items())
    _log.warning(
        "evals.%s: %d of its %d examples could not be read (%s), so its results "
        "are those of the others and not comparable.",
        f"{label}{data.name}".replace("/", "."), count, data.count, listed,
    )
  return {f"{data.name}/unreadable/{reason}": n for reason, n in unreadable.items()}


def _rows(batch_size, examples, devices):
  """Rows of a batch: at most what the dataset, or class prompts, can fill."""
  return min(batch_size, -(-max(examples, _ROWS) // devices) * devices)


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


def _samples(source, dataset, encode, caption, size):
  """Images, captions and embeddings of all readable examples of a dataset."""
  images, texts, views = [], [], []
  for n, (batch, mask) in enumerate(dataset):
    z = encode(batch)
    views.append({k: f.pooled[mask] for k, f in z.views.items()})
    if "image" in batch:
      images.append(batch["image"][mask])
    if "text" in batch:
      texts += [_first(source[n * size + i], caption) for i in mask.nonzero()[0]]
  joined = jax.tree.map(lambda *parts: np.concatenate(parts), *views)
  return Shown(np.concatenate(images) if images else None, texts, joined)


def _first(example, caption):
  """The first caption of an example that is not blank, as it is embedded."""
  text = example["text"] if caption is None else caption(example, None)
  texts = (text,) if isinstance(text, str) else text
  return next(text for text in texts if text and text.strip())

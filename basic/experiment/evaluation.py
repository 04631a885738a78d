"""What a stage is evaluated by: an evaluator, its data, and samples to look at."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from basic import types
from basic.data import pipeline
from basic.experiment import input_pipeline, schema, settings
from basic.sharding import layout

Settings = settings.Settings

# Examples that a rehearsal reads: enough to meet a readable one.
_REHEARSED = 32
# A batch may have so many rows though the data has fewer, for prompts are
# encoded in batches of the same size.
_ROWS = 1024


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


class Encoder(NamedTuple):
  """Encodes batches that every process holds in full, without noise.

  Attributes:
    encode: (parameters, batch on the host) -> embeddings, of which every
      process can read all.
    shapes: (shapes of the parameters, shapes of a batch) -> shapes of the
      embeddings; traced and not computed, and `encode` finds the trace again.
  """

  encode: Callable[[types.Params, Mapping[str, Any]], types.Embedded]
  shapes: Callable[[types.Params, Mapping[str, Any]], types.Embedded]


class Evaluation(NamedTuple):
  """An evaluator with its data: `run(params)` gives metrics.

  Attributes:
    prefix: of its metrics: "zeroshot/pairs".
    every: steps between two; None: at the end only.
    run: parameters -> metrics, floats.
    rehearse: shapes of the parameters -> None; does on a few examples all that
      `run` does, but for the encoding, and raises what `run` would raise.
    samples: (parameters, count) -> the first examples, to look at.
  """

  prefix: str
  every: int | None
  run: Callable[[types.Params], dict[str, float]]
  rehearse: Callable[[types.Params], None]
  samples: Callable[[types.Params, int], Shown]


def encoder(
    model: types.Model, placement: layout.Layout, fields: Collection[str]
) -> Encoder:
  """Compiles the towers for batches that every process holds in full.

  One is enough for all evaluations of a stage: those with batches of the same
  shape share the compiled program.

  Args:
    model: the towers.
    placement: of their parameters.
    fields: of a batch that are encoded, if it has them; others stay behind.

  Returns:
    An encoder.
  """
  embed = jax.jit(
      lambda params, batch: model.encode(params, batch),
      out_shardings=placement.everywhere,
  )

  def encode(params, batch):
    return embed(params, placement.spread(
        {k: np.asarray(v) for k, v in batch.items() if k in fields}
    ))

  def shapes(params, batch):
    return jax.eval_shape(
        embed, params, {k: v for k, v in batch.items() if k in fields}
    )

  return Encoder(encode, shapes)


def evaluation(
    label: str,
    config: Settings,
    towers: Encoder,
    placement: layout.Layout,
    tokenizer: input_pipeline.Tokenizer | None,
    stage: Settings,
) -> Evaluation:
  """Joins an evaluator of the configuration with its data and the towers.

  Args:
    label: its name in the configuration.
    config: its settings, complete.
    towers: of the stage.
    placement: of their parameters.
    tokenizer: of the run; None without text.
    stage: the complete configuration of the stage.

  Returns:
    An evaluation; its source is open, and nothing has run.

  Raises:
    ValueError: if settings do not fit each other.
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

  def batches(limit):
    # Every process evaluates all of it: results need no collective.
    return pipeline.once(
        source, prepare=to_arrays, batch_size=size, limit=limit
    )

  def run(params):
    with batches(config["limit"]) as passed:
      metrics = evaluate(lambda batch: towers.encode(params, batch), passed)
    unreadable = {f"/unreadable/{k}": n for k, n in passed.unreadable.items()}
    return {name: float(x) for name, x in {**metrics, **unreadable}.items()}

  def rehearse(params):
    few = min(config["limit"] or _REHEARSED, _REHEARSED)
    try:
      with batches(few) as passed:
        evaluate(_pretended(towers, params, size), passed)
    except Exception as error:
      error.add_note(
          f"evals.{label} was tried on its first {few} examples before the "
          "first step, so nothing has been trained."
      )
      raise

  def samples(params, count):
    with batches(min(count, len(source))) as passed:
      return _samples(
          source, passed, lambda batch: towers.encode(params, batch),
          input_pipeline.caption(source, config["label_captions"]), size,
      )

  return Evaluation(
      f"{config['name']}/{label}", config["every"], run, rehearse, samples
  )


def _rows(config, examples, devices):
  """Rows of a batch: no more than the data, or many prompts, can fill."""
  count = max(min(config["limit"] or examples, examples), _ROWS)
  return min(config["batch_size"], -(-count // devices) * devices)


def _pretended(towers, params, size):
  """Encodes batches as zeros of the shape that the towers would return."""

  def encode(batch):
    # Rows as in `run`, so that it finds the trace.
    found = towers.shapes(params, {
        name: jax.ShapeDtypeStruct((size, *np.shape(x)[1:]), np.asarray(x).dtype)
        for name, x in batch.items()
    })
    rows = len(next(iter(batch.values())))
    return jax.tree.map(lambda z: np.zeros((rows, *z.shape[1:]), z.dtype), found)

  return encode


def _samples(source, passed, encode, caption, size):
  """Images, captions and embeddings of all readable examples of a pass."""
  images, texts, views = [], [], []
  for n, (batch, mask) in enumerate(passed):
    z = encode(batch)
    views.append({k: f.pooled[mask] for k, f in z.views.items()})
    if "image" in batch:
      images.append(batch["image"][mask])
    if "text" in batch:
      texts += [_first(source[n * size + i], caption) for i in mask.nonzero()[0]]
  joined = jax.tree.map(lambda *parts: np.concatenate(parts), *views)
  return Shown(np.concatenate(images) if images else None, texts, joined)


def _first(example, caption):
  """The first of the captions of an example."""
  text = example["text"] if caption is None else caption(example, None)
  return text if isinstance(text, str) else text[0]

"""Evaluates towers on tasks; what was done once is not done again."""

import hashlib
import json
import math
import os
import pathlib
import time
from typing import Any

import jax

from basic import cli, files, types
from basic.engine import checksums, exchange
from basic.experiment import evaluation, features, schema, tasks, towers
from basic.ops import bootstrap
from basic.recording import redact

# Goes up when results of the same weights and settings would be others.
_VERSION = 1


def measure(
    model: towers.Towers, task: tasks.Task, out: str | os.PathLike
) -> dict[str, Any]:
  """The result of a task: measured now, or read where it was stored before.

  A result is stored in a file of its own when it is complete, under a name made of
  the weights, the vocabulary, the preprocessing and the settings of the task but
  its `batch_size`, so that a program that was killed goes on with the next task,
  and a result is never taken for that of something else. If the source says that
  its examples have changed, or the metric of the task is not among those stored,
  the task is measured again.

  Args:
    model: the towers.
    task: what to measure.
    out: folder of results; made if it does not exist.

  Returns:
    Plain data: "status", which is "done", "skipped" (its data is not there, or the
    model has no such tower) or "failed"; "why", if not done, in a sentence; "task",
    "about", "model", "step", "fingerprint", "settings", "shown" (the metrics for a
    table); and if done "metrics", "intervals" (95%, by metric, of those that can be
    resampled), "source" (its fingerprint), "state" (of its files), "examples" and
    "seconds".

  Raises:
    cli.Stalled: if a read does not end.
    OSError: if the result cannot be written.
  """
  settings = json.loads(json.dumps(task.settings))
  record = {
      "task": task.name, "about": task.about, "model": model.origin,
      "step": model.step, "fingerprint": model.fingerprint,
      "shown": list(task.metrics), "settings": redact.value("", settings),
  }
  path = pathlib.Path(out) / f"{task.name}-{_key(model, settings)}.json"
  stored = _stored(path, task.metrics[0])
  try:
    sources = _opened(task.settings)
    absent = None
  except FileNotFoundError as error:
    sources, absent = [], error
  except cli.EXPLAINED as error:
    return record | {"status": "failed", "why": _sentence(error)}
  now = [getattr(source, "fingerprint", None) for source in sources]
  state = _states(sources)
  # All processes do the same, also where they see other files.
  if _everywhere(
      stored is not None and (absent is not None or (
          stored["source"] == now and stored.get("state", [None] * len(now)) == state
      ))
  ):
    said = {key: record[key] for key in ("about", "model", "step", "shown")}
    return {**record, **(stored or {}), **said}
  if not _everywhere(absent is None):
    why = absent or "another process does not find its data."
    return record | {"status": "skipped", "why": f"{why} {task.needs}".strip()}
  if unfit := _unfit(model, task, sources):
    return record | unfit
  try:
    found = _measured(model, task, pathlib.Path(out))
  except cli.Stalled:
    raise
  except cli.EXPLAINED as error:
    return record | {"status": "failed", "why": _sentence(error)}
  record |= {"status": "done", "source": now, "state": state, **found}
  if jax.process_index() == 0:
    files.replace(path, (json.dumps(record, indent=1) + "\n").encode())
  return record


def _measured(
    model: towers.Towers, task: tasks.Task, out: pathlib.Path
) -> dict[str, Any]:
  """Metrics, their intervals, and how long it took."""
  start = time.monotonic()
  judge = evaluation.evaluation(
      task.name, task.settings, model.encoder, model.layout, model.tokenizer,
      model.config,
  )
  with model.layout.context():
    if "reference" in task.settings:  # Of which a training split is embedded once.
      metrics = _on_features(model, task.settings, out / "features")
    else:
      metrics = judge.run(model.params)
  if task.metrics[0] not in metrics:
    raise ValueError(
        f"the metric of {task.name} is {task.metrics[0]!r}, and what was measured is "
        f"{sorted(metrics)}."
    )
  intervals = {}
  if isinstance(metrics, bootstrap.Measured):
    intervals = bootstrap.intervals(metrics.again, metrics.examples)
  return {
      "metrics": {name: _number(x) for name, x in metrics.items()},
      "intervals": {
          name: [_number(x) for x in both] for name, both in intervals.items()
      },
      "examples": int(metrics.get("/count", 0)),
      "seconds": round(time.monotonic() - start, 3),
  }


def _on_features(model, settings, folder) -> types.Metrics:
  """An evaluator of frozen towers, on embeddings that are kept for other tasks."""
  evaluate = schema.make("evals", settings)
  if not _reads_words(model, settings):
    model, folder = model._replace(tokenizer=None), folder / "of_images"
  read, counts = [], {}
  for key, limit in (("source", "limit"), ("reference", "reference_limit")):
    read.append(features.features(
        model, settings[key], folder, limit=settings[limit],
        batch_size=settings["batch_size"], label_captions=settings["label_captions"],
    ))
    prefix = "" if key == "source" else f"/{key}"
    counts |= {
        f"{prefix}/unreadable/{reason}": float(n)
        for reason, n in read[-1].unreadable.items()
    }
  metrics = evaluate(read[0].encode, *(each.batches() for each in read))
  return bootstrap.extended(metrics, counts)


def _reads_words(model, settings) -> bool:
  """Whether a setting of an evaluator, such as `image`, names a view of texts."""
  views = model.model.encode.views
  return any(
      name in views and views[name].field == "text"
      for value in settings.values()
      for name in (value if isinstance(value, tuple) else (value,))
      if isinstance(name, str)
  )


def _key(model, settings):
  """Changes with everything that a result depends on, but the data itself."""
  rest = {name: x for name, x in settings.items() if name != "batch_size"}
  content = json.dumps([_VERSION, model.fingerprint, rest], sort_keys=True)
  return hashlib.sha256(content.encode()).hexdigest()[:16]


def _stored(path, metric):
  """A result that was stored before; None if there is none that has the metric."""
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError):
    return None
  complete = isinstance(found, dict) and found.get("status") == "done"
  return found if complete and metric in found["metrics"] else None


def _opened(settings):
  """The sources that a task reads."""
  return [
      schema.make("sources", settings[key]) for key in ("source", "reference")
      if settings.get(key) is not None
  ]


def _states(sources) -> list[str | None]:
  """The state of each source, the same in all processes that found them.

  Copies of the files on other hosts have other times.
  """
  own = [getattr(source, "state", None) for source in sources]
  return next((found for found in exchange.exchange(own) if found), own)


def _unfit(model, task, sources) -> dict[str, str]:
  """Why these towers cannot do a task, or a task does not fit its data."""
  asks = schema.plugin("evals", task.settings["name"])
  if schema.takes(asks, "tokenize") and model.tokenizer is None:
    why = f"{model.origin} has no text tower, and {task.name} reads words."
    return {"status": "skipped", "why": why}
  there = len(getattr(sources[0], "classes", ()) or ())
  given = len(task.settings.get("classes") or ())
  if given and there and given != there:
    why = (
        f"{task.name} has {given} class names, and its data has {there} classes: "
        "give as many names, in the order of the labels."
    )
    return {"status": "failed", "why": why}
  return {}


def _everywhere(flag: bool) -> bool:
  """Whether something is so in all processes."""
  return int(checksums.total([int(flag)])[0]) == jax.process_count()


def _sentence(error: BaseException) -> str:
  return f"{type(error).__name__}: {error}"


def _number(x) -> float | None:
  """A number for JSON, which has neither NaN nor infinity."""
  return float(x) if math.isfinite(x) else None

"""Embeddings of a whole source by trained towers: computed once, kept on disk.

A folder of them is named by all that they depend on: the towers, the examples
and their number. What reads them cannot find those of other weights.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from basic import files, types
from basic.data import pipeline, stored_rows
from basic.engine import exchange, shared_rows
from basic.experiment import input_pipeline, schema, settings, towers
from basic.recording import lock, redact
from basic.sharding import layout

_VIEW, _FIELD, _READABLE = "view ", "field ", "readable"
_KEPT_EVERY = 30.0  # seconds of work that a kill may cost
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Features:
  """Embeddings of the first n examples of a source, in its order.

  `encode` and `batches` are what evaluators take, so any of them runs on
  embeddings that are stored.

  Attributes:
    views: by view, as the towers give them and not normalised: float32 [n d],
      memory-mapped. NaN where an example could not be read.
    fields: by name: numbers of the examples that no tower reads [n ...], such as
      "label" and "id", memory-mapped. Arbitrary where `readable` is False.
    readable: bool [n].
    unreadable: reason -> examples.
    folder: where they are.
  """

  views: Mapping[str, np.ndarray]
  fields: Mapping[str, np.ndarray]
  readable: np.ndarray
  unreadable: Mapping[str, int]
  folder: pathlib.Path

  def __len__(self) -> int:
    return len(self.readable)

  def encode(self, batch: types.Batch) -> types.Embedded:
    """The embeddings that a batch of `batches` holds."""
    views = {k: types.Features(v) for k, v in batch.items() if k in self.views}
    return types.Embedded(views, {k: v for k, v in batch.items() if k not in views})

  def batches(self, rows: int = 1024) -> Iterator[tuple[types.Batch, np.ndarray]]:
    """(batch, mask) pairs of equal size, with embeddings in place of inputs.

    Args:
      rows: of each batch; the last one is filled with examples whose mask is
        False, as those are that could not be read.
    """
    for start in range(0, len(self), rows):
      index = np.minimum(np.arange(start, start + rows), len(self) - 1)
      mask = self.readable[index] & (np.arange(start, start + rows) < len(self))
      arrays = {**self.fields, **self.views}
      yield {name: np.asarray(array[index]) for name, array in arrays.items()}, mask


def features(
    trained: towers.Towers,
    source: settings.Settings,
    folder: str | os.PathLike,
    *,
    limit: int | None = None,
    batch_size: int = 256,
    label_captions: settings.Settings | None = None,
) -> Features:
  """The embeddings of a source, read from disk if they were computed before.

  Of several captions of an example, the first is embedded. An interrupted call
  goes on where it was when it is repeated. With several processes, all call it
  together, and all read the folder.

  Args:
    trained: the towers.
    source: `name` of a source and its settings.
    folder: where the embeddings of all towers and sources are kept, each in a
      folder of its own; created if it does not exist.
    limit: number of examples, the first ones; None: all.
    batch_size: examples that are encoded at a time; rounded up to a multiple of
      the devices. Embeddings do not depend on it.
    label_captions: how captions are made from labels (data/captions.py); None:
      the source's own captions.

  Returns:
    Embeddings of all views whose inputs the source has.

  Raises:
    ValueError: if a setting is wrong, the source has no example that can be
      read, or no tower reads what it has.
    recording.lock.InUseError: if another process is computing the same.

  Example:
    features(towers.named("runs/x"), dict(name="digits", split="test"), "cache")
  """
  if (limit is not None and limit < 1) or batch_size < 1:
    raise ValueError(
        f"limit is {limit} and batch_size {batch_size}; both take 1 or more."
    )
  data = _Data.of(trained, source, limit, label_captions)
  path = files.folder("the folder of features", folder) / data.key
  if not exchange.exchange([path.exists()])[0][0]:
    with _alone(path):
      # Another may have finished it between the look above and the lock.
      if not exchange.exchange([path.exists()])[0][0]:
        _write(path, data, trained, batch_size)
  exchange.exchange(["complete"])  # All wait until the first has renamed it.
  return _read(path)


@dataclasses.dataclass(frozen=True)
class _Data:
  """The examples to embed, and the name of their embeddings."""

  source: types.Source
  prepare: Any
  count: int
  key: str
  facts: Mapping[str, Any]

  @classmethod
  def of(cls, trained, settings_of_source, limit, label_captions) -> "_Data":
    name = settings_of_source.get("name")
    function = schema.plugin("sources", name)
    complete = {
        "name": name, **schema.complete("source", function, settings_of_source)
    }
    source = schema.make("sources", complete)
    fingerprint = getattr(source, "fingerprint", None)
    if fingerprint is None:
      _log.warning(
          "the source %s has no `fingerprint`: if its examples change while their "
          "number stays the same, stored embeddings will not be computed again.",
          name,
      )
    count = min(limit or len(source), len(source))
    facts = {
        "towers": trained.fingerprint, "source": complete, "examples": len(source),
        "fingerprint": fingerprint, "count": count, "label_captions": label_captions,
    }
    # That of the first process: another host may hold copies with other times.
    state = exchange.exchange([getattr(source, "state", None)])[0][0]
    if state is not None:
      facts["state"] = state
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    prepare = input_pipeline.to_arrays(
        source, trained.tokenizer, trained.config, label_captions
    )
    return cls(source, prepare, count, f"{name}-{digest.hexdigest()[:20]}", {
        **facts, "origin": trained.origin
    })

  def passed(self, start: int, rows: int, patience: Any) -> pipeline.Pass:
    """One pass over the examples from `start`."""
    return pipeline.once(
        _From(self.source, start), prepare=self.prepare, batch_size=rows,
        shard=(jax.process_index(), jax.process_count()),
        limit=self.count - start, patience=patience,
    )


@dataclasses.dataclass(frozen=True)
class _From:
  """The examples of a source from a number on."""

  source: types.Source
  start: int

  def __len__(self) -> int:
    return len(self.source) - self.start

  def __getitem__(self, index: int) -> types.Example:
    return self.source[self.start + index]


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a folder in the first process, for all of them."""
  with contextlib.ExitStack() as held:
    refusal = None
    if jax.process_index() == 0:
      try:
        held.enter_context(lock.hold(path.with_name(f"{path.name}.lock")))
      except lock.InUseError as error:
        refusal = str(error)
    if said := exchange.exchange([refusal])[0][0]:
      raise lock.InUseError(said)
    yield


def _write(path, data, trained, batch_size) -> None:
  """Embeds what is not kept yet; the first process writes."""
  writer = stored_rows.Writer(path, data.count)
  start, counts = exchange.exchange([writer.done, writer.notes])[0]
  rows = -(-batch_size // trained.layout.mesh.size) * trained.layout.mesh.size
  first, kept = jax.process_index() == 0, time.monotonic()
  patience = input_pipeline.patience(trained.config)
  if start < data.count:
    with data.passed(start, rows, patience) as batches:
      for batch, mask in shared_rows.shared(
          batches, trained.layout, trained.encoder.fields
      ):
        arrays = _arrays(trained, batch, mask)
        if first:
          writer.append(arrays)
        # The first process decides for all, which add up their counts together.
        if exchange.exchange([time.monotonic() > kept + _KEPT_EVERY])[0][0]:
          so_far = _added(counts, shared_rows.total(batches.unreadable))
          if first:
            writer.keep(so_far)
          kept = time.monotonic()
      counts = _added(counts, shared_rows.total(batches.unreadable))
  if first:
    writer.finish({**redact.value("", dict(data.facts)), "unreadable": counts})


def _arrays(trained, batch, mask) -> dict[str, np.ndarray]:
  """What is stored of a batch."""
  with trained.layout.context():
    views = trained.encoder.encode(trained.params, batch).views
  if not views:
    raise ValueError(
        f"the source has the fields {sorted(batch)}, of which no tower reads one; "
        f"the views are {sorted(trained.model.encode.views)}. A text tower needs "
        "captions, or label_captions."
    )
  read = {view.field for view in trained.model.encode.views.values()} | {"captions"}
  arrays = {f"{_FIELD}{k}": v for k, v in batch.items()
            if k not in read and layout.holds(v)}
  for name, view in views.items():
    z = np.asarray(view.pooled, np.float32)
    arrays[f"{_VIEW}{name}"] = np.where(mask[:, None], z, np.float32(np.nan))
  return {**arrays, _READABLE: np.asarray(mask)}


def _added(counts, more) -> dict[str, int]:
  return {k: counts.get(k, 0) + more.get(k, 0) for k in {**counts, **more}}


def _read(path) -> Features:
  arrays, about = stored_rows.read(path)
  parts = {
      prefix: {
          name.removeprefix(prefix): array for name, array in arrays.items()
          if name.startswith(prefix)
      }
      for prefix in (_VIEW, _FIELD)
  }
  return Features(
      parts[_VIEW], parts[_FIELD], arrays[_READABLE], about["unreadable"], path
  )

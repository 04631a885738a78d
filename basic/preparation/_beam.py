"""Runs the passes of a command as Apache Beam pipelines, on any of its runners.

The extra `prepare` installs Beam. The folder of the results must be one that all
workers can reach, and `basic` must be installed on them
(`--sdk_container_image`, or `--extra_package`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
from apache_beam import pvalue
from apache_beam.metrics import metric
from apache_beam.options import pipeline_options

from basic.preparation import _features, _rules

Task = Callable[[int], Mapping[str, int]]  # number of a part -> counts

_BUCKETS = 256  # files of a table, by the highest byte of the hashes
_NAMESPACE = "basic"


class Beam:
  """As Beam pipelines, one for each pass.

  Args:
    flags: of Beam: "--runner=DataflowRunner", "--project=...".
  """

  def __init__(self, flags: Sequence[str]):
    self._flags = list(flags)

  def _pipeline(self) -> beam.Pipeline:
    options = pipeline_options.PipelineOptions(self._flags)
    return beam.Pipeline(options=options)

  def decide(self, task: Task, numbers: Sequence[int]) -> dict[str, int]:
    """As `read` does."""
    return self.read("decide", task, numbers)

  def read(self, title: str, task: Task, numbers: Sequence[int]) -> dict[str, int]:
    """Runs a task for each number; returns Beam's counters of its counts."""
    if not numbers:
      return {}
    pipeline = self._pipeline()
    _ = (
        pipeline
        | "parts" >> beam.Create(list(numbers))
        | "spread" >> beam.Reshuffle()
        | title >> beam.ParDo(_Counted(task))
    )
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(
        metric.MetricsFilter().with_namespace(_NAMESPACE)
    )
    return {
        each.key.metric.name: each.committed or each.attempted or 0
        for each in found["counters"]
    }

  def tables(
      self, paths: Sequence[str], rules: _rules.Rules, folder: str
  ) -> None:
    """Counts over all parts, by the shuffle of the runner.

    Args:
      paths: files of features.
      rules: the limits.
      folder: where the tables are stored.
    """
    pipeline = self._pipeline()
    parts = (
        pipeline
        | "paths" >> beam.Create(list(paths))
        | "spread" >> beam.Reshuffle()
    )
    pairs = parts | "pairs" >> beam.FlatMap(_pairs) | "once" >> beam.Distinct()
    for name, column, most in (
        ("shared", 0, rules.text_images), ("crowded", 1, rules.image_texts)
    ):
      if most is not None:
        _store(_over(pairs, name, column, most), name, folder)
    if rules.common_tokens is not None:
      _store(_common(parts, rules.common_tokens), "common", folder)
    pipeline.run().wait_until_finish()


class _Counted(beam.DoFn):
  """Runs a task, and adds its counts to Beam's counters."""

  def __init__(self, task: Task):
    self._task = task

  def process(self, element: int) -> Iterator[int]:
    for name, count in self._task(element).items():
      metric.Metrics.counter(_NAMESPACE, name).inc(count)
    yield element


def _pairs(path: str) -> list[tuple[int, int]]:
  # Signed, as Beam's coder of integers.
  pairs = _rules.pairs(_features.load(path)).view(np.int64)
  return list(map(tuple, pairs.tolist()))


def _tokens(path: str) -> list[tuple[int, int]]:
  found, counts = _rules.token_counts(_features.load(path))
  return list(zip(found.view(np.int64).tolist(), counts.tolist(), strict=True))


def _over(pairs, name: str, column: int, most: int):
  """The values of a column that are in more than `most` different pairs."""
  return (
      pairs
      | f"{name}: values" >> beam.Map(lambda pair: pair[column])
      | f"{name}: count" >> beam.combiners.Count.PerElement()
      | f"{name}: over" >> beam.Filter(lambda counted: counted[1] > most)
      | f"{name}: keys" >> beam.Keys()
  )


def _common(parts, most: int):
  """The tokens that are not rare; none where no token is rare."""
  counted = (
      parts
      | "tokens" >> beam.FlatMap(_tokens)
      | "common: sum" >> beam.CombinePerKey(sum)
  )
  least = (
      counted
      | "common: counts" >> beam.Values()
      | "common: histogram" >> beam.combiners.Count.PerElement()
      | "common: list" >> beam.combiners.ToList()
      | "common: least" >> beam.Map(_rules.rare_below, most)
  )
  return (
      counted
      | "common: filter" >> beam.Filter(
          lambda row, least: 0 < least <= row[1],
          least=pvalue.AsSingleton(least),
      )
      | "common: keys" >> beam.Keys()
  )


def _store(hashes, name: str, folder: str) -> None:
  """Writes a table of hashes in sorted files, one for each highest byte."""
  _ = (
      hashes
      | f"{name}: bucket" >> beam.GroupBy(_bucket)
      | f"{name}: write" >> beam.Map(_write, name, folder)
  )


def _bucket(value: int) -> int:
  """The highest byte of a hash, given as a signed integer."""
  return value % 2**64 * _BUCKETS >> 64


def _write(bucket: tuple[int, Iterable[int]], name: str, folder: str) -> None:
  number, values = bucket
  hashes = np.sort(np.array(list(values), np.int64).view(np.uint64))
  _rules.store(folder, name, hashes, number)

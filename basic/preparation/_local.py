"""Runs the passes of a command on this machine, in processes."""

import collections
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import process

import numpy as np

from basic.preparation import _features, _rules

Task = Callable[[int], Mapping[str, int]]  # number of a part -> counts


def cores() -> int:
  """The number of processor cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class Local:
  """In processes of this machine, or in this one where `workers` is 1."""

  def __init__(self, workers: int | None):
    self._workers = cores() if workers is None else workers

  def read(self, title: str, task: Task, numbers: Sequence[int]) -> dict[str, int]:
    """Runs a task for each number, in processes; returns the sums of its counts."""
    return _sum(title, self._in_processes(task, numbers), len(numbers))

  def decide(self, task: Task, numbers: Sequence[int]) -> dict[str, int]:
    """Likewise a task of NumPy's, in threads, which start at once."""
    with futures.ThreadPoolExecutor(self._workers) as pool:
      return _sum("decide", pool.map(task, numbers), len(numbers))

  def _in_processes(
      self, task: Task, numbers: Sequence[int]
  ) -> Iterator[Mapping[str, int]]:
    workers = min(self._workers, len(numbers))
    if workers <= 1:
      yield from map(task, numbers)
      return
    # Not by fork: JAX and OpenCV have threads, which a fork does not copy.
    with futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _remember, (task,)
    ) as pool:
      running = [pool.submit(_run, number) for number in numbers]
      try:
        for each in futures.as_completed(running):
          yield each.result()
      except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, process.BrokenProcessPool):
          error.add_note(
              "Most often a worker is killed because memory is short: start the "
              f"same command with fewer than {workers} --workers; it goes on."
          )
        raise

  def tables(
      self, paths: Sequence[str], rules: _rules.Rules, folder: str
  ) -> None:
    """Counts over all parts, in memory, and stores the tables in a folder."""
    pairs, tokens, counts = [], [], []
    for path in paths:
      features = _features.load(path)
      pairs.append(_rules.pairs(features))
      if rules.common_tokens is not None:
        found, numbers = _rules.token_counts(features)
        tokens.append(found)
        counts.append(numbers)
    different = np.unique(np.concatenate(pairs), axis=0)
    _rules.store(folder, "shared", _over(different[:, 0], rules.text_images))
    _rules.store(folder, "crowded", _over(different[:, 1], rules.image_texts))
    if rules.common_tokens is not None:
      common = _common(tokens, counts, rules.common_tokens)
      _rules.store(folder, "common", common)


def _sum(
    title: str, several: Iterable[Mapping[str, int]], length: int
) -> dict[str, int]:
  """The sums of counts, with a line on a terminal that says how many came."""
  total: collections.Counter[str] = collections.Counter()
  for done, counts in enumerate(several, start=1):
    total.update(counts)
    if sys.stderr.isatty():
      end = "\n" if done == length else ""
      print(f"\r{title}: {done} of {length} parts", end=end, file=sys.stderr)
  return dict(total)


_task: Task | None = None


def _remember(task: Task) -> None:
  """Keeps the task in a worker process, so that it is sent once."""
  global _task
  _task = task
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  """Ends a worker whose parent was killed, which would wait for work for ever."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(1)


def _run(number: int) -> Mapping[str, int]:
  assert _task is not None
  return _task(number)


def _over(values: np.ndarray, most: int | None) -> np.ndarray:
  """The values that occur more than `most` times, sorted."""
  if most is None:
    return np.empty(0, np.uint64)
  found, counts = np.unique(values, return_counts=True)
  return found[counts > most]


def _common(tokens, counts, most: int) -> np.ndarray:
  """The tokens that are not rare, sorted; none if no token is rare."""
  found, places = np.unique(np.concatenate(tokens), return_inverse=True)
  totals = np.bincount(places, np.concatenate(counts)).astype(np.int64)
  rows = np.stack(np.unique(totals, return_counts=True), axis=1).tolist()
  least = _rules.rare_below(map(tuple, rows), most)
  return found[totals >= least] if least else found[:0]

"""Measures how fast a source feeds training, stage by stage."""

import dataclasses
import os
import pathlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from basic import types
from basic.data import batches as batch_blocks
from basic.data import examples, images, pipeline, tokenizer
from basic.preparation import _local

STAGES = ("read", "decode", "augment", "tokenise", "stack")
_LENGTH = 64  # tokens of a caption
_VOCABULARY = 8_000  # pieces, of a vocabulary that is trained for the measurement
_SEED = 0


def bench(
    *,
    source: types.Source,
    size: int = 224,
    vocabulary: str | None = None,
    batch_size: int = 64,
    batches: int = 8,
    rounds: int = 5,
    threads: int | None = None,
) -> types.Counts:
  """Says how many examples a second a source gives, and which stage limits.

  Each stage is timed in one thread: "read" an example from storage, "decode" its
  image, "augment" it (random crop to `size`, flip), "tokenise" a caption, "stack"
  a batch. Then the whole pipeline, as training uses it, in threads. All figures
  are medians of `rounds`, after a warm-up, and every round reads other examples as
  long as there are any, since what was read before comes from memory.

  Args:
    source: settings of the source: --source.name=tar --source.shards=...
    size: height and width of the images of a batch, in pixels.
    vocabulary: path of a tokenizer.model. None: a vocabulary is trained on the
      captions of a few examples; the speed hardly depends on it.
    batch_size: rows of a batch.
    batches: of a round.
    rounds: of which the median counts.
    threads: of the whole pipeline; None: as many as this machine has cores.

  Returns:
    "cores" of this machine; "load", the processes that wanted one at the start:
    where others did, all figures are too low. "examples" of a round; "STAGE
    examples/s" in one thread, of the stages that the source needs; "all stages
    examples/s", one after the other in one thread; "pipeline examples/s" in
    "pipeline threads"; "pipeline cores used", processor seconds a second; "slowest
    stage" with its share of the time of all. If there are any: "unreadable", the
    share of the examples that could not be read.

  Raises:
    ValueError: if a number is less than 1, or no example can be read.
    FileNotFoundError: if the vocabulary does not exist.
  """
  for name, value in (
      ("size", size), ("batch_size", batch_size), ("batches", batches),
      ("rounds", rounds), ("threads", 1 if threads is None else threads),
  ):
    if value < 1:
      raise ValueError(f"bench.{name} is {value}; expected 1 or more.")
  threads = _local.cores() if threads is None else threads
  load = os.getloadavg()[0]
  stages = _Stages(
      source, _tokenizer(source, vocabulary),
      images.augment(size=size, crop="random", mirror=True),
      np.random.default_rng(_SEED), _order(source),
  )
  stages.seconds(1, batch_size)  # warm-up
  taken = [stages.seconds(batches, batch_size) for _ in range(rounds)]
  median = {n: statistics.median(each[n] for each in taken) for n in STAGES}
  rate, cores = _pipeline(stages, batch_size, batches, rounds, threads)
  slowest = max(STAGES, key=median.__getitem__)
  total = statistics.median(sum(each.values()) for each in taken)
  result: dict[str, Any] = {
      "cores": _local.cores(), "load": round(load, 2), "examples": batches * batch_size,
      **{
          f"{name} examples/s": round(batches * batch_size / median[name])
          for name in STAGES if name in stages.used
      },
      "all stages examples/s": round(batches * batch_size / total),
      "pipeline examples/s": round(rate), "pipeline threads": threads,
      "pipeline cores used": round(cores, 2),
      "slowest stage": f"{slowest} ({median[slowest] / total:.0%} of the time)",
  }
  if stages.failed:
    result["unreadable"] = f"{stages.failed / (stages.failed + stages.done):.1%}"
  return result


def _order(source: types.Source) -> Iterator[int]:
  """Examples in random order, all before one comes again."""
  rng = np.random.default_rng(_SEED)
  length = len(source)
  if not length:
    raise ValueError("the source has no examples; check its name and split.")
  while True:
    start, step = int(rng.integers(length)), _coprime(length, rng)
    for place in range(length):
      yield (start + place * step) % length


def _coprime(length: int, rng: np.random.Generator) -> int:
  """A random step that visits every example, without a list of all of them."""
  while True:
    step = int(rng.integers(1, max(2, length)))
    if np.gcd(step, length) == 1:
      return step


def _tokenizer(
    source: types.Source, vocabulary: str | None
) -> tokenizer.Tokenizer | None:
  """The given tokenizer, or one trained on some captions; None without any."""
  if vocabulary is not None:
    return tokenizer.Tokenizer(pathlib.Path(vocabulary).read_bytes(), _LENGTH)
  captions = []
  for index, _ in zip(_order(source), range(min(len(source), 256)), strict=False):
    try:
      captions += _texts(source[index])
    except types.Unreadable:
      continue  # `_Stages` counts them.
  if not captions:
    return None
  return tokenizer.Tokenizer(
      tokenizer.train(captions, vocab=_VOCABULARY), _LENGTH
  )


def _texts(example: types.Example) -> list[str]:
  text = example.get("text", ())
  return [text] if isinstance(text, str) else list(text)


@dataclasses.dataclass
class _Stages:
  """The stages of the pipeline, one after the other, in this thread."""

  source: types.Source
  tokenize: Any
  augment: images.Augment
  rng: np.random.Generator
  order: Iterator[int]
  done: int = 0
  failed: int = 0
  used: set[str] = dataclasses.field(default_factory=lambda: {"read", "stack"})

  def seconds(self, count: int, batch_size: int) -> dict[str, float]:
    """Seconds that each stage takes for that many batches."""
    taken: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    for _ in range(count):
      block, rows = batch_blocks.Block(batch_size), 0
      while rows < batch_size:
        row = self._row(taken)
        if row is not None:
          before = time.perf_counter()
          block.put(rows, examples.Row(rows, row))
          taken["stack"] += time.perf_counter() - before
          rows += 1
      block.finish()
    return taken

  def _row(self, taken: dict[str, float]) -> examples.Arrays | None:
    """One example as arrays, None if unreadable; adds what its stages take."""
    clock = [time.perf_counter()]
    try:
      example = self.source[next(self.order)]
      clock.append(time.perf_counter())
      image: Any = example.get("image")
      if hasattr(image, "decode"):
        image = image.decode()
        self.used.add("decode")
    except types.Unreadable:
      self.failed += 1
      if not self.done and self.failed > 1_000:
        raise ValueError(
            "none of 1,000 examples can be read; `python -m basic.prepare check` "
            "counts the reasons."
        ) from None
      return None
    clock.append(time.perf_counter())
    row = {}
    if image is not None:
      row["image"] = self.augment(np.asarray(image), self.rng)
      self.used.add("augment")
    clock.append(time.perf_counter())
    texts = _texts(example)
    if texts and self.tokenize is not None:
      row["text"] = self.tokenize(texts[self.rng.integers(len(texts))])
      self.used.add("tokenise")
    clock.append(time.perf_counter())
    for name, before, after in zip(STAGES, clock, clock[1:], strict=False):
      taken[name] += after - before
    self.done += 1
    return row


def _pipeline(
    stages: _Stages, batch_size: int, batches: int, rounds: int, threads: int
) -> tuple[float, float]:
  """(examples a second, cores used) of the pipeline that training uses."""
  prepare = examples.prepare(tokenize=stages.tokenize, augment=stages.augment)
  rates, cores = [], []
  with pipeline.stream(
      stages.source, prepare=prepare, batch_size=batch_size, seed=_SEED,
      threads=threads,
  ) as stream:
    for _ in range(2 * threads):  # what was read ahead would count as free
      next(stream)
    for _ in range(rounds):
      wall, processor = time.perf_counter(), time.process_time()
      for _ in range(batches):
        next(stream)
      wall = time.perf_counter() - wall
      rates.append(batches * batch_size / wall)
      cores.append((time.process_time() - processor) / wall)
  return statistics.median(rates), statistics.median(cores)

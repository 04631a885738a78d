"""python benchmarks/retrieval.py --small    retrieval among many images and captions

Unit embeddings of random vectors, one caption for each image: the ranks of all
matched pairs in both directions, which recall, mean and median rank and nDCG
follow from, and the ten nearest captions of each image. Contenders: ours, and a
loop over blocks in NumPy (BLAS) that does the same work.

--full runs the evaluator `retrieval` once on 100,000 images and 100,000 captions
at width 512, and says the time and the peak memory of the whole process, the
embeddings included. --plan compiles the same for 1,000,000 x 1,000,000 and says
how much memory it takes; its time is an estimate from the time of --full.
"""

import argparse
import json
import os
import pathlib
import time

import rounds

TASKS = ("ranks", "nearest")
NEAREST = 10


def embeddings(rows, width, seed):
  """Unit vectors [rows width], float32; no second copy of them is made."""
  import numpy as np

  made = np.random.default_rng(seed).standard_normal((rows, width), np.float32)
  made /= np.linalg.norm(made, axis=1, keepdims=True)
  return made


def sides(rows, width):
  """Images and captions; each caption lies near its image, among many others."""
  x, y = embeddings(rows, width, 0), embeddings(rows, width, 1)
  y += x * 0.17
  y /= (y * y).sum(1, keepdims=True) ** 0.5
  return x, y


def ours(task, rows, width, block):
  import jax
  import numpy as np

  from basic.ops import nearest, pair_ranks

  x, y = map(jax.numpy.asarray, sides(rows, width))
  if task == "ranks":
    return lambda: pair_ranks.pair_ranks(x, y, np.arange(rows), block=block)
  return lambda: jax.block_until_ready(nearest.top_k(x, y, NEAREST, block=block))


def numpy(task, rows, width, block):
  x, y = sides(rows, width)
  if task == "ranks":
    return lambda: numpy_ranks(x, y, block)
  return lambda: numpy_nearest(x, y, block)


def numpy_ranks(x, y, block):
  """Ranks of the pairs (i, i) in both directions, ties by index."""
  import numpy as np

  rows = len(x)
  own = np.empty(rows, np.float32)
  for a in range(0, rows, block):
    own[a : a + block] = np.diagonal(x[a : a + block] @ y[a : a + block].T)
  of_item, of_query = np.zeros(rows, int), np.zeros(rows, int)
  for a in range(0, rows, block):
    for b in range(0, rows, block):
      s = x[a : a + block] @ y[b : b + block].T
      by_row, by_column = own[a : a + block, None], own[None, b : b + block]
      of_item[a : a + block] += np.count_nonzero(s > by_row, 1)
      of_query[b : b + block] += np.count_nonzero(s > by_column, 0)
  return of_item, of_query


def numpy_nearest(x, y, block):
  """The nearest items of each query and their scores."""
  import numpy as np

  found = []
  for a in range(0, len(x), block):
    scores = np.full((len(x[a : a + block]), NEAREST), -np.inf, np.float32)
    indices = np.zeros(scores.shape, np.int64)
    for b in range(0, len(y), block):
      s = x[a : a + block] @ y[b : b + block].T
      best = np.argpartition(-s, NEAREST, 1)[:, :NEAREST]
      scores = np.concatenate([scores, np.take_along_axis(s, best, 1)], 1)
      indices = np.concatenate([indices, best + b], 1)
      order = np.argsort(-scores, 1, kind="stable")[:, :NEAREST]
      scores = np.take_along_axis(scores, order, 1)
      indices = np.take_along_axis(indices, order, 1)
    found.append((scores, indices))
  return found


CONTENDERS = {"ours": ours, "numpy": numpy}


def full(rows, width, batch=1000):
  """Seconds and peak bytes of the evaluator, and what it finds."""
  import numpy as np

  from basic import types
  from basic.evals import retrieval

  tables = dict(zip(("image", "text"), sides(rows, width), strict=True))

  def encode(data):
    return types.Embedded({
        view: types.Features(tables[view][np.ravel(number) - 1])
        for view, number in data.items()
    }, {})

  def batches():
    for start in range(1, rows + 1, batch):
      number = np.arange(start, start + batch, dtype=np.int32)
      yield {
          "image": number[:, None], "captions": number[:, None, None],
      }, np.ones(batch, bool)

  clock, processor = time.perf_counter(), time.process_time()
  metrics = retrieval.retrieval(batch_size=batch)(encode, batches())
  return dict(
      seconds=time.perf_counter() - clock,
      processor_seconds=time.process_time() - processor,
      peak_bytes=rounds.resident(), metrics=dict(metrics),
  )


def plan(rows, width):
  """Bytes that the compiled programs take for so many rows of both sides."""
  import jax
  import jax.numpy as jnp

  from basic.ops import nearest, pair_ranks

  def shape(*of, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(of, dtype)

  x, number = shape(rows, width), shape(rows, dtype=jnp.int32)
  pairs = pair_ranks.Pairs(number, number, shape(rows + 1, dtype=jnp.int32), None)
  block = 1024
  lowered = {
      "ranks": pair_ranks.count.lower(x, x, pairs, slots=1, block=block),
      "nearest": jax.jit(
          lambda x, y: nearest.top_k(x, y, NEAREST, block=block)
      ).lower(x, x),
  }
  found = {}
  for name, each in lowered.items():
    memory = each.compile().memory_analysis()
    found[name] = dict(
        arguments_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
    )
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  size = parser.add_mutually_exclusive_group()
  size.add_argument("--small", action="store_true", help="minutes on a CPU")
  size.add_argument("--full", action="store_true", help="100,000 x 100,000, once")
  size.add_argument("--plan", action="store_true", help="memory of 1,000,000")
  parser.add_argument("--rows", type=int)
  parser.add_argument("--width", type=int, default=512)
  parser.add_argument("--block", type=int, default=1024)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
  parser.add_argument("--json", type=pathlib.Path)
  parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.contender:
    rounds.serve(
        lambda: CONTENDERS[options.contender](
            options.task, options.rows, options.width, options.block
        ),
        rounds.libraries(options.contender),
    )
    return
  if options.full:
    found = full(options.rows or 100_000, options.width)
  elif options.plan:
    found = plan(options.rows or 1_000_000, options.width)
  else:
    found = compared(options.rows or 16_384, options)
  print(json.dumps(found, indent=2))
  if options.json:
    options.json.write_text(json.dumps(
        dict(machine=rounds.machine(), cores=os.cpu_count(), retrieval=found),
        indent=2,
    ))


def compared(rows, options):
  """Interleaved rounds of each task."""
  found = {}
  for task in TASKS:
    arguments = [
        "--rows", str(rows), "--width", str(options.width), "--block",
        str(options.block), "--task", task,
    ]
    found[task] = rounds.compare(
        __file__, list(CONTENDERS), arguments, options.rounds
    )
    title = f"{task}, {rows} x {rows} x {options.width}, float32"
    print(rounds.table(title, found[task]), flush=True)
  return found


if __name__ == "__main__":
  main()

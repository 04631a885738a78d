"""python benchmarks/peers.py --small    a training step beside open_clip's

The same towers (a CLIP of ViT and causal text transformer), the same batch of
random pixels and ids, AdamW, float32, on the same CPU cores: our direct step
beside a plain PyTorch loop over open_clip's model and loss, and our cached step
beside the same loop with `--accum-freq`. Seconds are those of the processor, so
that a busy machine counts less. `--first-steps 3` measures whole processes that
end after so many steps: start, compilation and steps.

open_clip is optional: `pip install -e .[bench]`.
"""

import argparse
import json
import math
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import rounds

SMALL = dict(
    image=dict(width=192, depth=3, heads=3, patch=16),
    text=dict(vocab=1_000, length=16, width=128, depth=2, heads=2),
    size=64, width=128, rows=256, chunks=4,
)
# ViT-B/32 and its text tower: minutes a step on a CPU.
FULL = dict(
    image=dict(width=768, depth=12, heads=12, patch=32),
    text=dict(vocab=49_408, length=77, width=512, depth=12, heads=8),
    size=224, width=512, rows=256, chunks=4,
)
BETAS, EPSILON, DECAY, RATE = (0.9, 0.98), 1e-6, 0.2, 5e-4


def arrays(sizes):
  """The batch of all contenders: uint8 pixels, and ids that end in `eos`."""
  import numpy as np

  rng = np.random.default_rng(0)
  rows, size, text = sizes["rows"], sizes["size"], sizes["text"]
  images = rng.integers(0, 256, (rows, size, size, 3), np.uint8)
  # open_clip pools at the largest id, ours at the id that it is told.
  eos = text["vocab"] - 1
  ids = rng.integers(1, eos, (rows, text["length"])).astype(np.int32)
  ids[:, -1] = eos
  return images, ids, eos


def ours(sizes, chunks):
  """A function that takes one of our training steps."""
  import jax

  from basic import gradient, optim
  from basic.encoders import text_transformer, vit
  from basic.engine import model, step
  from basic.objectives import softmax

  images, ids, eos = arrays(sizes)
  same = dict(activation="gelu", epsilon=1e-5, dtype="float32")
  net = model.model(
      {
          "image": vit.vit(
              **sizes["image"], pool="token", entry_norm=True, **same
          ),
          "text": text_transformer.text_transformer(
              **sizes["text"], causal=True, pool="eos", eos=eos,
              padding="read", **same
          ),
      },
      width=sizes["width"],
  )
  objective = softmax.softmax()
  tx = optim.adamw(
      steps=10_000, peak=RATE, b1=BETAS[0], b2=BETAS[1], eps=EPSILON,
      decay=DECAY, clip=None,
  ).tx
  batch = {"image": jax.numpy.asarray(images), "text": jax.numpy.asarray(ids)}
  gradients = (
      gradient.direct(net.encode, objective) if chunks == 1
      else gradient.cached(net.encode, objective, chunks=chunks)
  )
  update = jax.jit(step.update(gradients, tx), donate_argnums=0)
  state = jax.jit(step.fresh(net, objective, tx))(jax.random.key(1), batch)

  def once():
    nonlocal state
    state, metrics = update(state, batch)
    jax.block_until_ready((state, metrics))

  return once


def open_clip_package():
  """Imports open_clip, also beside a torchvision built for another torch.

  The towers need no compiled operator of torchvision, but its import asks for
  these two, which a build for GPUs cannot load beside a torch for CPUs.
  """
  import torch

  try:
    import open_clip
  except RuntimeError:
    for name in ("nms", "qnms"):
      torch.library.define(
          f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor"
      )
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
      del sys.modules[name]
    import open_clip
  return open_clip


def open_clip_model(sizes):
  """open_clip's CLIP of these sizes, its loss, and its optimizer."""
  import torch

  open_clip = open_clip_package()
  image, text = sizes["image"], sizes["text"]
  model = open_clip.CLIP(
      embed_dim=sizes["width"],
      vision_cfg=dict(
          layers=image["depth"], width=image["width"],
          head_width=image["width"] // image["heads"],
          patch_size=image["patch"], image_size=sizes["size"],
      ),
      text_cfg=dict(
          context_length=text["length"], vocab_size=text["vocab"],
          width=text["width"], heads=text["heads"], layers=text["depth"],
      ),
      output_dict=True,
  )
  model.train()
  # Decay of matrices alone, as in open_clip's trainer.
  matrices = [p for p in model.parameters() if p.ndim >= 2]
  others = [p for p in model.parameters() if p.ndim < 2]
  optimizer = torch.optim.AdamW(
      [dict(params=others, weight_decay=0.0),
       dict(params=matrices, weight_decay=DECAY)],
      lr=RATE, betas=BETAS, eps=EPSILON,
  )
  return model, open_clip.ClipLoss(), optimizer


def open_clip(sizes, chunks):
  """A function that takes one step as open_clip's trainer does."""
  import torch

  torch.manual_seed(0)
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  model, loss, optimizer = open_clip_model(sizes)
  images, ids, _ = arrays(sizes)
  images, ids = torch.from_numpy(images), torch.from_numpy(ids).long()

  def pixels(part):
    return part.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)

  def direct():
    out = model(pixels(images), ids)
    loss(**out).backward()

  def accumulated():
    """open_clip's `--accum-freq`: embeddings first, then chunk by chunk."""
    parts = list(zip(images.chunk(chunks), ids.chunk(chunks), strict=True))
    parts = [(pixels(x), y) for x, y in parts]
    with torch.no_grad():
      cached = [model(*part) for part in parts]
    names = ("image_features", "text_features")
    for n, part in enumerate(parts):
      out = model(*part)
      scale = out["logit_scale"]
      inputs = {
          name: torch.cat([
              out[name] if m == n else features[name]
              for m, features in enumerate(cached)
          ]) for name in names
      }
      loss(**inputs, logit_scale=scale).backward()

  take = direct if chunks == 1 else accumulated

  def once():
    optimizer.zero_grad()
    take()
    optimizer.step()
    with torch.no_grad():
      model.logit_scale.clamp_(0, math.log(100))

  return once


CONTENDERS = {
    "ours": (ours, False), "open_clip": (open_clip, False),
    "ours, cached": (ours, True), "open_clip, accumulated": (open_clip, True),
}


def contender(name, sizes):
  prepare, in_chunks = CONTENDERS[name]
  return prepare(sizes, sizes["chunks"] if in_chunks else 1)


def whole_processes(arguments, steps, count):
  """Processor and wall seconds of processes that take so many steps."""
  found = {name: [] for name in CONTENDERS}
  for _ in range(count):
    for name, seconds in found.items():
      before = resource.getrusage(resource.RUSAGE_CHILDREN)
      start = time.perf_counter()
      subprocess.run(
          [sys.executable, __file__, "--contender", name, "--first-steps",
           str(steps), *arguments],
          check=True, stdout=subprocess.DEVNULL,
      )
      wall = time.perf_counter() - start
      after = resource.getrusage(resource.RUSAGE_CHILDREN)
      seconds.append((
          after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
          wall,
      ))
  return found


def show_whole(steps, found):
  print(f"\nwhole process of {steps} steps\n")
  print("| contender | CPU seconds | wall seconds |\n|---|---|---|")
  for name, seconds in found.items():
    cpu, wall = map(statistics.median, zip(*seconds, strict=True))
    print(f"| {name} | {cpu:.1f} | {wall:.1f} |")


def serve(name, sizes, first_steps):
  """In a contender's process: rounds on request, or a few steps and out."""
  if first_steps:
    once = contender(name, sizes)
    for _ in range(first_steps):
      once()
    return
  library = "torch" if name.startswith("open_clip") else "jax"
  rounds.serve(
      lambda: contender(name, sizes), rounds.libraries(library),
      clock=time.process_time,
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  size = parser.add_mutually_exclusive_group()
  size.add_argument("--small", action="store_true", help="the default")
  size.add_argument("--full", action="store_true", help="ViT-B/32")
  parser.add_argument("--rounds", type=int, default=10)
  parser.add_argument("--cores", type=int, default=1)
  parser.add_argument("--first-steps", type=int, default=0)
  parser.add_argument("--json", type=pathlib.Path)
  parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
  options = parser.parse_args()
  sizes = FULL if options.full else SMALL
  if options.contender:
    cores = sorted(os.sched_getaffinity(0))[:options.cores]
    os.sched_setaffinity(0, cores)
    serve(options.contender, sizes, options.first_steps)
    return
  arguments = ["--full"] if options.full else []
  arguments += ["--cores", str(options.cores)]
  record = dict(machine=rounds.machine(), cores=options.cores)
  if options.first_steps:
    found = whole_processes(arguments, options.first_steps, options.rounds)
    show_whole(options.first_steps, found)
    record["first_steps"] = found
  else:
    names = list(CONTENDERS)
    for title, pair in (("direct", names[:2]), ("cached", names[2:])):
      found = rounds.compare(__file__, pair, arguments, options.rounds)
      print(rounds.table(
          f"{title}, {sizes['rows']} rows: CPU seconds a step", found
      ))
      record[title] = found
  if options.json:
    options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
  main()

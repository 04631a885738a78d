"""python benchmarks/vit_b16.py --full    exact batch of 65,536 on one GPU

A ViT-B/16 and a 12 x 512 text tower, bfloat16, cached gradient, AdamW: whole
training steps on random input. Prints examples/s, model FLOP utilisation, peak
memory, and the time of the loss relative to that of its matrix products.

Model FLOPs are those of the direct step: 3 times the forward pass of both towers,
and 3 matrix products for the loss. Recomputation does not count.
"""

import argparse
import functools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import rounds

from basic import gradient, optim
from basic.encoders import text_transformer, vit
from basic.engine import model, step
from basic.objectives import softmax
from basic.ops.pairwise import similarity

SMALL = dict(
    image=dict(width=64, depth=2, heads=2, patch=8), size=32, rows=512,
    text=dict(vocab=1_000, length=16, width=64, depth=2, heads=2), width=64,
    chunks=4,
)
FULL = dict(
    image=dict(variant="B/16"), size=224, rows=65_536,
    text=dict(vocab=32_000, length=64, width=512, depth=12, heads=8),
    width=512, chunks=64,
)


def transformer_flops(tokens, width, depth):
  """Forward FLOPs of pre-norm blocks: 2 (12 d^2 n + 2 n^2 d) a block."""
  return depth * 2 * (12 * width**2 * tokens + 2 * tokens**2 * width)


def model_flops(setup):
  """FLOPs of one step of `rows` examples without recomputation."""
  image, text = setup["image"], setup["text"]
  width, depth, patch = (
      (768, 12, 16) if "variant" in image
      else (image["width"], image["depth"], image["patch"])
  )
  tokens = (setup["size"] // patch) ** 2
  towers = transformer_flops(tokens, width, depth)
  towers += 2 * tokens * width * 3 * patch**2
  towers += transformer_flops(text["length"], text["width"], text["depth"])
  return 3 * setup["rows"] * towers + 3 * 2 * setup["rows"] ** 2 * setup["width"]


def seconds(once, count):
  once()
  times = []
  for _ in range(count):
    start = time.perf_counter()
    once()
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def training(setup):
  """A compiled training step, as a function without arguments."""
  net = model.model(
      {
          "image": vit.vit(**setup["image"]),
          "text": text_transformer.text_transformer(**setup["text"]),
      },
      width=setup["width"],
  )
  objective = softmax.softmax(dtype="bfloat16")
  tx = optim.adamw(steps=1_000, peak=1e-4).tx
  rows, size = setup["rows"], setup["size"]
  batch = {
      "image": jax.random.randint(
          jax.random.key(0), (rows, size, size, 3), 0, 256, "uint8"
      ),
      "text": jax.random.randint(
          jax.random.key(1), (rows, setup["text"]["length"]), 1, 999
      ),
  }
  holder = [jax.jit(step.fresh(net, objective, tx))(jax.random.key(2), batch)]
  grad = gradient.cached(net.encode, objective, chunks=setup["chunks"])
  update = jax.jit(step.update(grad, tx), donate_argnums=0)

  def once():
    holder[0], metrics = update(holder[0], batch)
    jax.block_until_ready(metrics)

  return once


def loss_alone(setup):
  """The loss on unit embeddings, and a matrix product to compare with."""
  rows, width = setup["rows"], setup["width"]
  x, y = (
      jax.random.normal(jax.random.key(k), (rows, width), jnp.bfloat16)
      / width**0.5 for k in (1, 2)
  )

  @jax.jit
  def loss(x, y):
    def value(x, y):
      row, col = similarity.lse(x, y, 14.0, dtype="bfloat16")
      return jnp.mean(row) + jnp.mean(col)

    return jax.value_and_grad(value, (0, 1))(x, y)

  side = min(8_192, rows)
  a, b = (
      jax.random.normal(jax.random.key(k), (side, side), jnp.bfloat16)
      for k in (3, 4)
  )
  product = jax.jit(functools.partial(
      jnp.matmul, preferred_element_type=jnp.float32
  ))
  return (
      lambda: jax.block_until_ready(loss(x, y)),
      lambda: jax.block_until_ready(product(a, b)), side,
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  size = parser.add_mutually_exclusive_group()
  size.add_argument("--small", action="store_true", help="checks the script")
  size.add_argument("--full", action="store_true", help="for a GPU of 80 GiB")
  parser.add_argument("--rows", type=int)
  parser.add_argument("--chunks", type=int)
  parser.add_argument("--steps", type=int, default=3)
  parser.add_argument("--peak-flops", type=float, default=989e12,
                      help="bfloat16 FLOP/s of the chip; default: H100, H200")
  parser.add_argument("--json", type=pathlib.Path)
  options = parser.parse_args()
  setup = dict(FULL if options.full else SMALL)
  setup["rows"] = options.rows or setup["rows"]
  setup["chunks"] = options.chunks or setup["chunks"]
  loss, product, side = loss_alone(setup)
  product_rate = 2 * side**3 / seconds(product, 10)
  loss_rate = 4 * 2 * setup["rows"] ** 2 * setup["width"] / seconds(loss, 5)
  took = seconds(training(setup), options.steps)
  results = dict(
      machine=rounds.machine(), rows=setup["rows"], chunks=setup["chunks"],
      step_seconds=took, examples_per_second=setup["rows"] / took,
      model_flop_utilisation=model_flops(setup) / took / options.peak_flops,
      peak_gib=rounds.on_device() / 2**30,
      product_tflops=product_rate / 1e12,
      loss_share_of_product_rate=loss_rate / product_rate,
  )
  text = json.dumps(results, indent=2)
  print(text)
  if options.json:
    options.json.write_text(text)


if __name__ == "__main__":
  main()

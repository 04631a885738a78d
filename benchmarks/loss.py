"""python benchmarks/loss.py --small    the contrastive loss alone

Value and gradient of the symmetric softmax loss, with respect to unnormalised
embeddings and the scale. Contenders: ours (tiled), ours with the fused kernel
(on a GPU), dense JAX, and dense torch with autograd, as in most CLIP trainers.
"""

import argparse
import json
import pathlib
import sys

import rounds


def ours(rows, width, dtype, kernel="xla"):
  import jax
  import jax.numpy as jnp

  from basic import types
  from basic.objectives import softmax

  objective = softmax.softmax(dtype=dtype, kernel=kernel)
  params, memory = objective.init(jax.random.key(0), None)

  @jax.jit
  def run(params, x, y):
    def loss(params, x, y):
      views = {"image": types.Features(x), "text": types.Features(y)}
      return objective.apply(params, memory, types.Embedded(views, {}), None)[0]

    return jax.value_and_grad(loss, (0, 1, 2))(params, x, y)

  x, y = (
      jax.random.normal(jax.random.key(k), (rows, width), jnp.float32)
      for k in (1, 2)
  )
  return lambda: jax.block_until_ready(run(params, x, y))


def fused(rows, width, dtype):
  import jax

  if jax.default_backend() != "gpu":
    sys.exit("fused: needs a GPU; in interpret mode its time means nothing")
  return ours(rows, width, dtype, kernel="pallas")


def dense(rows, width, dtype):
  import jax
  import jax.numpy as jnp

  @jax.jit
  def run(x, y, log_scale):
    def loss(x, y, log_scale):
      x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
      y = y / jnp.linalg.norm(y, axis=-1, keepdims=True)
      products = jax.lax.dot_general(
          x.astype(dtype), y.astype(dtype), (((1,), (1,)), ((), ())),
          preferred_element_type=jnp.float32,
      )
      logits = jnp.exp(log_scale) * products
      match = jnp.diagonal(logits)
      by_row = jax.nn.logsumexp(logits, 1) - match
      by_col = jax.nn.logsumexp(logits, 0) - match
      return (jnp.mean(by_row) + jnp.mean(by_col)) / 2

    return jax.value_and_grad(loss, (0, 1, 2))(x, y, log_scale)

  x, y = (
      jax.random.normal(jax.random.key(k), (rows, width), jnp.float32)
      for k in (1, 2)
  )
  log_scale = jnp.float32(2.66)
  return lambda: jax.block_until_ready(run(x, y, log_scale))


def torch(rows, width, dtype):
  import torch
  from torch.nn import functional

  device = "cuda" if torch.cuda.is_available() else "cpu"
  x, y = (
      torch.randn(rows, width, device=device, requires_grad=True)
      for _ in range(2)
  )
  log_scale = torch.tensor(2.66, device=device, requires_grad=True)
  labels = torch.arange(rows, device=device)

  def run():
    for leaf in (x, y, log_scale):
      leaf.grad = None
    a, b = functional.normalize(x, dim=-1), functional.normalize(y, dim=-1)
    kind = getattr(torch, dtype)
    logits = log_scale.exp() * (a.to(kind) @ b.to(kind).T).float()
    loss = (
        functional.cross_entropy(logits, labels)
        + functional.cross_entropy(logits.T, labels)
    ) / 2
    loss.backward()
    if device == "cuda":
      torch.cuda.synchronize()

  return run


CONTENDERS = {"ours": ours, "fused": fused, "dense": dense, "torch": torch}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  size = parser.add_mutually_exclusive_group()
  size.add_argument("--small", action="store_true", help="minutes on a CPU")
  size.add_argument("--full", action="store_true", help="for a GPU")
  parser.add_argument("--rows", type=int, nargs="*")
  parser.add_argument("--width", type=int, default=512)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--json", type=pathlib.Path)
  parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
  options = parser.parse_args()
  rows = options.rows or (
      [4_096, 16_384, 65_536] if options.full else [4_096, 16_384]
  )
  if options.contender:
    made = CONTENDERS[options.contender]
    rounds.serve(
        lambda: made(rows[0], options.width, options.dtype),
        rounds.libraries(options.contender),
    )
    return
  found = {}
  for count in rows:
    arguments = [
        "--rows", str(count), "--width", str(options.width), "--dtype",
        options.dtype,
    ]
    # At 65,536 rows each float32 matrix of a dense loss is 16 GiB.
    names = ["ours", "fused"] if count > 40_000 else list(CONTENDERS)
    found[count] = rounds.compare(__file__, names, arguments, options.rounds)
    print(rounds.table(
        f"loss, {count} x {options.width}, {options.dtype}", found[count]
    ), flush=True)
  if options.json:
    options.json.write_text(json.dumps(
        dict(machine=rounds.machine(), loss=found), indent=2
    ))


if __name__ == "__main__":
  main()

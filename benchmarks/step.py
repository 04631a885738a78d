"""python benchmarks/step.py --small    value and gradient of two towers with loss

Contenders: ours (cached gradient, strided chunks, tiled loss), direct (no chunks,
tiled loss), two-pass (gradient caching as first published: contiguous chunks,
both towers twice, dense loss) and dense (no chunks, dense loss). The last two
are baselines, written here from their papers.
"""

import argparse
import json
import pathlib

import rounds

SMALL = dict(
    image=dict(width=192, depth=4, heads=3, patch=8, dtype="float32"),
    text=dict(vocab=1_000, length=16, width=192, depth=4, heads=3,
              dtype="float32"),
    size=64, width=128, rows=512, chunks=8,
)
FULL = dict(
    image=dict(variant="B/16", remat="none"),
    text=dict(vocab=32_000, length=64, width=512, depth=12, heads=8),
    size=224, width=512, rows=4_096, chunks=8,
)


def towers(setup):
  """(encode, objective, parameters, batch) of a setup."""
  import jax

  from basic.encoders import text_transformer, vit
  from basic.engine import model
  from basic.objectives import softmax

  net = model.model(
      {
          "image": vit.vit(**setup["image"]),
          "text": text_transformer.text_transformer(**setup["text"]),
      },
      width=setup["width"],
  )
  a, b = jax.random.split(jax.random.key(0))
  size, rows = setup["size"], setup["rows"]
  batch = {
      "image": jax.random.randint(a, (rows, size, size, 3), 0, 256, "uint8"),
      "text": jax.random.randint(b, (rows, setup["text"]["length"]), 1, 999),
  }
  objective = softmax.softmax()
  params = jax.jit(net.init)(jax.random.key(1), batch)
  params["objective"] = objective.init(jax.random.key(2), None)[0]
  return net.encode, objective, params, batch


def runner(gradient, params, batch):
  import jax

  compiled = jax.jit(gradient)
  return lambda: jax.block_until_ready(compiled(params, batch))


def ours(setup):
  from basic import gradient

  encode, objective, params, batch = towers(setup)
  grad = gradient.cached(encode, objective, chunks=setup["chunks"])
  return runner(lambda p, b: grad(p, (), b, None), params, batch)


def direct(setup):
  from basic import gradient

  encode, objective, params, batch = towers(setup)
  grad = gradient.direct(encode, objective)
  return runner(lambda p, b: grad(p, (), b, None), params, batch)


def dense_loss(x, y, log_scale):
  """The symmetric softmax loss with the whole logit matrix."""
  import jax
  import jax.numpy as jnp

  x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  y = y / jnp.linalg.norm(y, axis=-1, keepdims=True)
  logits = jnp.exp(log_scale) * x @ y.T
  match = jnp.diagonal(logits)
  rows = jax.nn.logsumexp(logits, 1) - match
  cols = jax.nn.logsumexp(logits, 0) - match
  return (jnp.mean(rows) + jnp.mean(cols)) / 2


def dense(setup):
  import jax

  encode, _, params, batch = towers(setup)

  def loss(params, batch):
    z = encode(params, batch).views
    return dense_loss(
        z["image"].pooled, z["text"].pooled, params["objective"]["log_scale"]
    )

  return runner(jax.value_and_grad(loss), params, batch)


def two_pass(setup):
  """Gao et al., 2021, section 3: cache embeddings, then their gradients."""
  import jax
  import jax.numpy as jnp

  encode, _, params, batch = towers(setup)

  def blocks(tree):
    return jax.tree.map(
        lambda a: a.reshape(setup["chunks"], -1, *a.shape[1:]), tree
    )

  def embed(params, part):
    views = encode(params, part).views
    return views["image"].pooled, views["text"].pooled

  def gradient(params, batch):
    parts = blocks(batch)
    cached = jax.lax.map(lambda part: embed(params, part), parts)
    x, y = jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), cached)
    value, (gx, gy, gt) = jax.value_and_grad(dense_loss, (0, 1, 2))(
        x, y, params["objective"]["log_scale"]
    )

    def add(total, part):
      rows, bars = part
      _, pullback = jax.vjp(lambda p: embed(p, rows), params)
      return jax.tree.map(jnp.add, total, pullback(bars)[0]), None

    zero = jax.tree.map(jnp.zeros_like, params)
    total, _ = jax.lax.scan(add, zero, (parts, blocks((gx, gy))))
    total["objective"]["log_scale"] = gt
    return value, total

  return runner(gradient, params, batch)


CONTENDERS = {
    "ours": ours, "direct": direct, "two-pass": two_pass, "dense": dense
}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  size = parser.add_mutually_exclusive_group()
  size.add_argument("--small", action="store_true", help="minutes on a CPU")
  size.add_argument("--full", action="store_true", help="for a GPU")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--rows", type=int)
  parser.add_argument("--chunks", type=int)
  parser.add_argument("--json", type=pathlib.Path)
  parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
  options = parser.parse_args()
  setup = dict(FULL if options.full else SMALL)
  setup["rows"] = options.rows or setup["rows"]
  setup["chunks"] = options.chunks or setup["chunks"]
  if options.contender:
    rounds.serve(
        lambda: CONTENDERS[options.contender](setup),
        rounds.libraries(options.contender),
    )
    return
  arguments = ["--full"] if options.full else ["--small"]
  arguments += ["--rows", str(setup["rows"]), "--chunks", str(setup["chunks"])]
  results = rounds.compare(
      __file__, list(CONTENDERS), arguments, options.rounds
  )
  print(rounds.table(
      f"step, {setup['rows']} rows, {setup['chunks']} chunks", results
  ))
  if options.json:
    options.json.write_text(json.dumps(
        dict(machine=rounds.machine(), step=results), indent=2
    ))


if __name__ == "__main__":
  main()

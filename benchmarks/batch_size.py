"""python benchmarks/batch_size.py --small | --full [--json FILE]

The generalisation gap of a contrastive loss against the batch size, on a problem
whose population can be sampled at will. A latent z of 8 normal numbers is seen in
two ways, x = A z + noise and y = C z + noise, and two linear towers learn from m
pairs, at the same number of examples seen. With unit embeddings and inverse
temperature t, one direction of the loss of n pairs is

    L_n = mean_i [log (1/k) sum_j exp(t <u_i, v_j>) - t <u_i, v_i>],

with the mean over k partners: all n, the positive among them ("included", the loss
that is trained), or the n - 1 negatives ("excluded"). So normalised, batches of
different size have the same limit, and the gap is

    gap(m, B) = L of 16,384 new pairs - mean of L over batches of B training pairs.

Source of the question: Pham et al., Combined Scaling for Zero-shot Transfer
Learning, 2021 (https://arxiv.org/abs/2111.10050), which bounds the gap by
a / sqrt(m) + b / sqrt(B). Any rate may be smaller than its bound.
"""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from basic.ops import normalize
from basic.ops.pairwise import similarity

LATENT, SEEN, WIDTH = 8, 16, 8
SCALE = 1 / 0.3
NOISE = 0.5
SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)


class Gaps(NamedTuple):
  """What was measured: float64 [pairs sizes seeds] each, NaN where B > m.

  Attributes:
    pairs: m of the first axis.
    sizes: B of the second axis.
    included: the gap, with the positive among the partners.
    excluded: the gap, with negatives alone.
    population: the loss of new pairs.
  """

  pairs: tuple[int, ...]
  sizes: tuple[int, ...]
  included: np.ndarray
  excluded: np.ndarray
  population: np.ndarray


def measure(
    pairs: Sequence[int] = (1024, 4096, 16384),
    sizes: Sequence[int] = SIZES,
    seeds: int = 5,
    examples: int = 262_144,
    fresh: int = 16_384,
) -> Gaps:
  """Trains towers of every m, B and seed, and measures their gaps.

  Args:
    pairs: values of m, multiples of every B that is not larger.
    sizes: values of B.
    seeds: problems, each with its own A, C, training pairs and new pairs.
    examples: seen in training, by every run.
    fresh: new pairs that stand for the population.
  """
  shape = (len(pairs), len(sizes), seeds)
  found = [np.full(shape, np.nan) for _ in range(3)]
  for s in range(seeds):
    problem, train_key, fresh_key = jax.random.split(jax.random.key(s), 3)
    mixing = jax.random.normal(problem, (2, LATENT, SEEN)) / LATENT**0.5
    new = sample(mixing, fresh_key, fresh)
    for i, m in enumerate(pairs):
      seen = sample(mixing, train_key, m)
      for j, size in enumerate(sizes):
        if size > m:
          continue
        towers = trained(seen, size, examples, jax.random.key(s + 1000))
        inside = losses(towers, seen, size)
        outside = losses(towers, new, fresh)
        found[0][i, j, s] = outside[0] - inside[0]
        found[1][i, j, s] = outside[1] - inside[1]
        found[2][i, j, s] = outside[0]
  return Gaps(tuple(pairs), tuple(sizes), *found)


@functools.partial(jax.jit, static_argnums=2)
def sample(mixing: jax.Array, key: jax.Array, count: int) -> jax.Array:
  """New pairs, float32 [2 count SEEN]."""
  of_latent, of_noise = jax.random.split(key)
  z = jax.random.normal(of_latent, (count, LATENT))
  noise = jax.random.normal(of_noise, (2, count, SEEN))
  return jnp.einsum("nk,vkd->vnd", z, mixing) + NOISE * noise


@functools.partial(jax.jit, static_argnums=(1, 2))
def trained(
    pairs: jax.Array, size: int, examples: int, key: jax.Array,
    scale: float = SCALE,
) -> jax.Array:
  """Two linear towers [2 SEEN WIDTH], after `examples` in batches of `size`."""
  steps, m = examples // size, pairs.shape[1]
  peak = 1e-2 * size / 256  # The same way from the start for any size.
  optimizer = optax.adam(optax.cosine_decay_schedule(peak, steps))
  init, draw = jax.random.split(key)
  towers = jax.random.normal(init, (2, SEEN, WIDTH)) / SEEN**0.5

  def loss(towers, batch):
    u, v = embed(towers, batch)
    row, col = similarity.lse(u, v, scale)
    return jnp.mean((row + col) / 2 - scale * jnp.sum(u * v, -1))

  def step(carry, rows):
    towers, state = carry
    grads = jax.grad(loss)(towers, pairs[:, rows])
    updates, state = optimizer.update(grads, state)
    return (optax.apply_updates(towers, updates), state), None

  def epoch(carry, key):
    order = jax.random.permutation(key, m).reshape(m // size, size)
    return jax.lax.scan(step, carry, order)

  carry = (towers, optimizer.init(towers))
  keys = jax.random.split(draw, examples // m)
  return jax.lax.scan(epoch, carry, keys)[0][0]


def embed(towers: jax.Array, pairs: jax.Array) -> jax.Array:
  """Unit embeddings [2 n WIDTH] of pairs [2 n SEEN]."""
  return normalize.unit(jnp.einsum("vnd,vde->vne", pairs, towers))


@functools.partial(jax.jit, static_argnums=2)
def losses(
    towers: jax.Array, pairs: jax.Array, size: int
) -> tuple[jax.Array, jax.Array]:
  """The normalised loss in batches of `size`: positive included, excluded."""
  u, v = embed(towers, pairs)
  batches = (len(u) // size, size, WIDTH)

  def of_batch(batch):
    u, v = batch
    match = SCALE * jnp.sum(u * v, -1)
    sums = similarity.lse(u, v, SCALE)
    alone = [each + jnp.log1p(-jnp.exp(match - each)) for each in sums]
    included = jnp.mean(sum(sums) / 2 - match) - jnp.log(size)
    return included, jnp.mean(sum(alone) / 2 - match) - jnp.log(size - 1)

  parts = jax.lax.map(of_batch, (u.reshape(batches), v.reshape(batches)))
  return tuple(jnp.mean(part) for part in parts)


class Fit(NamedTuple):
  """gap = a / sqrt(m) + b / B^p, by least squares.

  Attributes:
    a: with its interval, (value, low, high).
    b: the same.
    p: the same; both ends are the value where it was given.
    left: root mean square of what the fit leaves.
  """

  a: tuple[float, float, float]
  b: tuple[float, float, float]
  p: tuple[float, float, float]
  left: float


def fit(
    gaps: Gaps, kind: str, power: float | None = None, resamples: int = 1000
) -> Fit:
  """Fits the gap, with 95% intervals from resampled seeds.

  Args:
    gaps: what was measured.
    kind: "included" or "excluded".
    power: p; None: the best of 0.05, 0.10, ... 2.
    resamples: of the seeds, with replacement.
  """
  table = getattr(gaps, kind)
  m, size = np.meshgrid(gaps.pairs, gaps.sizes, indexing="ij")
  kept = ~np.isnan(table[..., 0])
  powers = np.arange(1, 41) / 20 if power is None else np.array([power])
  designs = [np.stack([m[kept] ** -0.5, size[kept] ** -p], 1) for p in powers]

  def best(seeds):
    y = table[kept][:, seeds].mean(-1)
    found = []
    for p, design in zip(powers, designs, strict=True):
      ab = np.linalg.lstsq(design, y, rcond=None)[0]
      found.append((np.sqrt(np.mean((design @ ab - y) ** 2)), *ab, p))
    return np.array(min(found))

  count = table.shape[-1]
  draws = np.random.default_rng(0).integers(count, size=(resamples, count))
  left, *values = best(np.arange(count))
  low, high = np.percentile([best(draw) for draw in draws], (2.5, 97.5), axis=0)
  ends = zip(values, low[1:], high[1:], strict=True)
  return Fit(*(tuple(map(float, each)) for each in ends), left=float(left))


def falls(gaps: Gaps, kind: str) -> list[bool]:
  """For each m: whether the mean size of the gap falls at every larger B."""
  means = np.abs(getattr(gaps, kind).mean(-1))
  return [bool(np.all(np.diff(row[~np.isnan(row)]) < 0)) for row in means]


def report(gaps: Gaps) -> str:
  """Tables of the gaps, mean and standard deviation over seeds, and all fits."""
  lines = []
  for kind in ("included", "excluded"):
    lines += [f"gap, positive {kind}: mean (standard deviation over seeds)"]
    lines += ["      m " + "".join(f"{f'B={size}':>17}" for size in gaps.sizes)]
    for m, row, fell in zip(
        gaps.pairs, getattr(gaps, kind), falls(gaps, kind), strict=True
    ):
      cells = "".join(f"{x.mean():9.4f} ({x.std():.4f})" for x in row)
      verdict = "falls" if fell else "does not fall"
      lines += [f"{m:7} {cells}   |gap| {verdict} with every B"]
    for power in (0.5, 1.0, None):
      a, b, p, left = fit(gaps, kind, power)
      lines += [
          f"  a/sqrt(m) + b/B^p, p = {p[0]:.2f} [{p[1]:.2f}, {p[2]:.2f}]: "
          f"a = {a[0]:.3f} [{a[1]:.3f}, {a[2]:.3f}], "
          f"b = {b[0]:.3f} [{b[1]:.3f}, {b[2]:.3f}], leaves {left:.4f}"
      ]
  lines += ["population loss, mean over seeds"]
  for m, row in zip(gaps.pairs, gaps.population, strict=True):
    lines += [f"{m:7} " + "".join(f"{x.mean():17.4f}" for x in row)]
  return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
  """Measures, prints the report and, if asked, writes the figures as JSON."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  size = parser.add_mutually_exclusive_group(required=True)
  size.add_argument("--small", action="store_true", help="seconds, one m")
  size.add_argument("--full", action="store_true", help="minutes")
  parser.add_argument("--json", metavar="FILE")
  given = parser.parse_args(arguments)
  changes: dict[str, Any] = dict(
      pairs=(1024,), sizes=(16, 64, 256), seeds=2, examples=16_384, fresh=4096
  ) if given.small else {}
  gaps = measure(**changes)
  print(report(gaps))
  if given.json:
    plain = {k: np.asarray(x).tolist() for k, x in gaps._asdict().items()}
    with open(given.json, "w") as file:
      json.dump(plain, file)


if __name__ == "__main__":
  main(sys.argv[1:])

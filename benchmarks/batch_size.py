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
  """What was measured, float64 [pairs sizes seeds] each, NaN where B > m.

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
    examples: int = 131_072,
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
    pairs: jax.Array, size: int, examples: int, key: jax.Array
) -> jax.Array:
  """Two linear towers [2 SEEN WIDTH], after `examples` in batches of `size`."""
  steps, m = examples // size, pairs.shape[1]
  peak = 1e-2 * (size / 256) ** 0.5  # As Adam's noise scales.
  optimizer = optax.adam(optax.cosine_decay_schedule(peak, steps))
  init, draw = jax.random.split(key)
  towers = jax.random.normal(init, (2, SEEN, WIDTH)) / SEEN**0.5

  def loss(towers, batch):
    u, v = embed(towers, batch)
    row, col = similarity.lse(u, v, SCALE)
    return jnp.mean((row + col) / 2 - SCALE * jnp.sum(u * v, -1))

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

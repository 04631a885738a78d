"""Moments from chunks: exact, unbiased, and wrong where they should be."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys

from basic import optim, types
from basic.objectives import softmax
from basic.ops import factored, slot_accumulation

ROWS = 256
PARTITIONS = 1_600


@functools.cache
def contributions():
  """What each row of one contrastive batch adds to the gradient, [b n].

  Two towers over views of one latent vector, noisy enough that the variance of
  rows is as large, next to the gradient, as in the early steps of a real run.
  """
  draw = np.random.default_rng(0)
  latent = draw.standard_normal((ROWS, 16))
  batch = {
      name: latent @ mix + 2.1 * draw.standard_normal((ROWS, 16))
      for name, mix in (
          ("image", np.eye(16)), ("text", draw.standard_normal((16, 16)) / 4))
  }
  net, objective = toys.two_towers(), softmax.softmax(scale=10.)
  params = toys.double(net.init(jax.random.key(1), batch))
  phi, _ = objective.init(jax.random.key(2), None)
  view = net.encode.views["image"]

  def loss(features):
    return objective.apply(phi, (), types.Embedded(features, {}), None)[0]

  def pull(row, bar):
    _, back = jax.vjp(
        lambda p: view.apply(p, row[None], None).pooled[0], params["image"])
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(back(bar))])

  @jax.jit
  def rows(batch):
    bars = jax.grad(loss)(net.encode(params, batch).views)
    return jax.vmap(pull)(batch["image"], bars["image"].pooled)

  return np.asarray(rows(batch))


def deal(rows, chunks, replicas, seed):
  """Rows at random to chunks and replicas: their parts [k r n]."""
  order = jax.random.permutation(jax.random.key(seed), rows.shape[0])
  return rows[order].reshape(chunks, replicas, -1, rows.shape[1]).sum(2)


def estimate(parts, factor):
  """The sum of the chunks' terms; `factor` is what (1 - 1/K) is taken for."""
  chunks, replicas = parts.shape[:2]
  c = parts.sum(1)
  raw = chunks * jnp.sum(c * c, 0)
  if factor == "right":
    square = functools.partial(
        slot_accumulation.square, chunks=chunks, replicas=replicas)
    return jnp.sum(jax.vmap(square)(c * c, jnp.sum(parts**2, 1)), 0)
  h = parts * chunks * replicas  # each an estimate of the gradient
  variance = jnp.mean(jnp.var(h, 1, ddof=1) / replicas, 0)
  return raw - {"raw": 0., "whole": 1.}[factor] * variance


@pytest.mark.parametrize("chunks", [1, 4, 16])
def test_the_first_moment_from_chunks_is_that_from_their_sum(double, chunks):
  draw = np.random.default_rng(0)
  m, c = draw.standard_normal((5, 4)), draw.standard_normal((chunks, 5, 4))
  expected = .9 * m + .1 * c.sum(0)
  slot, _ = jax.lax.scan(
      lambda s, x: (slot_accumulation.first_moment(s, x[0], x[1], .9), None),
      jnp.asarray(m), (jnp.asarray(c), jnp.arange(chunks)))
  assert toys.far(slot, expected) <= 1e-12  # float64
  wrong = jnp.asarray(m)
  for part in jnp.asarray(c):  # forgetting with every chunk is another mean
    wrong = slot_accumulation.first_moment(wrong, part, 0, .9)
  assert chunks == 1 or toys.far(wrong, expected) > .1


def test_one_chunk_is_squared_exactly(double):
  c = jnp.asarray(np.random.default_rng(0).standard_normal(9))
  for replicas in (1, 8):  # whatever the replicas' parts
    found = slot_accumulation.square(c * c, 3 * c, chunks=1, replicas=replicas)
    np.testing.assert_array_equal(found, c**2)


def test_chunks_without_replicas_are_refused():
  with pytest.raises(ValueError, match="1 replica shows no variance"):
    slot_accumulation.square(
        jnp.ones(2), jnp.ones(2), chunks=4, replicas=1)


def test_equal_rows_have_no_variance_to_subtract(double):
  g = jnp.asarray(np.random.default_rng(0).standard_normal(9))
  parts = jnp.broadcast_to(g / 12, (4, 3, 9))
  np.testing.assert_allclose(estimate(parts, "right"), g**2, rtol=1e-12)


@pytest.mark.parametrize("chunks, replicas", [(16, 8), (4, 8), (16, 2)])
def test_the_square_from_chunks_is_unbiased_and_simpler_ones_are_not(
    double, chunks, replicas):
  rows = contributions()
  square = np.sum(rows.sum(0) ** 2)

  def ratios(seed):
    parts = deal(jnp.asarray(rows), chunks, replicas, seed)
    return [jnp.sum(estimate(parts, f)) for f in ("right", "raw", "whole")]

  right, raw, whole = np.mean(
      jax.jit(lambda seeds: jax.lax.map(ratios, seeds))(jnp.arange(PARTITIONS)),
      axis=1) / square
  assert abs(right - 1) < .02  # its standard error is .008 or less
  # without the variance far too large, without 1 - 1/K about half
  assert 7.5 < raw < 9 if chunks == 16 else 2.2 < raw < 2.8
  assert .45 < whole < .6


def test_rows_and_columns_from_chunks_are_means_of_the_dense_estimate(double):
  parts = deal(jnp.asarray(contributions()), 4, 8, 0)[..., :256]
  parts = parts.reshape(4, 8, 16, 16)
  c, squares = parts.sum(1), (parts**2).sum(1)
  dense = estimate(parts, "right")
  slots = {"rows": jnp.ones((16, 1)), "columns": jnp.ones((1, 16)),
           "full": jnp.ones((16, 16))}
  axes = {"rows": 1, "columns": 0, "full": None}
  for i in range(4):
    for name, axis in axes.items():
      given = c[i]**2, squares[i]
      if axis is not None:
        given = [jnp.mean(x, axis, keepdims=True) for x in given]
      slots[name] = slot_accumulation.second_moment(
          slots[name], *given, i, .75, chunks=4, replicas=8)
  rows, columns = factored.means(dense, (0, 1))
  for name, term in (("rows", rows), ("columns", columns), ("full", dense)):
    assert toys.far(slots[name], .75 + .25 * term) <= 1e-12  # float64


def test_clamping_entries_before_the_means_brings_the_bias_back(double):
  rows = contributions()
  square = np.sum(rows.sum(0) ** 2)

  def sums(seed):
    dense = estimate(deal(jnp.asarray(rows), 16, 8, seed), "right")
    return (
        jnp.mean(dense < 0), jnp.sum(dense),
        jnp.sum(slot_accumulation.clamp(dense, jnp.zeros(()))))

  negative, kept, clamped = np.mean(
      jax.jit(lambda seeds: jax.lax.map(sums, seeds))(jnp.arange(100)), axis=1)
  assert .3 < negative < .45
  assert abs(kept / square - 1) < .05 and clamped / square > 1.4


def test_steps_from_accumulated_moments_converge_to_those_from_a_buffer(double):
  # AdaFactorW on one weight, rows dealt anew in each step. The plain
  # accumulator, which hands over the sum, is the oracle. One draw of the row
  # statistics is wrong by about their own size; what they are used for is
  # their mean over some hundred steps.
  rows = jnp.asarray(contributions()[:, :256])
  chunks, replicas, b1, b2, steps = 16, 8, .9, .999, 400
  tx = optim.adafactorw(
      steps=steps, peak=1., schedule="constant", b1=b1, b2=b2, decay=0.,
      clip=None, min_dim_size_to_factor=16, mu_dtype="float32").tx
  weight = {"w": jnp.zeros((16, 16))}
  grads = {"w": rows.sum(0).reshape(16, 16)}
  both = dict(chunks=chunks, replicas=replicas)

  def plain(state, _):
    updates, state = tx.update(grads, state, weight)
    return state, -updates["w"]

  def chunked(slots, step, floored=1.):
    # Adam's correction as a memory of its own: 1 - (1 - b2)/(1 - b2^t)
    memory = 1 - (1 - b2) / (1 - b2**step)
    parts = deal(rows, chunks, replicas, step.astype(int))
    parts = parts.reshape(chunks, replicas, 16, 16)

    def add(slots, given):
      (m, r, c), (part, i) = slots, given
      of_rows, of_columns = zip(
          factored.means(part.sum(0) ** 2, (0, 1)),
          factored.means((part**2).sum(0), (0, 1)), strict=True)
      return (
          slot_accumulation.first_moment(m, part.sum(0), i, b1),
          slot_accumulation.second_moment(r, *of_rows, i, memory, **both),
          slot_accumulation.second_moment(c, *of_columns, i, memory, **both),
      ), None

    slots, _ = jax.lax.scan(add, slots, (parts, jnp.arange(chunks)))
    floors = factored.means(
        jnp.maximum(floored * jnp.sum(parts.sum(1) ** 2, 0), 1e-30), (0, 1))
    r, c = map(slot_accumulation.clamp, slots[1:], floors)
    update = slots[0] / (1 - b1**step) * factored.inverse_root(r, c, 0)
    return slots, update

  def walk(floored):
    start = weight["w"], jnp.zeros((16, 1)), jnp.zeros((1, 16))
    return jax.lax.scan(
        functools.partial(chunked, floored=floored), start,
        jnp.arange(1., steps + 1))

  state, expected = jax.jit(
      lambda: jax.lax.scan(plain, tx.init(weight), None, steps))()
  slots, found = jax.jit(lambda: walk(1.))()
  mean = np.asarray(optax.tree.get(state, "mu")["w"], np.float64)
  # The oracle's mean is in float32, of ten steps in effect.
  assert toys.far(slots[0], mean) <= checks.rounding(20)
  errors = [toys.far(found[n], expected[n]) for n in (0, 24, 99, 399)]
  # from .40 to .18: the floor is above the square of some rows of this batch
  assert max(errors) < .5 and errors[3] < .25
  # clamped at zero alone, the first steps go anywhere
  _, found = jax.jit(lambda: walk(0.))()
  assert toys.far(found[0], expected[0]) > 1e3

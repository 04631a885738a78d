"""What every encoder is before its first step: scales, noise, activations."""

import functools
import math
import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import towers

from basic import paths
from basic.ops import noise

# Blocks enough to tell a line from a curve.
DEEPER = {
    "text_transformer": dict(depth=4),
    "vit": dict(depth=4),
}
# How many blocks stochastic depth may skip.
BLOCKS = {
    "clip_resnet": 6, "coatnet": 6, "resnet": 8, "text_transformer": 4, "vit": 4,
}
# What the tiny settings leave out.
VARIANTS = {
    "coatnet": [dict(norm="frozen_batch", pre_logits=True, split=(1, 8))],
    "vit": [
        dict(pool="token", entry_norm=True, depth=1),
        dict(pool="attention", stem="convolution", depth=1),
    ],
}


def lecun(kernel, axes):
  """1 / sqrt(fan in): LeCun et al., Efficient BackProp, 1998, section 4.6."""
  del axes
  return math.prod(kernel[:-1]) ** -0.5


def xavier(kernel, axes):
  """sqrt(2 / (fan in + fan out)): Glorot and Bengio, 2010, equation 16."""
  inputs = len(kernel) - 1 if axes[0] == "heads" else 1
  return math.sqrt(2 / (math.prod(kernel[:inputs]) + math.prod(kernel[inputs:])))


def embedding(table, axes):
  """1 / sqrt(width), so that a row has length one; big_vision's models/vit.py
  for positions and probe, Flax's default for vocabularies."""
  del axes
  return table[-1] ** -0.5


# Pattern of paths -> standard deviation of the draw, or the constant.
SCALES = (
    ("(.*/)?(attention|mlp)/(query|key|value|out|in)/kernel", xavier),
    (".*kernel", lecun),
    # Dai et al., CoAtNet, 2021; as in Swin and T5's descendants.
    (".*/attention/positions", lambda table, axes: 0.02),
    ("(pool/)?(positions|probe)|pool/token|vocabulary", embedding),
    ("token", 0.0),  # Dosovitskiy et al., as their code has it
    ("(.*/)?(scale|variance)", 1.0),
    ("(.*/)?(bias|mean)", 0.0),
)


def drawn(name, settings):
  """(encoder, fresh parameters by path)."""
  if not settings:
    return towers.build(name), paths.flatten(towers.params(name))
  encoder = towers.build(name, **settings)
  key = jax.random.key(1, impl="unsafe_rbg")
  params = towers.jit(encoder.init)(key, towers.inputs(name))
  return encoder, paths.flatten(params)


def check_scale(path, leaf, axes):
  scale = next(
      (scale for row, scale in SCALES if re.fullmatch(row, path)), None
  )
  assert scale is not None, f"{path}: add its published scale to SCALES"
  if isinstance(scale, float):
    np.testing.assert_array_equal(leaf, scale, err_msg=path)
    return
  stacked = axes[0] == "layers"
  sigma = scale(leaf.shape[stacked:], axes[stacked:])
  square = np.square(np.asarray(leaf, np.float64) / sigma)
  # The mean of n squares of a standard normal has variance 2 / n; truncated
  # and uniform draws have less. Six standard deviations.
  assert square.mean() > 0, f"{path} {leaf.shape} is zero"
  assert abs(square.mean() - 1) < 6 * math.sqrt(2 / leaf.size), (
      f"{path} {leaf.shape} has RMS {math.sqrt(square.mean())} of {sigma}"
  )


@pytest.mark.parametrize(("name", "settings"), [
    (name, settings)
    for name in towers.NAMES for settings in ({}, *VARIANTS.get(name, ()))
])
def test_initial_scales_are_the_published_ones(name, settings):
  encoder, params = drawn(name, settings)
  for path, leaf in params.items():
    axes = next(axes for row, axes in encoder.axes if re.fullmatch(row, path))
    check_scale(path, leaf, axes)


class Start(NamedTuple):
  """What a fresh encoder computed.

  Attributes:
    outputs: (path of a module, RMS of what it returned), in any order.
    rates: of stochastic depth, in the order in which rows meet them.
    keys: of the first row, one for each use of noise.
    pooled: RMS of the features.
  """

  outputs: list[tuple[str, float]]
  rates: list[float]
  keys: list[tuple[int, ...]]
  pooled: float


def rms(x):
  return jnp.sqrt(jnp.mean(jnp.square(jnp.asarray(x, jnp.float32))))


@functools.cache
def start(name):
  """Applies a fresh encoder, with noise that is noted and not added."""
  if jax.__version_info__ >= (0, 11):
    pytest.skip("Flax refuses callbacks inside of its scans with this JAX")
  found = Start([], [], [], 0.0)

  def note(call, args, kwargs, context):
    result = call(*args, **kwargs)
    first = result[0] if isinstance(result, tuple) else result
    if context.method_name == "__call__" and isinstance(first, jax.Array):
      path = "/".join(context.module.path)
      jax.debug.callback(
          lambda size: found.outputs.append((path, float(size))), rms(first)
      )
    return result

  def skipped(y, keys, rate):
    jax.debug.callback(
        lambda value: found.rates.append(float(value)), jnp.float32(rate),
        ordered=True,
    )
    return quiet(y, keys, rate)

  def quiet(y, keys, rate):
    del rate
    jax.debug.callback(
        lambda key: found.keys.append(tuple(key.tolist())),
        jax.random.key_data(keys)[0],
    )
    return y

  settings, x = DEEPER.get(name, {}), towers.inputs(name)
  encoder, params = drawn(name, settings)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(noise, "stochastic_depth", skipped)
    patch.setattr(noise, "dropout", quiet)
    patch.setattr(noise, "drop_tokens", quiet)
    with nn.intercept_methods(note):
      features = towers.jit(encoder.apply)(
          paths.unflatten(params), x, towers.row_keys()
      )
      jax.block_until_ready(features.pooled)
  jax.effects_barrier()
  return found._replace(pooled=float(rms(features.pooled)))


@towers.every
def test_the_kth_of_n_blocks_is_skipped_at_k_over_n_of_the_rate(name):
  rates = start(name).rates
  assert rates == sorted(rates), "the first blocks are skipped the least"
  last = towers.TINY[name][0]["stochastic_depth"]
  # float32: two roundings.
  np.testing.assert_allclose(
      sorted(set(rates)), np.linspace(0, last, BLOCKS[name]),
      rtol=2 * np.finfo(np.float32).eps, atol=0,
  )


@towers.every
def test_no_two_uses_of_noise_share_a_draw(name):
  keys = start(name).keys
  assert len(keys) >= BLOCKS[name]
  assert len(set(keys)) == len(keys)


# Weights whose norms are constants: no fresh statistic fits any data.
STORED = {"clip_resnet"}
# Standardised kernels have gain sqrt(fan in) until a norm follows, and the
# residual stream, which none follows, grows by a block's gain at a time.
FACTOR = {"resnet": 8.0}


@pytest.mark.parametrize("name", sorted(set(towers.NAMES) - STORED))
def test_activations_at_the_start_have_an_rms_near_1(name):
  found, factor = start(name), FACTOR.get(name, 4.0)
  assert 1 / factor < found.pooled < factor
  streams = [
      (path, size) for path, size in found.outputs
      if re.fullmatch("blocks|stem|root|stage[1-9]|split", path)
  ]
  assert streams
  for path, size in streams:
    assert 1 / factor < size < factor, f"{path}: RMS {size}"
  norms = [
      (path, size) for path, size in found.outputs
      if re.search("norm[1-9]?$", path)
  ]
  assert norms
  for path, size in norms:
    # The epsilon takes its share of a small variance.
    assert 0.95 < size < 1.01, f"{path}: RMS {size}"

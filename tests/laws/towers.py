"""Every encoder in `basic/encoders`, as small as it goes, and what it reads."""

import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import encoders

# Most of the time here is the compiler's, and a law does not need speed.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

ROWS = 4

# The smallest settings of each encoder, with every kind of noise it has, and
# what it reads.
TINY = {
    "clip_resnet": (
        dict(
            depths=(2, 1, 1, 2), width=4, heads=4, features=8,
            stochastic_depth=0.9,
        ),
        "image",
    ),
    "coatnet": (
        dict(
            depths=(2, 2, 1, 2, 1), widths=(4, 4, 8, 16, 16), head=8,
            stochastic_depth=0.9,
        ),
        "image",
    ),
    # One group: a pair of channels at the last stage's single pixel would be
    # normalised to their sign, where no gradient is well-conditioned.
    "resnet": (
        dict(depth=26, width=1 / 16, groups=1, stochastic_depth=0.9), "image"
    ),
    "text_transformer": (
        dict(
            vocab=50, length=8, width=16, depth=2, heads=2, dropout=0.2,
            stochastic_depth=0.5,
        ),
        "text",
    ),
    "vit": (
        dict(
            width=16, depth=2, heads=2, patch=8, dropout=0.2,
            stochastic_depth=0.5, drop_patches=0.25,
        ),
        "image",
    ),
}

NAMES = sorted(
    module.name
    for module in pkgutil.iter_modules(encoders.__path__)
    if not module.name.startswith("_")
)
every = pytest.mark.parametrize("name", NAMES)


def build(name, **settings):
  """An encoder at its smallest settings, or with some of them changed."""
  if name not in TINY:
    pytest.fail(
        f"basic/encoders/{name}.py has no tiny settings: add a row for "
        f"{name!r} to TINY in tests/laws/towers.py"
    )
  factory = getattr(importlib.import_module(f"basic.encoders.{name}"), name)
  return factory(**{"dtype": "float32", **TINY[name][0], **settings})


def inputs(name, seed=0):
  draw = np.random.default_rng(seed)
  if TINY[name][1] == "image":
    return jnp.asarray(draw.uniform(-1, 1, (ROWS, 32, 32, 3)), jnp.float32)
  text = draw.integers(1, 50, (ROWS, 6))
  text[0, 3:] = text[1, 1:] = 0
  return jnp.asarray(text, jnp.int32)


def row_keys(seed=0, impl=None):
  return jax.random.split(jax.random.key(seed, impl=impl), ROWS)


@functools.cache
def params(name):
  # A generator that compiles fast; which one is of no matter here.
  key = jax.random.key(1, impl="unsafe_rbg")
  return jit(build(name).init)(key, inputs(name))

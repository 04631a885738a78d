"""Towers and batches small enough for exhaustive laws."""

import jax
import jax.numpy as jnp
import numpy as np

from basic import types
from basic.engine import model
from basic.ops import noise

AXES = (("in/kernel", ("embed", "mlp")), ("out/kernel", ("mlp", "embed")))


def tower(hidden: int = 16, width: int = 8, dropout: float = 0.0):
  """A two-layer perceptron over flattened rows, with noise of the row."""

  def init(rng, inputs):
    size = int(np.prod(inputs.shape[1:]))
    a, b = jax.random.split(rng)
    return {
        "in": {"kernel": jax.random.normal(a, (size, hidden)) * size**-0.5},
        "out": {"kernel": jax.random.normal(b, (hidden, width)) * 0.25},
    }

  def apply(params, inputs, keys):
    kernel = params["in"]["kernel"]
    rows = inputs.reshape(inputs.shape[0], -1)
    h = jnp.tanh(rows.astype(kernel.dtype) @ kernel)
    if keys is not None:
      h = noise.dropout(h, keys, dropout)
    return types.Features(h @ params["out"]["kernel"])

  return types.Encoder(init, apply, AXES)


def two_towers(dropout: float = 0.0) -> types.Model:
  return model.model(
      {"image": tower(dropout=dropout), "text": tower(dropout=dropout)}, width=8
  )


def batch(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  return {
      "image": rng.normal(size=(rows, 4, 4, 1)).astype(np.float32),
      "text": rng.integers(1, 9, size=(rows, 8)).astype(np.int32),
      "label": rng.integers(0, 5, size=rows).astype(np.int32),
      "caption_id": rng.integers(0, 3, size=(rows, 2)).astype(np.int32),
  }


def double(tree):
  """float32 leaves as float64, for laws to 1e-12."""
  return jax.tree.map(
      lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, tree
  )


def far(found, expected) -> float:
  """Largest relative L2 distance between two trees, over their leaves."""
  distances = jax.tree.map(
      lambda a, b: np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b))
      / max(np.linalg.norm(np.asarray(b, np.float64)), 1e-30),
      found, expected,
  )
  return max(jax.tree.leaves(distances))


def sides(rows, cols, width, seed=0):
  """Unit rows of two sides, in float64."""
  rng = np.random.default_rng(seed)
  x, y = rng.normal(size=(rows, width)), rng.normal(size=(cols, width))
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  y /= np.linalg.norm(y, axis=1, keepdims=True)
  return x, y


def reading_the_host(jaxpr):
  """Operations that read an array of the host, at any depth: (name, shapes)."""
  for equation in jaxpr.eqns:
    if any(_on_host(v) for v in equation.invars):
      shapes = [v.aval.shape for v in equation.outvars if not _on_host(v)]
      yield equation.primitive.name, shapes
    for inner in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
    ):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from reading_the_host(inner)


def _on_host(variable):
  space = getattr(variable.aval, "memory_space", None)
  return space == jax.memory.Space.Host

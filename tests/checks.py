"""The laws of objectives as functions, so that a planted fault can break them.

Each takes an objective and raises AssertionError where it breaks the law.
`laws/test_objectives.py` runs them over every objective there is, and
`test_mutations.py` over objectives that were made wrong on purpose.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from basic import gradient, types

ROWS, WIDTH = 12, 6

# Most of the time here is the compiler's, and a law does not need speed.
HASTE = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # Newer ones do not know it.
  HASTE["xla_cpu_use_fusion_emitters"] = False
jit = functools.partial(jax.jit, compiler_options=HASTE)


def embedded(seed=0, dtype=np.float32, rows=ROWS, **views):
  """Embeddings of a batch; `views` replaces what is drawn."""
  draw = np.random.default_rng(seed)
  drawn = {v: draw.normal(size=(rows, WIDTH)) for v in ("image", "text")}
  side = {k: v for k, v in toys.batch(rows).items() if k not in drawn}
  return types.Embedded(
      {
          name: types.Features(jnp.asarray(z, dtype))
          for name, z in {**drawn, **views}.items()
      },
      jax.tree.map(jnp.asarray, side),
  )


def begin(objective, z):
  """(params, memory), initialised from shapes alone."""
  params, memory = objective.init(
      jax.random.key(0), jax.eval_shape(lambda: z)
  )
  if jax.tree.leaves(z.views)[0].dtype == jnp.float64:
    params, memory = toys.double((params, memory))
  return params, memory


def apply(objective, params, views, memory, side):
  return objective.apply(params, memory, types.Embedded(views, side), None)[0]


@functools.cache
def differentiated(objective):
  """(params, views, memory, side) -> value, gradients by the first two."""
  return jit(jax.value_and_grad(functools.partial(apply, objective), (0, 1)))


def evaluate(objective, z):
  """Value and gradients by parameters and by views."""
  params, memory = begin(objective, z)
  return differentiated(objective)(params, z.views, memory, z.side)


def directions(tree, count=3):
  """Where to step: at random, and along each scalar on its own."""
  draw = np.random.default_rng(2)
  leaves, structure = jax.tree.flatten(tree)
  for _ in range(count):
    yield structure.unflatten([draw.normal(size=a.shape) for a in leaves])
  for n, leaf in enumerate(leaves):
    if leaf.ndim == 0:
      along = [np.zeros(a.shape) for a in leaves]
      along[n] = np.ones(())
      yield structure.unflatten(along)


def gradient_law(objective):
  """Gradients are those of finite differences; needs float64."""
  z = embedded(dtype=np.float64)
  params, memory = begin(objective, z)
  function = differentiated(objective)
  at, step = (params, z.views), 1e-5
  _, grads = function(*at, memory, z.side)
  for along in directions(at):
    moves = (jax.tree.map(lambda v, s=s: s * step * v, along) for s in (1, -1))
    up, down = (
        function(*jax.tree.map(jnp.add, at, move), memory, z.side)[0]
        for move in moves
    )
    slope = sum(
        np.sum(g * v) for g, v in zip(
            jax.tree.leaves(grads), jax.tree.leaves(along), strict=True
        )
    )
    # Central differences err by step^2, and by rounding over step.
    np.testing.assert_allclose(
        slope, (up - down) / (2 * step), rtol=1e-7, atol=1e-8
    )


def equivariance_law(objective):
  """The order of the batch means nothing; needs float64."""
  z = embedded(dtype=np.float64)
  order = np.random.default_rng(1).permutation(ROWS)
  value, (phi, views) = evaluate(objective, z)
  shuffled = evaluate(objective, jax.tree.map(lambda a: a[order], z))
  views = jax.tree.map(lambda a: a[order], views)
  # float64, sums of 144 pairs in another order.
  close(shuffled, (value, (phi, views)), 1e-11)


def rounding(terms, size=1.0, dtype=np.float32):
  """How far rounding alone may move a sum, whatever order a processor takes.

      |fl(sum_n x_n) - sum_n x_n| <= n eps sum_n |x_n|

  Args:
    terms: n; where sums follow each other, the terms of all of them together.
    size: sum of |x_n|, and what multiplies it later: a scale, say.
    dtype: that is computed in.

  References:
    Higham, Accuracy and Stability of Numerical Algorithms, 2002, eq. 4.4.
  """
  return terms * float(np.finfo(dtype).eps) * size


def needs(dtype):
  """Skips a test where XLA cannot compile a dtype: float16 needs F16C on x86."""
  try:
    jax.block_until_ready(jax.jit(lambda x: x + 1)(jnp.ones(2, dtype)))
  except jax.errors.JaxRuntimeError as error:
    pytest.skip(f"no {np.dtype(dtype)} here: {str(error).splitlines()[0]}")


def close(found, expected, limit):
  """Every leaf within a relative L2 distance."""
  distance = toys.far(found, expected)
  assert distance <= limit, f"relative distance {distance}, allowed {limit}"


def cut_law(objective, chunks, noise):
  """Chunk by chunk is all at once; needs float64."""
  net = toys.two_towers(dropout=0.4)
  batch = toys.batch(16)
  params = net.init(jax.random.key(1), batch)
  phi, memory = objective.init(
      jax.random.key(2), jax.eval_shape(net.encode, params, batch)
  )
  params = toys.double({**params, "objective": phi})
  rng = jax.random.key(3) if noise else None
  ways = [gradient.direct(net.encode, objective)] + [
      gradient.cached(net.encode, objective, chunks=count) for count in chunks
  ]
  expected, *found = (jit(way)(params, memory, batch, rng) for way in ways)
  for one in found:
    close(one, expected, 1e-12)  # float64, 16 rows in another order


def line(devices):
  """A mesh of the first devices, as `layout.mesh` makes it of all."""
  return jax.make_mesh(
      (devices, 1, 1), ("data", "fsdp", "model"),
      axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:devices],
  )


def placement_law(alone, spread):
  """Four devices give the numbers of one, and compile once.

  Args:
    alone: the objective that sees one device.
    spread: the same one, or its like with another way to meet columns.
  """
  mesh = line(4)
  rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  everywhere = NamedSharding(mesh, PartitionSpec())
  function = differentiated(spread)

  def on_mesh(z):
    params, memory = jax.device_put(begin(spread, z), everywhere)
    z = jax.device_put(z, rows)
    return jax.block_until_ready(function(params, z.views, memory, z.side))

  with jax.set_mesh(mesh):
    found = on_mesh(embedded())
    before = function._cache_size()
    on_mesh(embedded(seed=1))
    assert function._cache_size() == before, "the second call compiled again"
  # Relative: a loss of 12 terms a row over 12 rows, of logits of 6 terms.
  close(found, evaluate(alone, embedded()), rounding(2 * ROWS + WIDTH))


def edges():
  """Embeddings that overflow or underflow what is not written with care."""
  one = np.random.default_rng(0).normal(size=(ROWS, WIDTH))
  same = np.tile(one[:1], (ROWS, 1))
  return {
      "identical": (one, one),
      "opposite": (one, -one),
      "all alike": (same, same),
      "all opposite": (same, -same),
      "zero": (np.zeros_like(one), one),
  }


def edge_law(objective):
  """At the edges everything is finite, and the value that of float64."""
  for name, (image, text) in edges().items():
    value, grads = evaluate(objective, embedded(image=image, text=text))
    for leaf in jax.tree.leaves((value, grads)):
      assert np.all(np.isfinite(leaf)), f"{name}: {leaf}"
    with jax.enable_x64(True):
      exact, _ = evaluate(
          objective, embedded(image=image, text=text, dtype=np.float64)
      )
    # Logits of 100 in float32 are off by 1e-5; so are their differences.
    np.testing.assert_allclose(
        value, np.asarray(exact), rtol=1e-5, atol=1e-4, err_msg=name
    )

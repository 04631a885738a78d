"""The fused kernel against double loops, the tiles of XLA, and a compiler."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from basic import types
from basic.objectives import sigmoid, softmax
from basic.ops.pairwise import pallas_kernel, reductions, similarity

SMALL = pallas_kernel.Blocks(16, 32, 16, warps=4, stages=2)


@pytest.fixture
def small(monkeypatch):
  """Several blocks in a tile of a few rows."""
  monkeypatch.setattr(
      pallas_kernel, "BLOCKS", {"float32": SMALL, "bfloat16": SMALL}
  )


def bars(rows, cols):
  rng = np.random.default_rng(1)
  return rng.normal(size=rows), rng.normal(size=cols)


def oracle(x, y, t, row_bar, col_bar, group=None):
  """Row and column sums, and gradients of row_bar . rows + col_bar . cols."""
  pairs = [
      (i, j, t * float(x[i] @ y[j]))
      for i in range(len(x)) for j in range(len(y))
      if group is None or i == j or group[i] != group[j]
  ]
  rows, cols = np.full(len(x), -np.inf), np.full(len(y), -np.inf)
  for i, j, s in pairs:
    rows[i], cols[j] = np.logaddexp(rows[i], s), np.logaddexp(cols[j], s)
  gx, gy, gt = np.zeros_like(x), np.zeros_like(y), 0.0
  for i, j, s in pairs:
    g = row_bar[i] * math.exp(s - rows[i]) + col_bar[j] * math.exp(s - cols[j])
    gx[i] += t * g * y[j]
    gy[j] += t * g * x[i]
    gt += g * s / t
  return (rows, cols), (gx, gy, gt)


# Interpreted kernels are long programs: compiled quickly, and once for a shape.
quick = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@functools.partial(quick, static_argnames=("kernel", "dtype", "method", "tile"))
def compiled(x, y, t, row_bar, col_bar, group, **settings):
  if group is not None:
    tags = reductions.labels(group)
    settings.update(row_tags=tags, col_tags=tags, weight=reductions.no_duplicates)

  def value(x, y, t):
    rows, cols = similarity.lse(x, y, t, **settings)
    return jnp.sum(rows * row_bar) + jnp.sum(cols * col_bar), (rows, cols)

  (_, sums), grads = jax.value_and_grad(value, (0, 1, 2), has_aux=True)(x, y, t)
  return sums, grads


def lse(*args, kernel="pallas", **settings):
  """What `oracle` returns for the same arguments, by the library."""
  *floats, group = args if len(args) == 6 else (*args, None)
  floats = [jnp.asarray(a, jnp.float32) for a in floats]
  return compiled(*floats, group, kernel=kernel, **settings)


def near(found, expected, relative):
  """Each array within a share of the norm of what was expected."""
  for a, b in zip(
      jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.all(np.isfinite(a))
    assert np.linalg.norm(a - b) <= relative * max(np.linalg.norm(b), 1e-3)


@pytest.mark.parametrize("rows, cols, width, tile", [
    (45, 70, 33, 40),  # tiles overlap, and no block divides anything
    pytest.param(37, 29, 20, 64, marks=pytest.mark.slow),  # one tile
    pytest.param(1, 3, 2, None, marks=pytest.mark.slow),
])
def test_sums_and_gradients_match_a_double_loop(
    small, rows, cols, width, tile
):
  args = (*toys.sides(rows, cols, width), 9.0, *bars(rows, cols))
  # float32, tens of terms.
  near(lse(*args, tile=tile), oracle(*args), 2e-6)


@pytest.mark.parametrize("dtype", [
    "bfloat16", pytest.param("float32", marks=pytest.mark.slow)
])
def test_sums_and_gradients_are_those_of_xla(small, dtype):
  args = (*toys.sides(64, 64, 32), 9.0, *bars(64, 64))  # Blocks divide all of it.
  found = lse(*args, dtype=dtype, tile=32)
  sums, grads = lse(*args, dtype=dtype, tile=32, kernel="xla")
  assert {a.dtype for a in jax.tree.leaves(found)} == {jnp.dtype("float32")}
  near(found[0], sums, 2e-6)  # the same factors, summed in float32
  # bfloat16 slopes beside a rounding edge may part.
  near(found[1], grads, 1e-3 if dtype == "bfloat16" else 2e-6)


def test_softplus_sums_and_gradients_match_a_double_loop(small):
  x, y = toys.sides(37, 37, 20)
  bar, _ = bars(37, 37)

  def value(x, y, t, c):
    rows = similarity.softplus_sums(x, y, t, c, tile=17, kernel="pallas")
    return jnp.sum(rows * jnp.asarray(bar, jnp.float32)), rows

  args = [jnp.asarray(a, jnp.float32) for a in (x, y, 7.0, -3.0)]
  (_, found), grads = quick(
      jax.value_and_grad(value, (0, 1, 2, 3), has_aux=True)
  )(*args)
  rows, gx, gy, gt, gc = np.zeros(37), 0 * x, 0 * y, 0.0, 0.0
  for i in range(37):
    for j in range(37):
      z, product = (1 if i == j else -1), float(x[i] @ y[j])
      s = z * (7 * product - 3)
      rows[i] += np.logaddexp(0, -s)
      g = -z * bar[i] / (1 + math.exp(s))
      gx[i] += 7 * g * y[j]
      gy[j] += 7 * g * x[i]
      gt, gc = gt + g * product, gc + g
  near(found, rows, 2e-6)
  near(grads, (gx, gy, gt, gc), 2e-6)


@pytest.mark.parametrize("method, devices", [("gather", 4), ("ring", 2)])
def test_devices_give_the_numbers_of_a_double_loop(small, method, devices):
  mesh = jax.make_mesh(
      (devices,), ("data",), axis_types=(AxisType.Auto,),
      devices=jax.devices()[:devices],
  )
  group = np.random.default_rng(2).integers(0, 9, 44)
  args = (*toys.sides(44, 44, 20), 8.0, *bars(44, 44), group)
  with jax.set_mesh(mesh):
    found = lse(*args, method=method, tile=18)
  near(found, oracle(*args), 2e-6)


EDGES = {
    "identical pairs": lambda x: (x, x),
    "zero vectors": lambda x: (np.zeros_like(x), x),
    "all duplicates": lambda x: (np.tile(x[:1], (len(x), 1)),) * 2,
    "opposite": lambda x: (x, -x),
    # More than a block's exponentials can share a reference for.
    "rows far apart": lambda x: (x * np.linspace(0, 1.5, len(x))[:, None], x),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scale_100_is_finite_and_close_to_float64(small, dtype, edge):
  x, y = EDGES[edge](toys.sides(40, 40, 16)[0])
  args = (x, y, 100.0, np.full(40, 1 / 40), np.full(40, 1 / 40))
  sums, grads = lse(*args, dtype=dtype, tile=24)
  expected, slopes = oracle(*args)
  # bfloat16 keeps 8 bits: 100 x 2^-8 / 2 is what a logit may be off by.
  for a, b in zip(sums, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 if dtype == "float32" else 0.5)
  near(grads, slopes, 2e-5 if dtype == "float32" else 0.05)


def test_a_row_without_pairs_is_minus_infinity_with_zero_gradient(small):
  def none_of_first(rows, cols):
    return jnp.where((rows["index"] == 0) & (cols["index"] >= 0), -jnp.inf, 0.0)

  def value(x, y):
    rows, _ = similarity.lse(x, y, 3.0, weight=none_of_first, kernel="pallas")
    return jnp.sum(rows[1:]), rows

  x, y = (jnp.asarray(a, jnp.float32) for a in toys.sides(20, 20, 4))
  (_, rows), grad = quick(jax.value_and_grad(value, has_aux=True))(x, y)
  assert np.isneginf(rows[0])
  np.testing.assert_array_equal(grad[0], 0.0)
  assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("objective", [softmax.softmax, sigmoid.sigmoid])
def test_objectives_pass_their_kernel_on(small, objective):
  x, y = (jnp.asarray(a, jnp.float32) for a in toys.sides(20, 20, 4))
  views = {"image": types.Features(x), "text": types.Features(y)}

  def loss(kernel):
    apply = objective(kernel=kernel).apply
    params, memory = objective().init(jax.random.key(0), None)
    return apply(params, memory, types.Embedded(views, {}), None)[0]

  for kernel in ("xla", "pallas"):
    jaxpr = str(jax.make_jaxpr(functools.partial(loss, kernel))())
    assert ("pallas_call" in jaxpr) == (kernel == "pallas")


# What a GPU would be given, seen without one.


def summed(which, dtype, **settings):
  """Value and gradients of a sum over pairs, on the shapes of 10,000 rows."""
  tags = {"row_tags": reductions.labels(jnp.zeros(10_000, jnp.int32))}
  tags["col_tags"] = tags["row_tags"]

  def value(x, y, t):
    settings.update(dtype=dtype, kernel="pallas")
    if which == "softplus sums":
      return jnp.sum(similarity.softplus_sums(x, y, t, -1.0, **settings))
    more = dict(tags, weight=reductions.no_duplicates) if which == "no twins" else {}
    rows, cols = similarity.lse(x, y, t, **more, **settings)
    return jnp.sum(rows) + jnp.sum(cols)

  z = jax.ShapeDtypeStruct((10_000, 512), jnp.float32)
  t = jax.ShapeDtypeStruct((), jnp.float32)
  return jax.jit(jax.value_and_grad(value, (0, 1, 2))).trace(z, z, t)


# JAX 0.12 says that a later version will take this way out.
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize("which, dtype", [
    ("lse", "bfloat16"), ("lse", "float32"), ("no twins", "bfloat16"),
    ("softplus sums", "bfloat16"),
])
def test_it_lowers_for_cuda_and_writes_no_logits(monkeypatch, which, dtype):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  gpu = AbstractDevice("NVIDIA A100", num_cores=None, platform="gpu")
  mesh = AbstractMesh((), (), abstract_device=gpu)
  with jax.sharding.use_abstract_mesh(mesh):
    traced = summed(which, dtype, tile=4096)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert text.count("__gpu$xla.gpu.triton") == 2  # the fold, and the slopes
  kind = {"bfloat16": "bf16", "float32": "f32"}[dtype]
  assert f"tensor<4096x4096x{kind}>" in text
  if dtype == "bfloat16":
    assert "tensor<4096x4096xf32>" not in text


def largest(jaxpr):
  """The most elements of any array, within kernels and loops too."""
  sizes = [math.prod(v.aval.shape) for e in jaxpr.eqns for v in e.outvars]
  for equation in jaxpr.eqns:
    for value in equation.params.values():
      for inner in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          sizes.append(largest(inner))
  return max(sizes, default=0)


def test_nothing_is_larger_than_the_embeddings_or_a_tile():
  assert largest(summed("lse", "float32", tile=1024).jaxpr) == 10_000 * 512


@pytest.mark.parametrize("kind", pallas_kernel.BLOCKS)
def test_blocks_fit_an_a100(kind):
  blocks = pallas_kernel.BLOCKS[kind]
  for side in blocks[:3]:
    assert side >= 16 and side & (side - 1) == 0
  factors = (blocks.rows + blocks.columns) * blocks.depth
  assert factors * jnp.dtype(kind).itemsize * blocks.stages <= 164 * 2**10
  # The sums, and twice as much again for what is made of them.
  assert 3 * blocks.rows * blocks.columns <= 255 * 32 * blocks.warps


def test_other_types_backends_and_kernels_are_refused_in_words(
    monkeypatch, double
):
  x = jnp.ones((4, 4))
  with pytest.raises(ValueError, match="found float64; use kernel 'xla'"):
    similarity.lse(x, x, 1.0, kernel="pallas")
  with pytest.raises(ValueError, match="'cuda'; it takes 'xla' or 'pallas'"):
    similarity.lse(x, x, 1.0, kernel="cuda")
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  with pytest.raises(ValueError, match="is 'tpu', where kernel 'xla' works"):
    similarity.softplus_sums(
        *(x.astype(jnp.float32),) * 2, 1.0, 0.0, kernel="pallas"
    )

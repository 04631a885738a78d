"""All-pairs reductions against double loops, on one device and on meshes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from basic.ops.pairwise import reductions, similarity

MESHES = {"2": (2, 1), "3 x 2": (3, 2), "8": (8, 1), "4 x 2": (4, 2)}


def oracle_lse(x, y, t, removed=lambda i, j: False):
  """Row and column sums by double loop, in float64."""
  rows = np.full(len(x), -np.inf)
  cols = np.full(len(y), -np.inf)
  for i in range(len(x)):
    for j in range(len(y)):
      if not removed(i, j):
        s = t * float(x[i] @ y[j])
        rows[i] = np.logaddexp(rows[i], s)
        cols[j] = np.logaddexp(cols[j], s)
  return rows, cols


def oracle_slopes(x, y, t, row_bar, col_bar, removed=lambda i, j: False):
  """Gradients of row_bar . rows + col_bar . cols, from the equation."""
  rows, cols = oracle_lse(x, y, t, removed)
  gx, gy, gt = np.zeros_like(x), np.zeros_like(y), 0.0
  for i in range(len(x)):
    for j in range(len(y)):
      if removed(i, j):
        continue
      s = t * float(x[i] @ y[j])
      g = row_bar[i] * math.exp(s - rows[i]) + col_bar[j] * math.exp(s - cols[j])
      gx[i] += t * g * y[j]
      gy[j] += t * g * x[i]
      gt += g * float(x[i] @ y[j])
  return gx, gy, gt


def oracle_softplus(x, y, t, c):
  sums = np.zeros(len(x))
  for i in range(len(x)):
    for j in range(len(y)):
      z = 1 if i == j else -1
      sums[i] += np.logaddexp(0, -z * (t * float(x[i] @ y[j]) + c))
  return sums


def weighted(function, row_bar, col_bar):
  def value(*args):
    rows, cols = function(*args)
    return jnp.sum(rows * row_bar) + jnp.sum(cols * col_bar)

  return value


@pytest.fixture(params=MESHES)
def mesh(request):
  shape = MESHES[request.param]
  devices = jax.devices()[: shape[0] * shape[1]]
  return jax.make_mesh(
      shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2,
      devices=devices,
  )


@pytest.mark.parametrize("rows, cols", [(1, 1), (7, 7), (12, 5), (5, 12)])
@pytest.mark.parametrize("tile", [1, 3, 5, 64])
def test_lse_and_gradients_match_a_double_loop(double, rows, cols, tile):
  x, y = toys.sides(rows, cols, 3)
  rng = np.random.default_rng(1)
  row_bar, col_bar = rng.normal(size=rows), rng.normal(size=cols)

  def ours(x, y, t):
    return similarity.lse(x, y, t, tile=tile)

  found = jax.jit(ours)(x, y, 9.0)
  for a, b in zip(found, oracle_lse(x, y, 9.0), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12)  # float64, few terms
  grads = jax.jit(jax.grad(weighted(ours, row_bar, col_bar), (0, 1, 2)))(
      x, y, jnp.asarray(9.0)
  )
  for a, b in zip(
      grads, oracle_slopes(x, y, 9.0, row_bar, col_bar), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("tile", [2, 5])
def test_removed_pairs_leave_sums_and_gradients(double, tile):
  x, y = toys.sides(8, 8, 3)
  group = np.array([0, 1, 1, 2, 0, 3, 4, 1])
  bar = np.random.default_rng(1).normal(size=8)

  def twins(i, j):
    return i != j and group[i] == group[j]

  def ours(x, y, t):
    tags = reductions.labels(jnp.asarray(group))
    return similarity.lse(
        x, y, t, row_tags=tags, col_tags=tags, weight=reductions.no_duplicates,
        tile=tile,
    )

  for a, b in zip(jax.jit(ours)(x, y, 5.0), oracle_lse(x, y, 5.0, twins), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12)
  grads = jax.jit(jax.grad(weighted(ours, bar, bar), (0, 1, 2)))(x, y, 5.0)
  for a, b in zip(grads, oracle_slopes(x, y, 5.0, bar, bar, twins), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_rows_without_any_pair_are_minus_infinity_with_zero_gradient(double):
  x, y = toys.sides(4, 4, 3)

  def none_of_first(rows, cols):
    return jnp.where(rows["index"] == 0, -jnp.inf, 0.0) + 0.0 * cols["index"]

  @jax.jit
  def rows(x):
    return similarity.lse(x, jnp.asarray(y), 3.0, weight=none_of_first, tile=2)[0]

  assert np.isneginf(rows(x)[0])
  grad = jax.grad(lambda x: jnp.sum(rows(x)[1:]))(x)
  np.testing.assert_array_equal(grad[0], 0.0)
  assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("tile", [1, 4, 64])
def test_softplus_sums_match_a_double_loop(double, tile):
  x, y = toys.sides(9, 9, 4)
  ours = functools.partial(similarity.softplus_sums, tile=tile)
  found = jax.jit(ours)(x, y, 7.0, -3.0)
  np.testing.assert_allclose(found, oracle_softplus(x, y, 7.0, -3.0), rtol=1e-12)

  def total(x, y, t, c):
    return jnp.sum(ours(x, y, t, c))

  at = (x, y, 7.0, -3.0)
  grads = jax.grad(total, (0, 1, 2, 3))(*map(jnp.asarray, at))
  for k, step in ((2, 1e-6), (3, 1e-6)):
    up, down = list(at), list(at)
    up[k], down[k] = at[k] + step, at[k] - step
    slope = (oracle_softplus(*up).sum() - oracle_softplus(*down).sum()) / 2e-6
    np.testing.assert_allclose(grads[k], slope, rtol=1e-6)  # differences
  dense = jax.grad(
      lambda x, y: jnp.sum(jax.nn.softplus(
          (1 - 2 * jnp.eye(9)) * (7.0 * x @ y.T - 3.0))), (0, 1)
  )(x, y)
  for a, b in zip(grads[:2], dense, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("method", ["gather", "ring"])
def test_every_mesh_gives_the_numbers_of_one_device(double, mesh, method):
  n = 24
  x, y = toys.sides(n, n, 5)
  group = np.random.default_rng(2).integers(0, 9, n)
  bar = np.random.default_rng(1).normal(size=n)

  def ours(method, tile):
    def value(x, y, t, c):
      tags = reductions.labels(jnp.asarray(group))
      rows, cols = similarity.lse(
          x, y, t, row_tags=tags, col_tags=tags, weight=reductions.no_duplicates,
          method=method, tile=tile,
      )
      pairs = similarity.softplus_sums(x, y, t, c, method=method, tile=tile)
      return jnp.sum(rows * bar) + jnp.sum(cols * bar**2) + jnp.sum(pairs * bar)

    return jax.jit(jax.value_and_grad(value, (0, 1, 2, 3)))

  args = (x, y, 8.0, -2.0)
  alone = ours("auto", 64)(*args)
  with jax.set_mesh(mesh):
    found = ours(method, 3)(*args)
  for a, b in zip(
      jax.tree.leaves(found), jax.tree.leaves(alone), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def compiled(rows, width, mesh=None, **settings):
  """The compiled value and gradients of a symmetric loss, on shapes alone."""
  sharding = None
  if mesh is not None:
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  z = jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=sharding)
  t = jax.ShapeDtypeStruct((), jnp.float32)

  def loss(x, y, t):
    rows, cols = similarity.lse(x, y, t, **settings)
    return jnp.mean(rows) + jnp.mean(cols)

  return jax.jit(jax.value_and_grad(loss, (0, 1, 2))).trace(z, z, t)


def temporaries(traced):
  memory = traced.lower().compile().memory_analysis()
  return memory.temp_size_in_bytes / 2**30


def line_of(devices):
  return jax.make_mesh(
      (devices,), ("data",), axis_types=(AxisType.Auto,),
      devices=jax.devices()[:devices],
  )


def test_65536_rows_hold_no_square():
  # Dense needs 64 GiB. What is left: the rows once or twice, and a tile.
  assert temporaries(compiled(65_536, 512)) < 0.55


def test_memory_is_linear_up_to_a_million_rows():
  assert temporaries(compiled(1_048_576, 512)) < 10


def test_ring_memory_does_not_grow_with_devices():
  found = []
  for devices in (2, 4, 8):
    with jax.set_mesh(line_of(devices)):
      found.append(temporaries(compiled(
          8_192 * devices, 768, line_of(devices), method="ring"
      )))
  assert max(found) < 0.3
  assert found[2] <= found[0] * 1.01


def test_gather_memory_at_65536_rows_on_8_devices():
  with jax.set_mesh(line_of(8)):
    found = temporaries(compiled(65_536, 768, line_of(8), method="gather"))
  assert found < 0.9


def equations(jaxpr):
  """Equations of a jaxpr and of all inside it."""
  count = 0
  for equation in jaxpr.eqns:
    count += 1
    for value in equation.params.values():
      for inner in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          count += equations(inner)
  return count


@pytest.mark.parametrize("method", ["gather", "ring"])
def test_program_size_depends_on_neither_rows_nor_devices(method):
  alone = {equations(compiled(b, 64).jaxpr) for b in (4_096, 65_536)}
  assert len(alone) == 1
  counts = set()
  for devices in (2, 8):
    with jax.set_mesh(line_of(devices)):
      traced = compiled(16_384, 64, line_of(devices), method=method)
      counts.add(equations(traced.jaxpr))
  assert len(counts) == 1


def collectives(traced):
  text = traced.lower().compile().as_text()
  kinds = (
      "all-gather", "all-to-all", "reduce-scatter", "collective-permute",
      "all-reduce",
  )
  return {kind for kind in kinds if f" {kind}(" in text or f"{kind}-start(" in text}


def test_gather_and_ring_move_what_their_names_say():
  with jax.set_mesh(line_of(4)):
    gather = collectives(compiled(64, 8, line_of(4), method="gather"))
    ring = collectives(compiled(64, 8, line_of(4), method="ring"))
  assert {"all-gather", "reduce-scatter", "all-to-all"} <= gather
  assert "collective-permute" in ring
  assert not ring & {"all-gather", "reduce-scatter", "all-to-all"}


def test_auto_gathers_until_a_gathered_side_is_too_large():
  with jax.set_mesh(line_of(2)):
    small = compiled(64, 8, line_of(2))
    large = compiled(2**20, 256, line_of(2))
  assert "all_gather" in str(small.jaxpr)
  assert "all_gather" not in str(large.jaxpr)
  assert "ppermute" in str(large.jaxpr)


def test_rows_that_devices_do_not_divide_are_refused_in_words():
  x = jnp.ones((9, 4))
  with jax.set_mesh(line_of(4)):
    with pytest.raises(ValueError, match="9 rows do not divide over the 4 dev"):
      jax.jit(lambda x: similarity.lse(x, x, 1.0))(x)


@pytest.mark.parametrize("method", ["rings", "local"])
def test_an_unknown_method_is_refused_in_words_on_any_mesh(method):
  # Locally, on a mesh of several devices, one of them would see all pairs.
  x, sentence = jnp.ones((8, 4)), "takes 'auto', 'gather' or 'ring'"
  with pytest.raises(ValueError, match=sentence):
    similarity.lse(x, x, 1.0, method=method)
  with jax.set_mesh(line_of(8)):
    with pytest.raises(ValueError, match=sentence):
      similarity.softplus_sums(x, x, 1.0, 0.0, method=method)


# The numerics contract, on every path.


def on_path(path, function, *args):
  if path == "local":
    return jax.jit(function)(*args)
  with jax.set_mesh(line_of(4)):
    return jax.jit(function)(*args)


EDGES = {
    "identical pairs": lambda x: (x, x),
    "zero vectors": lambda x: (np.zeros_like(x), x),
    "all duplicates": lambda x: (np.tile(x[:1], (len(x), 1)),) * 2,
    "opposite": lambda x: (x, -x),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("path", ["local", "gather", "ring"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scale_100_is_finite_and_close_to_float64(path, edge, dtype):
  x, y = EDGES[edge](toys.sides(64, 64, 16)[0])
  bar = np.full(64, 1 / 64)
  method = "auto" if path == "local" else path

  def value(x, y, t):
    rows, cols = similarity.lse(
        x, y, t, dtype=dtype, method=method, tile=24
    )
    return jnp.mean(rows) + jnp.mean(cols), (rows, cols)

  args = [jnp.asarray(a, jnp.float32) for a in (x, y, 100.0)]
  (_, found), grads = on_path(
      path, jax.value_and_grad(value, (0, 1, 2), has_aux=True), *args
  )
  # bfloat16 keeps 8 bits: 100 x 2^-8 / 2 is what a logit may be off by.
  near = 1e-4 if dtype == "float32" else 0.5
  for a, b in zip(found, oracle_lse(x, y, 100.0), strict=True):
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=near)
  slopes = oracle_slopes(x, y, 100.0, bar, bar)
  for a, b in zip(grads, slopes, strict=True):
    assert np.all(np.isfinite(a))
    norm = max(np.linalg.norm(b), 1e-3)
    limit = 2e-5 if dtype == "float32" else 0.05
    assert np.linalg.norm(np.asarray(a, np.float64) - b) <= limit * norm

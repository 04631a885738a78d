"""All-pairs reductions of two batches of embeddings, on any mesh.

`lse` (softmax losses) and `softplus_sums` (sigmoid losses) reduce the logits
S_ij = t <x_i, y_j> + c without holding S, in value and in gradient, on one
device or on all of the mesh in context. With `placement`, the only collectives.

On a mesh, every axis carries rows. Two ways, the same numbers:

- "gather": each device holds all columns and walks its own rows. Fewest
  transfers; memory grows with the whole batch (two copies of one side).
- "ring": columns travel from device to device, with their sums. Memory depends
  on the rows a device holds, not on how many devices there are.
- "auto": gather while one gathered side and its gradient take at most 1 GiB.

With no mesh in context everything is local, so a notebook needs nothing.

Tags and weights are constants: no gradient flows into them.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Inexact

from basic.ops.pairwise import pallas_kernel, reductions, tiles

GATHER_LIMIT_BYTES = 2**30
# On CPUs a tile that stays in the cache; elsewhere one worth a kernel's launch.
TILES = {"cpu": 1024}
TILE_ELSEWHERE = 4096


def lse(
    x: Inexact[Array, "i d"],
    y: Inexact[Array, "j d"],
    scale: jax.typing.ArrayLike,
    *,
    row_tags: tiles.Tags | None = None,
    col_tags: tiles.Tags | None = None,
    weight: reductions.OfPairs | None = None,
    dtype: str = "float32",
    method: str = "auto",
    tile: int | None = None,
    kernel: str = "xla",
) -> tuple[Float[Array, "i"], Float[Array, "j"]]:
  """Log-sum-exp over every row and every column of the similarities at once.

      row_i = log sum_j w_ij exp(t <x_i, y_j>)
      col_j = log sum_i w_ij exp(t <x_i, y_j>)

  Args:
    x: rows, usually unit vectors; float64, float32 or bfloat16.
    y: columns, of the same type.
    scale: t, the inverse temperature.
    row_tags: row-wise vectors [i] that `weight` reads; "index" is added.
    col_tags: the same for columns [j].
    weight: log w_ij of a tile from row tags [i 1] and column tags [1 j].
      None: all pairs weigh 1. Compare tags["index"] to tell the diagonal.
    dtype: type of the factors of the products, "float32" or "bfloat16"; the
      sums are float32. float64 inputs stay as they are.
    method: "auto", "gather" or "ring" on a mesh; without one it is local.
    tile: side of the square of logits that is alive at any time. None: 1,024
      on CPUs, 4,096 elsewhere.
    kernel: who makes and uses the logits of a tile: "xla", or "pallas", a
      kernel for GPUs that never writes them to memory (interpreted on CPUs;
      float32 and bfloat16; `weight` may read nothing but tags). Its speed was
      not measured.

  Returns:
    (row [i], col [j]), in nats, float32 (float64 for float64 inputs); -inf
    where all weights are 0.

  Raises:
    ValueError: if a length is not a multiple of the number of devices, the
      method or the kernel is unknown, or the kernel does not take the type of
      `x` or the backend.

  References:
    Rabe and Staats, Self-attention does not need O(n^2) memory, 2021.
    https://arxiv.org/abs/2112.05682
  """
  if kernel == "pallas":  # Triton cuts no row or column out of a block.
    reduction = reductions.log_sum_exp(weight, near=jnp.max)
  else:
    reduction = reductions.log_sum_exp(weight)
  x, y = _factor(x, dtype), _factor(y, dtype)
  how = _how(method, tile, kernel, x, y)
  return _reduce(
      reduction, how, _side(x, row_tags), _side(y, col_tags),
      _numbers(x, scale, 0.0),
  )


def softplus_sums(
    x: Inexact[Array, "i d"],
    y: Inexact[Array, "j d"],
    scale: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike,
    *,
    row_tags: tiles.Tags | None = None,
    col_tags: tiles.Tags | None = None,
    positive: reductions.OfPairs | None = None,
    dtype: str = "float32",
    method: str = "auto",
    tile: int | None = None,
    kernel: str = "xla",
) -> Float[Array, "i"]:
  """Row sums of the loss of judging every pair on its own.

      row_i = sum_j softplus(-z_ij (t <x_i, y_j> + c)),
      z_ij = +1 for a positive pair and -1 otherwise.

  Args:
    x: rows, usually unit vectors; float64, float32 or bfloat16.
    y: columns, of the same type.
    scale: t, the inverse temperature.
    bias: c.
    row_tags: row-wise vectors [i] that `positive` reads; "index" is added.
    col_tags: the same for columns [j].
    positive: whether a pair is positive, from row tags [i 1] and column tags
      [1 j]. None: the diagonal is.
    dtype: as for `lse`.
    method: as for `lse`.
    tile: as for `lse`.
    kernel: as for `lse`.

  Returns:
    Sums [i] in nats, float32 (float64 for float64 inputs).

  Raises:
    ValueError: as `lse`.

  References:
    Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, eq. 1.
    https://arxiv.org/abs/2303.15343
  """
  reduction = reductions.softplus(positive or reductions.diagonal)
  x, y = _factor(x, dtype), _factor(y, dtype)
  how = _how(method, tile, kernel, x, y)
  rows, _ = _reduce(
      reduction, how, _side(x, row_tags), _side(y, col_tags),
      _numbers(x, scale, bias),
  )
  return rows


def _factor(z: Array, dtype: str) -> Array:
  return z if z.dtype == jnp.float64 else z.astype(dtype)


def _side(z: Array, tags: tiles.Tags | None) -> tiles.Side:
  index = jnp.arange(z.shape[0], dtype=jnp.int32)
  return tiles.Side(z, {**(tags or {}), "index": index})


def _numbers(x: Array, scale: Any, bias: Any) -> tuple[Array, Array]:
  dtype = tiles.accumulator(x)
  return jnp.asarray(scale, dtype), jnp.asarray(bias, dtype)


class How(NamedTuple):
  """What of a call is not an array: the way, the mesh, how tiles are made."""

  method: str
  mesh: Any
  tile: int
  kernel: str

  @property
  def axes(self) -> tuple[str, ...]:
    return self.mesh.axis_names

  @property
  def devices(self) -> int:
    return self.mesh.size


# Who walks the tiles: a forward and a backward of one signature.
KERNELS = {"xla": tiles, "pallas": pallas_kernel}


def _how(
    method: str, tile: int | None, kernel: str, x: Array, y: Array
) -> How:
  """The way that `method` means for these sizes on the mesh in context."""
  if method not in ("auto", *WAYS):
    raise ValueError(
        f"method is {method!r}; it takes 'auto', 'gather' or 'ring'."
    )
  if kernel not in KERNELS:
    raise ValueError(
        f"kernel is {kernel!r}; it takes {' or '.join(map(repr, KERNELS))}."
    )
  tile = tile or TILES.get(jax.default_backend(), TILE_ELSEWHERE)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return How("local", mesh, tile, kernel)
  for name, z in (("rows", x), ("columns", y)):
    if z.shape[0] % mesh.size:
      raise ValueError(
          f"{z.shape[0]} {name} do not divide over the {mesh.size} devices of "
          f"the mesh {dict(mesh.shape)}; use a multiple of {mesh.size}."
      )
  if method == "auto":
    gathered = y.size * (y.dtype.itemsize + tiles.accumulator(y).itemsize)
    method = "gather" if gathered <= GATHER_LIMIT_BYTES else "ring"
  return How(method, mesh, tile, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _reduce(reduction, how, x, y, numbers):
  return _forward(reduction, how, x, y, numbers)[0]


def _forward(reduction, how, x, y, numbers):
  walk = functools.partial(WAYS[how.method][0], reduction, how)
  rows = PartitionSpec(how.axes)
  values = _on_mesh(how, walk, (rows, rows))(x, y, numbers)
  return values, (x, y, numbers, values)


def _backward(reduction, how, saved, bars):
  x, y, numbers, values = saved
  walk = functools.partial(WAYS[how.method][1], reduction, how)
  rows = PartitionSpec(how.axes)
  specs = tiles.Sums(rows, rows, PartitionSpec())
  row, col = zip(values, bars, strict=True)
  sums = _on_mesh(how, walk, specs)((x, row), (y, col), numbers)
  scale, _ = numbers
  gx, gy = (scale * sums.x).astype(x.z.dtype), (scale * sums.y).astype(y.z.dtype)
  of_scale = jnp.sum(x.z * sums.x)
  return tiles.Side(gx, None), tiles.Side(gy, None), (of_scale, sums.bias)


_reduce.defvjp(_forward, _backward)


def _on_mesh(how, walk, out_specs):
  """Runs walk(side, side, numbers) where the rows are; both sides by row."""
  if how.method == "local":
    return walk
  rows = PartitionSpec(how.axes)
  return jax.shard_map(
      walk, mesh=how.mesh, in_specs=(rows, rows, PartitionSpec()),
      out_specs=out_specs, check_vma=False,
  )


def _blank(x: tiles.Side, y: tiles.Side) -> tiles.Sums:
  dtype = tiles.accumulator(x.z)
  zero = jnp.zeros((), dtype)
  return tiles.Sums(
      jnp.zeros(x.z.shape, dtype), jnp.zeros(y.z.shape, dtype), zero
  )


def _start(reduction, x, y):
  return reduction.start(
      x.z.shape[0], y.z.shape[0], tiles.accumulator(x.z)
  )


# One device.


def _local_forward(reduction, how, x, y, numbers):
  states = _start(reduction, x, y)
  return reduction.finish(
      *KERNELS[how.kernel].forward(reduction, x, y, *numbers, *states, how.tile)
  )


def _local_backward(reduction, how, x, y, numbers):
  (x, row), (y, col) = x, y
  return KERNELS[how.kernel].backward(
      reduction, x, y, *numbers, row, col, _blank(x, y), how.tile
  )


# Gather: all columns on every device.


def _gathered(how, tree):
  return jax.tree.map(
      lambda a: jax.lax.all_gather(a, how.axes, tiled=True), tree
  )


def _gather_forward(reduction, how, x, y, numbers):
  y = _gathered(how, y)
  row_state, col_state = KERNELS[how.kernel].forward(
      reduction, x, y, *numbers, *_start(reduction, x, y), how.tile
  )

  def to_owner(part):  # [j] of all columns -> [devices, j of mine]
    part = jax.lax.all_to_all(part, how.axes, 0, 0, tiled=True)
    return part.reshape(how.devices, -1)

  col_state = reduction.merge(jax.tree.map(to_owner, col_state))
  return reduction.finish(row_state, col_state)


def _gather_backward(reduction, how, x, y, numbers):
  (x, row), (y, col) = x, _gathered(how, y)
  sums = KERNELS[how.kernel].backward(
      reduction, x, y, *numbers, row, col, _blank(x, y), how.tile
  )
  gy = jax.lax.psum_scatter(sums.y, how.axes, tiled=True)
  return _total(how, sums._replace(y=gy))


def _total(how, sums):
  return sums._replace(bias=jax.lax.psum(sums.bias, how.axes))


# Ring: columns and their sums travel, and come home after one round.


def _pass_on(how, tree):
  places = [(i, (i + 1) % how.devices) for i in range(how.devices)]
  return jax.tree.map(
      lambda a: jax.lax.ppermute(a, how.axes, places), tree
  )


def _ring_forward(reduction, how, x, y, numbers):
  def meet(_, carry):
    y, row_state, col_state = carry
    # Sent before it is used, so that the transfer runs beside the products.
    following = _pass_on(how, y)
    row_state, col_state = KERNELS[how.kernel].forward(
        reduction, x, y, *numbers, row_state, col_state, how.tile
    )
    return following, row_state, _pass_on(how, col_state)

  _, *states = jax.lax.fori_loop(
      0, how.devices, meet, (y, *_start(reduction, x, y))
  )
  return reduction.finish(*states)


def _ring_backward(reduction, how, x, y, numbers):
  x, row = x

  def meet(_, carry):
    (y, col), sums = carry
    following = _pass_on(how, (y, col))
    sums = KERNELS[how.kernel].backward(
        reduction, x, y, *numbers, row, col, sums, how.tile
    )
    return following, sums._replace(y=_pass_on(how, sums.y))

  _, sums = jax.lax.fori_loop(
      0, how.devices, meet, (y, _blank(x, y[0]))
  )
  return _total(how, sums)


WAYS = {
    "local": (_local_forward, _local_backward),
    "gather": (_gather_forward, _gather_backward),
    "ring": (_ring_forward, _ring_backward),
}

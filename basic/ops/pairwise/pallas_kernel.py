"""A fused GPU kernel for the logits of a tile, in Pallas.

In `tiles`, XLA writes the logits of a tile to memory and reads them again for
each sum. Here one program instance computes the logits of one block of the
tile, accumulates them over the width in registers, and reduces them there: only
one or two numbers per row and column of a block are written to memory. For the
gradient, the program recomputes the block's logits and writes G = dL/dS in the
dtype of the factors, never the logits; XLA computes the two products with G.

    pass        products   written for a tile of T x T, blocks of K x K
    fold        1          two states of T T / K numbers
    gradient    1 + 2      G, T T numbers, and its sum over each block

Four products in all, as many as with `tiles`. Accumulating the gradients in the
kernel instead would save writing G, but the rows of a gradient with a width of
512 or more do not fit in registers, and for each slice of the width the kernel
would have to recompute the logits.

The `Reduction` itself is traced into the kernel, so weights and tags work as
they do elsewhere; but a weight may read nothing except its tags.

It is written for NVIDIA GPUs (Ampere or later for bfloat16) and compiled by
Triton, a Pallas backend that JAX 0.12 still has but calls deprecated. Tests
lower it for CUDA and interpret it on CPUs, which is slow; it has not run on a
GPU, and its speed was not measured.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas
from jaxtyping import Array

from basic.ops.pairwise import tiles


class Blocks(NamedTuple):
  """Sizes of the block of one program instance: powers of two, 16 or more.

  A pipeline stage has (rows + columns) depth factors in shared memory: three
  stages take 96 KiB for the bfloat16 blocks below, of the 164 KiB of an A100.
  The accumulator takes rows x columns registers, shared by 32 x warps threads:
  64 each for bfloat16, of 255.
  """

  rows: int
  columns: int
  depth: int  # the part of the width that is multiplied at a time
  warps: int
  stages: int


# By the dtype of the factors. Tensor cores would round float32 to TF32, so it is
# multiplied by the CUDA cores, for which smaller blocks are enough.
BLOCKS = {
    "bfloat16": Blocks(128, 128, 64, warps=8, stages=3),
    "float32": Blocks(64, 64, 32, warps=4, stages=3),
}


def _blocks(z: Array) -> Blocks:
  if z.dtype.name not in BLOCKS:
    raise ValueError(
        f"kernel 'pallas' takes embeddings of {' or '.join(BLOCKS)} and found "
        f"{z.dtype.name}; use kernel 'xla', which takes float64 too."
    )
  return BLOCKS[z.dtype.name]


def _compiler_options(blocks: Blocks) -> dict[str, Any]:
  """Arguments of `pallas_call` for this backend."""
  backend = jax.default_backend()
  if backend not in ("cpu", "gpu"):
    raise ValueError(
        f"kernel 'pallas' is written for GPUs, and interpreted on CPUs; this "
        f"is {backend!r}, where kernel 'xla' works."
    )
  if backend == "cpu":
    return {"interpret": True}
  # Imported here, because not every build of JAX has it.
  from jax.experimental.pallas import triton

  return {"compiler_params": triton.CompilerParams(
      num_warps=blocks.warps, num_stages=blocks.stages
  )}


# A kernel works on whole blocks. A tile whose rows they do not divide is padded,
# and padding gets a negative index, like rows that an earlier tile has seen.


def _pad(a: Array, axis: int, multiple: int, value: int = 0) -> Array:
  """Pads an axis at its end to a multiple of a length."""
  missing = -a.shape[axis] % multiple
  if not missing:
    return a
  widths = [(0, missing if k == axis else 0) for k in range(a.ndim)]
  return jnp.pad(a, widths, constant_values=value)


def _pad_rows(tree: Any, multiple: int) -> Any:
  return jax.tree.map(lambda a: _pad(a, 0, multiple), tree)


def _pad_side(side, new, no_pair, rows, depth):
  """Pads a side to whole blocks; `no_pair` is the index where nothing pairs."""
  index = side.tags["index"]
  if new is not None:
    index = jnp.where(new, index, no_pair)
  z = _pad(_pad(side.z, 0, rows), 1, depth)
  tags = _pad_rows(side.tags, rows)
  return tiles.Side(z, {**tags, "index": _pad(index, 0, rows, no_pair)})


def _logits(blocks, scale_and_bias, x, y):
  """(logits of a block, as a function; row tags; column tags), in a kernel."""

  def add(k, total):
    part = pallas.ds(k * blocks.depth, blocks.depth)
    return total + jax.lax.dot_general(
        x.z[:, part], y.z[:, part], (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )

  zero = jnp.zeros((blocks.rows, blocks.columns), jnp.float32)
  products = jax.lax.fori_loop(0, x.z.shape[1] // blocks.depth, add, zero)
  x_tags, y_tags = (
      jax.tree.map(lambda ref: ref[...], side.tags) for side in (x, y)
  )
  rows, cols = tiles.along_rows(x_tags), tiles.along_columns(y_tags)
  is_pair = (rows["index"] >= 0) & (cols["index"] >= 0)
  scale, bias = scale_and_bias[0], scale_and_bias[1]
  logits = jnp.where(is_pair, scale * products + bias, -jnp.inf)
  return lambda: logits, rows, cols


def _write(refs: Any, values: Any) -> None:
  for ref, value in zip(
      jax.tree.leaves(refs), jax.tree.leaves(values), strict=True
  ):
    ref[...] = value


def _run(kernel, tile, row, col, out):
  """Runs a kernel over the blocks of a tile.

  Args:
    kernel: (scale and bias, x, y, row, col, *outputs) -> None, on references to
      one block's part of each.
    tile: the pairs.
    row: more vectors of rows, [n].
    col: more vectors of columns, [m].
    out: (n, m, grid) of the padded tile -> (shapes, specs) of the outputs.
  """
  blocks = _blocks(tile.x.z)
  x = _pad_side(tile.x, tile.new_rows, -1, blocks.rows, blocks.depth)
  # Another negative index, or padding would be on the diagonal with padding.
  y = _pad_side(tile.y, tile.new_cols, -2, blocks.columns, blocks.depth)
  row, col = _pad_rows(row, blocks.rows), _pad_rows(col, blocks.columns)
  n, m = x.z.shape[0], y.z.shape[0]
  grid = (n // blocks.rows, m // blocks.columns)

  def spec(grid_axis, count):
    """Blocks of `count` rows, by their index along an axis of the grid."""
    return lambda a: pallas.BlockSpec(
        (count, *a.shape[1:]),
        lambda *ij: (ij[grid_axis], *(0 for _ in a.shape[1:])),
    )

  of_row, of_col = spec(0, blocks.rows), spec(1, blocks.columns)
  out_shape, out_specs = out(n, m, grid)
  return pallas.pallas_call(
      kernel, grid=grid, out_shape=out_shape, out_specs=out_specs,
      in_specs=[
          pallas.BlockSpec((2,), lambda i, j: (0,)),
          jax.tree.map(of_row, x), jax.tree.map(of_col, y),
          jax.tree.map(of_row, row), jax.tree.map(of_col, col),
      ],
      **_compiler_options(blocks),
  )(jnp.stack([tile.scale, tile.bias]), x, y, row, col)


def _fold(reduction, tile, row_state, col_state):
  """Reduces every block on its own, then merges their states.

  Blocks run in parallel, so none can go on with the state of another.
  """
  blocks = _blocks(tile.x.z)

  def fold_block(scale_and_bias, x, y, row, col, row_out, col_out):
    del row, col  # No vectors beside the tags.
    start = reduction.start(blocks.rows, blocks.columns, jnp.float32)
    states = reduction.fold(*_logits(blocks, scale_and_bias, x, y), *start)
    _write((row_out, col_out), states)

  def out(n, m, grid):
    states = jax.eval_shape(lambda: reduction.start(n, m, jnp.float32))
    shapes = tuple(
        jax.tree.map(
            lambda a, k=k: jax.ShapeDtypeStruct((k, *a.shape), a.dtype), state
        )
        for k, state in zip(grid[::-1], states, strict=True)
    )
    # A row of blocks has one state of its rows for each of its blocks j.
    of_row = pallas.BlockSpec((None, blocks.rows), lambda i, j: (j, i))
    of_col = pallas.BlockSpec((None, blocks.columns), lambda i, j: (i, j))
    return shapes, (
        jax.tree.map(lambda _: of_row, states[0]),
        jax.tree.map(lambda _: of_col, states[1]),
    )

  parts = _run(fold_block, tile, (), (), out)

  def merged(state, parts):
    return reduction.merge(jax.tree.map(
        lambda a, b: jnp.concatenate([a[None], b[:, : len(a)]]), state, parts
    ))

  return merged(row_state, parts[0]), merged(col_state, parts[1])


def _slope(reduction, tile, row, col):
  """G of a tile, and its sum before it is rounded."""
  blocks, dtype = _blocks(tile.x.z), tile.x.z.dtype

  def slope_block(scale_and_bias, x, y, row, col, g_out, total_out):
    row, col = jax.tree.map(lambda ref: ref[...], (row, col))
    g = reduction.slope(*_logits(blocks, scale_and_bias, x, y), row, col)
    _write((g_out, total_out), (g.astype(dtype), jnp.sum(g)))

  def out(n, m, grid):
    shapes = (
        jax.ShapeDtypeStruct((n, m), dtype),
        jax.ShapeDtypeStruct(grid, jnp.float32),
    )
    return shapes, (
        pallas.BlockSpec((blocks.rows, blocks.columns), lambda i, j: (i, j)),
        pallas.BlockSpec((None, None), lambda i, j: (i, j)),
    )

  g, totals = _run(slope_block, tile, row, col, out)
  n, m = tile.x.z.shape[0], tile.y.z.shape[0]
  return g[:n, :m], jnp.sum(totals)


KERNEL = tiles.Kernel(_fold, _slope)

# As in `tiles`, with this kernel.
forward = functools.partial(tiles.forward, kernel=KERNEL)
backward = functools.partial(tiles.backward, kernel=KERNEL)

"""The logits of a tile made and used inside one GPU kernel, in Pallas.

`tiles` as it is lets XLA write the logits of a tile to memory and read them
again for each sum. Here a program multiplies one block of the tile, adds it up
over the width in registers, and folds it there: what reaches memory is a number
or two for each row and column of a block. For the gradient the program makes
the block's logits again and writes G = dL/dS in the type of the factors, never
the logits; the two products with G stay with XLA.

    pass        products   written for a tile of T x T, blocks of K x K
    fold        1          two states of T T / K numbers
    gradient    1 + 2      T T slopes, and one sum for each block

Four products in all, as many as the tiles of XLA. Accumulating the gradients in
the program instead would save the slopes, but a width of 512 or more does not
fit its registers, and each slice of the width would make the logits once more.

What is summed is the `Reduction` itself, traced into the kernel, so weights and
tags work as they do elsewhere; but a weight may read nothing except its tags.

It is written for NVIDIA GPUs, of Ampere and later for bfloat16, and goes through
Triton, a way that JAX 0.12 still has and calls deprecated. Tests lower it for
CUDA and interpret it on CPUs, which is slow; it has run on no GPU, and its speed
was not measured.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas
from jaxtyping import Array

from basic.ops.pairwise import tiles


class Blocks(NamedTuple):
  """What one program takes on: powers of two, none below 16.

  A stage holds (rows + columns) depth factors in shared memory: its three take
  96 KiB for the bfloat16 blocks here, of the 164 KiB of an A100. Sums take rows
  x columns registers over 32 x warps threads: 64 each for bfloat16, of 255.
  """

  rows: int
  columns: int
  depth: int  # of the width, at a time
  warps: int
  stages: int


# By the type of the factors. float32 is multiplied exactly, which tensor cores
# do not do: smaller blocks keep the plain units fed.
BLOCKS = {
    "bfloat16": Blocks(128, 128, 64, warps=8, stages=3),
    "float32": Blocks(64, 64, 32, warps=4, stages=3),
}


def _blocks(z: Array) -> Blocks:
  if z.dtype.name not in BLOCKS:
    raise ValueError(
        f"kernel 'pallas' multiplies {' or '.join(BLOCKS)} and found "
        f"{z.dtype.name}; use kernel 'xla', which takes float64 too."
    )
  return BLOCKS[z.dtype.name]


def _compiled(blocks: Blocks) -> dict[str, Any]:
  """How this backend is told to compile a kernel."""
  backend = jax.default_backend()
  if backend not in ("cpu", "gpu"):
    raise ValueError(
        f"kernel 'pallas' is written for GPUs, and interpreted on CPUs; this "
        f"is {backend!r}, where kernel 'xla' works."
    )
  if backend == "cpu":
    return {"interpret": True}
  # Not every build of JAX has it, and only this line needs it.
  from jax.experimental.pallas import triton

  return {"compiler_params": triton.CompilerParams(
      num_warps=blocks.warps, num_stages=blocks.stages
  )}


# Blocks divide what the kernel sees: a tile that they do not is filled up, and
# what fills it has a negative index, as have rows that were in a tile before.


def _filled(a: Array, axis: int, multiple: int, value: int = 0) -> Array:
  short = -a.shape[axis] % multiple
  if not short:
    return a
  widths = [(0, short if k == axis else 0) for k in range(a.ndim)]
  return jnp.pad(a, widths, constant_values=value)


def _side(side, new, outside, count, depth):
  """A side of whole blocks, and its index `outside` where there is no pair."""
  index = side.tags["index"]
  if new is not None:
    index = jnp.where(new, index, outside)
  z = _filled(_filled(side.z, 0, count), 1, depth)
  tags = {name: _filled(tag, 0, count) for name, tag in side.tags.items()}
  return tiles.Side(z, {**tags, "index": _filled(index, 0, count, outside)})


def _logits(blocks, numbers, x, y):
  """(logits of a block, as a function; row tags; column tags), in a program."""

  def add(k, total):
    at = pallas.ds(k * blocks.depth, blocks.depth)
    return total + jax.lax.dot_general(
        x.z[:, at], y.z[:, at], (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )

  zero = jnp.zeros((blocks.rows, blocks.columns), jnp.float32)
  products = jax.lax.fori_loop(0, x.z.shape[1] // blocks.depth, add, zero)
  rows = {name: tag[...][:, None] for name, tag in x.tags.items()}
  cols = {name: tag[...][None, :] for name, tag in y.tags.items()}
  pair = (rows["index"] >= 0) & (cols["index"] >= 0)
  logits = jnp.where(pair, numbers[0] * products + numbers[1], -jnp.inf)
  return lambda: logits, rows, cols


def _write(refs: Any, values: Any) -> None:
  for ref, value in zip(
      jax.tree.leaves(refs), jax.tree.leaves(values), strict=True
  ):
    ref[...] = value


def _run(program, tile, row, col, out):
  """Runs a program for every block of a tile.

  Args:
    program: (numbers, x, y, row, col, *outputs) -> None, on references to the
      block's own part of each.
    tile: the pairs.
    row: more vectors of rows, [n].
    col: more vectors of columns, [m].
    out: (n, m, grid) of the filled tile -> (shapes, specs) of the outputs.
  """
  blocks = _blocks(tile.x.z)
  x = _side(tile.x, tile.new_rows, -1, blocks.rows, blocks.depth)
  # Two different negatives, so that nothing is its own pair.
  y = _side(tile.y, tile.new_cols, -2, blocks.columns, blocks.depth)
  row = jax.tree.map(lambda a: _filled(a, 0, blocks.rows), row)
  col = jax.tree.map(lambda a: _filled(a, 0, blocks.columns), col)
  n, m = x.z.shape[0], y.z.shape[0]
  grid = (n // blocks.rows, m // blocks.columns)

  def spec(place, count):
    return lambda a: pallas.BlockSpec(
        (count, *a.shape[1:]),
        lambda *ij: (ij[place], *(0 for _ in a.shape[1:])),
    )

  of_row, of_col = spec(0, blocks.rows), spec(1, blocks.columns)
  out_shape, out_specs = out(n, m, grid)
  return pallas.pallas_call(
      program, grid=grid, out_shape=out_shape, out_specs=out_specs,
      in_specs=[
          pallas.BlockSpec((2,), lambda i, j: (0,)),
          jax.tree.map(of_row, x), jax.tree.map(of_col, y),
          jax.tree.map(of_row, row), jax.tree.map(of_col, col),
      ],
      **_compiled(blocks),
  )(jnp.stack([tile.scale, tile.bias]), x, y, row, col)


def _fold(reduction, tile, row_state, col_state):
  """Each block starts from nothing; what the blocks found is merged after."""
  blocks = _blocks(tile.x.z)

  def fold_block(numbers, x, y, row, col, row_out, col_out):
    del row, col  # No state is read.
    start = reduction.start(blocks.rows, blocks.columns, jnp.float32)
    states = reduction.fold(*_logits(blocks, numbers, x, y), *start)
    _write((row_out, col_out), states)

  def out(n, m, grid):
    states = jax.eval_shape(lambda: reduction.start(n, m, jnp.float32))
    shapes = tuple(
        jax.tree.map(
            lambda a, k=k: jax.ShapeDtypeStruct((k, *a.shape), a.dtype), state
        )
        for k, state in zip(grid[::-1], states, strict=True)
    )
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
  """G of a tile, and its sum from float32."""
  blocks, kind = _blocks(tile.x.z), tile.x.z.dtype

  def slope_block(numbers, x, y, row, col, steep, total):
    seen = jax.tree.map(lambda ref: ref[...], (row, col))
    slope = reduction.slope(*_logits(blocks, numbers, x, y), *seen)
    _write((steep, total), (slope.astype(kind), jnp.sum(slope)))

  def out(n, m, grid):
    shapes = (
        jax.ShapeDtypeStruct((n, m), kind),
        jax.ShapeDtypeStruct(grid, jnp.float32),
    )
    return shapes, (
        pallas.BlockSpec((blocks.rows, blocks.columns), lambda i, j: (i, j)),
        pallas.BlockSpec((None, None), lambda i, j: (i, j)),
    )

  steep, totals = _run(slope_block, tile, row, col, out)
  n, m = tile.x.z.shape[0], tile.y.z.shape[0]
  return steep[:n, :m], jnp.sum(totals)


KERNEL = tiles.Kernel(_fold, _slope)

# As in `tiles`, with this kernel.
forward = functools.partial(tiles.forward, kernel=KERNEL)
backward = functools.partial(tiles.backward, kernel=KERNEL)

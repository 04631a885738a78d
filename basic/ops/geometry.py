"""How embeddings lie on the sphere: what contrastive losses trade off.

Where all pairs are compared, they are compared in tiles, so memory grows with
the number of rows and not with the number of pairs.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from basic.ops import precision
from basic.ops.pairwise import queries


@jax.jit
def alignment(
    x: Float[Array, "n d"], y: Float[Array, "n d"], alpha: jax.typing.ArrayLike = 2.0
) -> Float[Array, ""]:
  """How far the two embeddings of a pair lie apart; 0 is the best.

      mean_i |x_i - y_i|^alpha

  Args:
    x: unit vectors.
    y: unit vectors; row i is the other view of row i of `x`.
    alpha: positive.

  References:
    Wang and Isola, Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere, 2020, section 4.
    https://arxiv.org/abs/2005.10242
  """
  return jnp.mean(jnp.sum((x - y) ** 2, axis=1) ** (alpha / 2))


@functools.partial(jax.jit, static_argnames="block")
def uniformity(
    x: Float[Array, "n d"], t: jax.typing.ArrayLike = 2.0, *, block: int = 1024
) -> Float[Array, ""]:
  """How evenly embeddings cover the sphere; lower is more even.

      log mean_{i < j} exp(-t |x_i - x_j|^2)

  It is 0 if all are equal, and about -2 t for high-dimensional vectors that are
  independent and evenly distributed.

  Args:
    x: unit vectors, two or more; NaN for one.
    t: positive.
    block: rows and columns of a tile. Positive.

  References:
    Wang and Isola, 2020, section 4. https://arxiv.org/abs/2005.10242
  """
  n = x.shape[0]

  def add(total, scores, rows, columns, new):
    # |x - y|^2 = 2 - 2 <x, y> where both have length 1.
    near = jnp.exp(-2 * t * jnp.maximum(1 - scores, 0.0))
    counts = (rows[:, None] != columns[None, :]) & new[None, :]
    return total + jnp.sum(jnp.where(counts, near, 0.0), axis=1)

  dtype = precision.accumulator(x.dtype)
  sums = _over_tiles(add, lambda rows: jnp.zeros(rows, dtype), x, x, block)
  return jnp.log(jnp.mean(sums) / (n - 1))


@functools.partial(jax.jit, static_argnames="classes")
def tolerance(
    x: Float[Array, "n d"], labels: Int[Array, "n"], classes: int
) -> Float[Array, ""]:
  """How similar examples of one class are, which a contrastive loss drives apart.

      mean over all pairs i != j of one class:  <x_i, x_j>

  This is the mean within classes, as the paper's figures are; its formula also
  divides by the pairs of different classes. Time and memory grow with n alone:
  sum_{i != j} <x_i, x_j> = |sum_i x_i|^2 - sum_i |x_i|^2.

  Args:
    x: unit vectors.
    labels: the class of each, from 0.
    classes: their number.

  Returns:
    -1 to 1; NaN if no class has two examples.

  References:
    Wang and Liu, Understanding the Behaviour of Contrastive Loss, 2021, section
    4. https://arxiv.org/abs/2012.09740
  """
  sums = jax.ops.segment_sum(x, labels, classes)
  counts = jax.ops.segment_sum(jnp.ones(x.shape[0], x.dtype), labels, classes)
  pairs = jnp.sum(counts * (counts - 1))
  return (jnp.sum(sums**2) - jnp.sum(x**2)) / pairs


@functools.partial(jax.jit, static_argnames="block")
def effective_rank(
    x: Float[Array, "n d"], *, block: int = 8192
) -> Float[Array, ""]:
  """How many directions embeddings use: RankMe.

      exp(-sum_k p_k log p_k),    p_k = s_k / sum_l s_l

  with s the singular values of x. (RankMe adds 1e-7 to each p_k.)

  Args:
    x: embeddings, not centred.
    block: rows that are decomposed at a time. Positive.

  Returns:
    1 to min(n, d); 1 if all are zero.

  References:
    Garrido et al., RankMe, 2023, section 3. https://arxiv.org/abs/2210.02885
    Roy and Vetterli, The effective rank, 2007.
  """
  if x.shape[0] > block:
    x = _triangle(x, block)
  s = jnp.linalg.svd(x, compute_uv=False)
  total = jnp.sum(s)
  p = s / jnp.where(total > 0, total, 1.0)
  return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p)))


def _triangle(x, block):
  """R [d d] of x = Q R, block by block; x and R have the same singular values."""
  n, d = x.shape
  x = jnp.pad(x, ((0, -n % block), (0, 0))).reshape(-1, block, d)

  def add(r, part):
    return jnp.linalg.qr(jnp.concatenate([r, part]), mode="r"), None

  return jax.lax.scan(add, jnp.zeros((d, d), x.dtype), x)[0]


@jax.jit
def modality_gap(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> Float[Array, ""]:
  """How far apart the two modalities lie as wholes.

      |mean_i x_i - mean_j y_j|

  Args:
    x: unit vectors of one modality.
    y: unit vectors of the other.

  References:
    Liang et al., Mind the Gap, 2022, section 2. https://arxiv.org/abs/2203.02053
  """
  return jnp.linalg.norm(jnp.mean(x, axis=0) - jnp.mean(y, axis=0))


@functools.partial(jax.jit, static_argnames="block")
def margins(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    groups: Int[Array, "n"],
    *,
    block: int = 1024,
) -> Float[Array, "n"]:
  """How much more similar each x_i is to its partner than to any negative.

      m_i = <x_i, y_i> - max {<x_i, y_j> : group_j != group_i}

  Args:
    x: unit vectors.
    y: unit vectors; y_i is the partner of x_i.
    groups: an integer a pair; pairs of one group are no negatives of each other.
    block: rows and columns of a tile. Positive.

  Returns:
    A margin for each row, -2 to 2; infinite for a row without negatives.
  """

  def harder(most, scores, rows, columns, new):
    del new  # A row that comes twice changes no maximum.
    negative = groups[rows][:, None] != groups[columns][None, :]
    return jnp.maximum(most, jnp.max(jnp.where(negative, scores, -jnp.inf), axis=1))

  dtype = precision.accumulator(x.dtype)
  start = functools.partial(jnp.full, fill_value=-jnp.inf, dtype=dtype)
  return jnp.sum(x * y, axis=1) - _over_tiles(harder, start, x, y, block)


@jax.jit
def norms(x: Float[Array, "n d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Mean and standard deviation of the lengths of embeddings, not normalised."""
  lengths = jnp.linalg.norm(x, axis=1)
  return jnp.mean(lengths), jnp.std(lengths)


def _over_tiles(fold, start, x, y, block):
  """Folds tiles of inner products into states of the rows of `x`.

  Args:
    fold: (states of some rows, their scores, numbers of the rows, numbers of the
      columns, whether a column is new) -> states.
    start: number of rows -> states [n] before any column.
    x: rows [n d].
    y: columns [m d].
    block: rows and columns of a tile.
  """
  height, down = queries.blocks(x.shape[0], block)
  width, across = queries.blocks(y.shape[0], block)

  def row(a, found):
    rows = queries.span(a, height, x.shape[0])

    def column(b, state):
      columns = queries.span(b, width, y.shape[0])
      scores = jnp.einsum(
          "id,jd->ij", rows.cut(x), columns.cut(y),
          precision=jax.lax.Precision.HIGHEST,
          preferred_element_type=precision.accumulator(x.dtype),
      )
      return fold(state, scores, rows.numbers, columns.numbers, columns.new)

    return rows.put(found, jax.lax.fori_loop(0, across, column, start(height)))

  return jax.lax.fori_loop(0, down, row, start(x.shape[0]))

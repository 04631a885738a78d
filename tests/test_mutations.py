"""Faults planted on purpose: each makes the law that watches for it fail.

A law that no fault can break says nothing. What each test replaces is put back
when it ends; objectives are made anew under the fault, so that nothing compiled
before it is used.
"""

import checks
import jax
import jax.numpy as jnp
import pytest

from basic import gradient, types
from basic.gradient import _passes, _rows
from basic.objectives import sigmoid, softmax
from basic.ops.pairwise import distributed, reductions, similarity, tiles


def softly(**settings):
  return softmax.softmax(**{
      **dict(scale=5.0, smoothing=0.1, distinct="caption_id", tile=5),
      **settings,
  })


def singly(**settings):
  return sigmoid.sigmoid(**{**dict(scale=5.0, bias=-3.0, tile=5), **settings})


def dies(law, *args):
  """The law notices: it raises AssertionError, and nothing else."""
  with pytest.raises(AssertionError):
    law(*args)


@pytest.mark.parametrize("method", ["gather", "ring"])
def test_a_missing_sum_over_devices_breaks_placement(monkeypatch, method):
  alone = singly()
  monkeypatch.setattr(distributed, "_total", lambda plan, sums: sums)
  dies(checks.placement_law, alone, singly(method=method))


def test_rows_numbered_by_device_break_placement(monkeypatch):
  alone = singly()
  side = similarity._side

  def local(z, tags):
    one = side(z, tags)
    devices = max(jax.sharding.get_abstract_mesh().size, 1)
    index = one.tags["index"] % (z.shape[0] // devices)
    return one._replace(tags={**one.tags, "index": index})

  monkeypatch.setattr(similarity, "_side", local)
  dies(checks.placement_law, alone, singly(method="gather"))


@pytest.mark.parametrize("objective", [softly, singly])
def test_labels_off_by_one_break_equivariance(monkeypatch, double, objective):
  monkeypatch.setattr(
      reductions, "diagonal",
      lambda rows, cols: rows["index"] == cols["index"] + 1,
  )
  dies(checks.equivariance_law, objective())


def test_a_temperature_gradient_for_each_chunk_breaks_the_cut(
    monkeypatch, double
):
  cached = gradient.cached

  def counted(encode, objective, *, chunks):
    exact = cached(encode, objective, chunks=chunks)

    def inexact(*args):
      found, grads = exact(*args)
      scale = grads["objective"]["log_scale"] * chunks
      return found, {**grads, "objective": {"log_scale": scale}}

    return inexact

  monkeypatch.setattr(gradient, "cached", counted)
  dies(checks.cut_law, softly(), (2,), False)


def test_noise_by_place_in_the_chunk_breaks_the_cut(monkeypatch, double):
  chunk = _rows.chunk

  def by_place(tree, count):
    parts = chunk(tree, count)
    if isinstance(parts, types.Features):
      return parts
    return jnp.broadcast_to(parts[:1], parts.shape)

  monkeypatch.setattr(_rows, "chunk", by_place)
  dies(checks.cut_law, softly(), (2,), True)


def test_other_noise_in_the_second_pass_breaks_the_cut(monkeypatch, double):
  encode_view = _passes.encode_view

  def redrawn(view, count, trainable, constant, rows, *rest):
    inputs, keys = rows
    other = inputs, jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
    features, _ = encode_view(view, count, trainable, constant, rows, *rest)
    _, pull = encode_view(view, count, trainable, constant, other, *rest)
    return features, pull

  monkeypatch.setattr(_passes, "encode_view", redrawn)
  dies(checks.cut_law, softly(), (2,), True)


def test_blocks_put_back_as_strides_break_the_cut(monkeypatch, double):
  # The rows come back in another order than they left.
  monkeypatch.setattr(
      _rows, "unchunk",
      lambda tree: jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree),
  )
  dies(checks.cut_law, softly(), (2,), False)


def test_a_maximum_that_starts_at_zero_breaks_the_edges(monkeypatch):
  log_sum_exp = reductions.log_sum_exp

  def from_zero(weight):
    reduction = log_sum_exp(weight)

    def start(n, m, dtype):
      row, (top, total) = reduction.start(n, m, dtype)
      return row, (jnp.zeros_like(top), total)

    return reduction._replace(start=start)

  monkeypatch.setattr(reductions, "log_sum_exp", from_zero)
  dies(checks.edge_law, softly(scale=100.0))


def swapped(row, col):
  return col, row


def negated(row, col):
  (row_value, row_bar), (col_value, col_bar) = row, col
  return (row_value, -row_bar), (col_value, col_bar)


@pytest.mark.parametrize("wrong", [swapped, negated])
def test_rows_taken_for_columns_backward_break_the_gradient(
    monkeypatch, double, wrong
):
  backward = tiles.backward

  def mistaken(reduction, x, y, scale, bias, row, col, sums, tile):
    row, col = wrong(row, col)
    return backward(reduction, x, y, scale, bias, row, col, sums, tile)

  monkeypatch.setattr(tiles, "backward", mistaken)
  dies(checks.gradient_law, softly())


def test_pairs_seen_twice_break_equivariance(
    monkeypatch, double
):
  # Twelve rows in tiles of five: the last tile reaches back over the second.
  cut = tiles._cut

  def forgetful(tree, k, tile):
    piece, start, _ = cut(tree, k, tile)
    return piece, start, None

  monkeypatch.setattr(tiles, "_cut", forgetful)
  dies(checks.equivariance_law, softly())


def test_pairs_that_agree_where_there_is_none_break_the_edges(monkeypatch):
  softplus = reductions.softplus

  def careless(positive):
    def fold(logits, rows, cols, row_state, col_state):
      signs = jnp.where(positive(rows, cols), 1, -1).astype(jnp.float32)
      terms = jax.nn.softplus(-signs * logits())
      return row_state + jnp.sum(terms, 1), col_state

    return softplus(positive)._replace(fold=fold)

  monkeypatch.setattr(reductions, "softplus", careless)
  dies(checks.edge_law, singly(same="caption_id"))


def test_a_product_in_half_precision_breaks_the_gradient(
    monkeypatch, double
):
  product = tiles._product

  def rough(a, b, contract):
    found = product(a, b, contract)
    return found.astype(jnp.bfloat16).astype(found.dtype)

  monkeypatch.setattr(tiles, "_product", rough)
  dies(checks.gradient_law, softly())


def test_without_a_fault_every_law_here_holds(double):
  checks.cut_law(softly(), (2,), True)
  checks.equivariance_law(singly())
  checks.gradient_law(softly())

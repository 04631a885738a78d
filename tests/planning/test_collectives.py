"""Collectives counted in compiled programs, real and written by hand."""

import jax
import jax.numpy as jnp
import pytest

from basic.ops.pairwise import similarity
from basic.planning import collectives
from basic.sharding import layout

LOOP = """HloModule step, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%body.1 (arg.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.1 = (s32[], f32[4]{0}) parameter(0)
  %inner = (s32[], f32[4]{0}) while(%arg.1), condition=%test.2, body=%body.2%TRIPS%
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %x)
}

%body.2 (arg.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  %cp = f32[4]{0:T(128)} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
}

%test.2 (arg.3: (s32[], f32[4])) -> pred[] {
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main.5 (p.1: f32[4]) -> f32[4] {
  %w = (s32[], /*index=1*/f32[4]) while(%tuple), condition=%test.2, body=%body.1%THREE%
  ROOT %out = f32[4]{0} get-tuple-element(%w), index=1
}
""".replace("%THREE%", ', backend_config={"known_trip_count":{"n":"3"}}')


def one(line: str) -> dict:
  text = f"ENTRY %main (p: f32[4]) -> f32[4] {{\n  %x.1 = {line}\n}}\n"
  return dict(collectives.read(text, 8).kinds)


@pytest.mark.parametrize(("line", "kind", "sent"), [
    ("f32[8]{0} all-gather(%p), replica_groups=[2,4]<=[8], dimensions={0}",
     "all-gather", 32 * 3 / 4),
    ("bf16[8,2]{1,0} all-reduce(%p), replica_groups={{0,1},{2,3}}, to_apply=%s",
     "all-reduce", 2 * 32 / 2),
    ("(f32[8]{0}, s32[2]{0}) all-reduce(%p, %q), replica_groups={}",
     "all-reduce", 2 * 40 * 7 / 8),
    ("f32[2]{0} reduce-scatter(%p), replica_groups=[1,8]<=[4,2]T(1,0)",
     "reduce-scatter", 8 * 7),
    ("f32[] all-reduce(%p), replica_groups=mesh['a'=4,'b'=2] {'a'}",
     "all-reduce", 2 * 4 * 3 / 4),
    ("f32[] all-reduce(%p), replica_groups=mesh['a'=4,'b'=2] {'a':(2)2,'b'}",
     "all-reduce", 2 * 4 * 3 / 4),
    ("pred[16]{0} collective-permute(%p), source_target_pairs={{0,1}}",
     "collective-permute", 16),
    ("(f32[2]{0}, f32[16]{0}) all-gather-start(%p), replica_groups=[1,8]<=[8]",
     "all-gather", 64 * 7 / 8),
    ("((f32[2], s8[2]), (f32[16], s8[16])) all-gather-start(%p, %q), "
     "replica_groups=[1,8]<=[8]", "all-gather", 80 * 7 / 8),
    ("f32[16]{0} all-reduce-start(%p), replica_groups=[1,8]<=[8]",
     "all-reduce", 2 * 64 * 7 / 8),
])
def test_collectives_send_what_ring_algorithms_send(line, kind, sent):
  assert one(line) == {kind: collectives.Traffic(1, pytest.approx(sent))}


def test_a_group_of_one_device_sends_nothing_and_done_is_not_counted():
  assert one("f32[4]{0} all-reduce(%p), replica_groups=[8,1]<=[8]") == {}
  assert one("f32[4]{0} all-gather-done(%s)") == {}


def test_trip_counts_of_nested_loops_multiply():
  told = LOOP.replace(
      "%TRIPS%", ', backend_config={"known_trip_count":{"n":"5"}}'
  )
  found = collectives.read(told, 2)
  assert found.kinds == {"collective-permute": (15, 15 * 16)}
  assert (found.bytes, found.unbounded) == (15 * 16, 0)


def test_a_loop_of_unknown_trip_count_is_reported():
  found = collectives.read(LOOP.replace("%TRIPS%", ""), 2)
  assert found.kinds["collective-permute"].runs == 3
  assert found.unbounded == 1


def test_a_trip_count_is_read_from_a_constant_bound():
  counted = LOOP.replace("%TRIPS%", "").replace(
      "  ROOT %lt", "  %n = s32[]{:T(128)} constant(7)\n  ROOT %lt"
  )
  found = collectives.read(counted, 2)
  assert (found.kinds["collective-permute"].runs, found.unbounded) == (21, 0)


def test_an_all_reduce_whose_shards_are_kept_is_a_reduce_scatter():
  text = """%all-reduce-scatter.1 (p: f32[8]) -> f32[2] {
  %r = f32[8]{0} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %s = f32[2]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={2}
}

ENTRY %main (p: f32[8]) -> f32[2] {
  ROOT %f = f32[2]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
  assert collectives.read(text, 4).kinds == {"reduce-scatter": (1, 32 * 3 / 4)}


def test_the_ring_loss_sends_its_columns_once_around():
  where = layout.Layout(layout.mesh())
  rows, width, devices = 64, 8, where.mesh.size
  side = jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=where.rows)

  def loss(x, y):
    return similarity.softplus_sums(x, y, 1.0, 0.0, method="ring", tile=8).sum()

  with where.context():
    text = jax.jit(loss).lower(side, side).compile().as_text()
  sent = collectives.read(text, devices).kinds["collective-permute"]
  # y as float32 and its index as int32, from each device to the next.
  columns = rows // devices * (width + 1) * 4
  assert sent.bytes == devices * columns

"""A checkpoint comes back bit by bit, or says why not."""

import contextlib
import copy
import gc
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import optim, types
from basic.engine import checkpoint

# A read that fails leaves the other reads of tensorstore without a loop to
# report to; they say so while they are collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning")

Spec = jax.sharding.PartitionSpec
POSITION = {"examples": 128, "stage": 0, "name": "synthetic"}


def make(seed=0, width=4, rows=512):
  """A small state of all the kinds of leaves there are."""
  draw = np.random.default_rng(seed)

  def fill(x):
    return jnp.asarray(draw.standard_normal(x.shape), x.dtype)

  params = jax.tree.map(fill, {
      "image": {
          "kernel": jax.ShapeDtypeStruct((rows, width), jnp.float32),
          "half": jax.ShapeDtypeStruct((width,), jnp.bfloat16),
      },
      "objective": {"log_scale": jax.ShapeDtypeStruct((), jnp.float32)},
  })
  tx = optim.adamw(steps=10, mu_dtype="bfloat16").tx
  opt_state = jax.tree.map(fill, jax.eval_shape(tx.init, params))
  return types.TrainState(
      jnp.int32(10 + seed), params, opt_state, (), jax.random.key(seed))


def bits(state):
  """Path -> (type, bytes) of every leaf."""
  def plain(x):
    key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if key else x
  return {
      jax.tree_util.keystr(keys): (x.dtype, np.asarray(plain(x)).tobytes())
      for keys, x in jax.tree_util.tree_flatten_with_path(state)[0]
  }


def same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  assert bits(found) == bits(expected)


def abstract(state, sharding):
  """`state` as shapes with shardings."""
  like = copy.copy(state)
  for name in ("step", "params", "opt_state", "memory", "rng"):
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x)),
        getattr(state, name))
    object.__setattr__(like, name, shapes)
  return like


@pytest.fixture(autouse=True)
def collected():
  """Garbage is collected where the filter above still holds."""
  yield
  gc.collect()


@pytest.fixture
def store(tmp_path):
  return tmp_path / "checkpoints"


@pytest.fixture
def two(store):
  """A directory with the steps 10 and 20, and their states."""
  states = {10: make(1), 20: make(2)}
  with checkpoint.Checkpoints(store, every=10) as checkpoints:
    for step, state in states.items():
      assert checkpoints.save(step, state, {"examples": step})
  return states


def reopened(store, state_like, caplog, **settings):
  """What a new object finds, and what it says."""
  caplog.clear()
  with checkpoint.Checkpoints(store, every=10) as checkpoints:
    found = checkpoints.restore(state_like, **settings)
  said = [r.getMessage() for r in caplog.records if r.name == "basic.engine.checkpoint"]
  return *found, said


def test_a_state_comes_back_bit_by_bit(store):
  state = make()
  with checkpoint.Checkpoints(store, every=10) as checkpoints:
    assert checkpoints.latest() is None
    assert checkpoints.save(10, state, POSITION)
    assert checkpoints.latest() == 10
  with checkpoint.Checkpoints(store, every=10) as checkpoints:
    found, position = checkpoints.restore(make(seed=5))
  same(found, state)
  assert position == POSITION
  assert found.rng.dtype == state.rng.dtype  # a typed key
  assert jax.random.bits(found.rng) == jax.random.bits(state.rng)


def test_a_state_comes_back_on_another_placement(store):
  state = make()
  across = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
  block = jax.make_mesh(
      (2, 4), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

  def spread(x):
    return jax.NamedSharding(across, Spec("x") if x.ndim == 2 else Spec())

  def tiled(x):
    return jax.NamedSharding(block, Spec("x", "y") if x.ndim == 2 else Spec())

  placed = jax.tree.map(lambda x: jax.device_put(x, spread(x)), state)
  with checkpoint.Checkpoints(store, every=1) as checkpoints:
    checkpoints.save(3, placed, {})
    found, _ = checkpoints.restore(abstract(state, tiled))
  same(found, state)
  kernel = found.params["image"]["kernel"]
  assert kernel.sharding.is_equivalent_to(tiled(kernel), 2)


def test_a_state_may_be_donated_while_it_is_written(store):
  state = make(rows=1 << 16)
  expected = bits(state)
  advance = jax.jit(
      lambda s: jax.tree.map(
          lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x + 1,
          s),
      donate_argnums=0)
  with checkpoint.Checkpoints(store, every=1) as checkpoints:
    checkpoints.save(1, state, {})
    for _ in range(3):
      state = advance(state)
    found, _ = checkpoints.restore(state)
  assert bits(found) == expected


def test_due_saves_and_forced_ones(store):
  state = make()
  with checkpoint.Checkpoints(store, every=5) as checkpoints:
    assert [n for n in range(12) if checkpoints.due(n)] == [5, 10]
    assert not checkpoints.save(4, state, {})
    assert checkpoints.save(5, state, {})
    assert not checkpoints.save(5, state, {}, force=True)  # it is there already
    assert checkpoints.save(7, state, {}, force=True)
    checkpoints.wait()
    assert checkpoints.latest() == 7


def test_newest_and_round_steps_are_kept(store):
  state = make()
  with checkpoint.Checkpoints(
      store, every=1, keep=2, keep_every=3) as checkpoints:
    for step in range(1, 9):
      checkpoints.save(step, state, {})
  kept = sorted(int(p.name) for p in store.iterdir() if p.name.isdigit())
  assert kept == [3, 6, 7, 8]


def files(store, step):
  return sorted(p for p in (store / str(step)).rglob("*") if p.is_file())


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


def truncate(path):
  path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate, pathlib.Path.unlink])
def test_no_damaged_file_gives_a_wrong_state(store, two, caplog, damage):
  like, backup, fell_back = make(5), store.with_name("backup"), 0
  shutil.copytree(store / "20", backup)
  for path in files(store, 20):
    damage(path)
    state, position, said = reopened(store, like, caplog)
    step = position["examples"]
    same(state, two[step])
    # what Orbax writes for convenience may change without any harm
    assert (step == 10) == any("Checkpoint 20 is damaged" in s for s in said)
    fell_back += step == 10
    shutil.rmtree(store / "20")
    shutil.copytree(backup, store / "20")
  assert fell_back >= 4  # digests, position, metadata, arrays at least


def test_a_flipped_bit_of_an_array_is_seen_by_its_digest(store, two, caplog):
  # the largest file holds little but the kernel and its moments
  array = max(files(store, 20), key=lambda p: p.stat().st_size)
  data = bytearray(array.read_bytes())
  seen = 0
  for part in (.2, .35, .5, .65, .8):
    changed = data.copy()
    changed[int(len(data) * part)] ^= 1
    array.write_bytes(changed)
    state, _, said = reopened(store, make(5), caplog)
    same(state, two[10])
    assert "Checkpoint 20 is damaged" in said[0]
    seen += "are not what was saved" in said[0]
  # The order of the arrays in the file changes from run to run, so one or the
  # other may fall on a few bytes that the reader itself checks.
  assert seen >= 3


def test_when_no_step_is_whole_it_says_so_and_deletes_nothing(store, two):
  for step in two:
    truncate(store / str(step) / "integrity" / "metadata")
  before = [files(store, step) for step in two]
  with checkpoint.Checkpoints(store, every=10) as checkpoints:
    with pytest.raises(ValueError, match=r"\[20, 10\] .* none is intact"):
      checkpoints.restore(make())
  assert [files(store, step) for step in two] == before


def test_a_step_asked_for_is_the_one_that_is_read(store, two, caplog):
  state, position, said = reopened(store, make(5), caplog, step=10)
  same(state, two[10])
  assert position == {"examples": 10} and not said
  truncate(store / "10" / "integrity" / "metadata")
  with pytest.raises(ValueError, match=r"\[10\] .* none is intact"):
    reopened(store, make(5), caplog, step=10)
  with pytest.raises(FileNotFoundError, match=r"holds the steps \[10, 20\] and not"):
    reopened(store, make(5), caplog, step=15)


def test_a_new_past_does_not_end_in_the_old_future(store, two, caplog):
  truncate(store / "20" / "integrity" / "metadata")
  with checkpoint.Checkpoints(store, every=10) as checkpoints:
    found, _ = checkpoints.restore(make(5))
    same(found, two[10])
    assert not checkpoints.save(10, found, {}, force=True)
    again = make(7)
    assert checkpoints.save(20, again, {"examples": 21})
  state, position, _ = reopened(store, make(5), caplog)
  same(state, again)
  assert position == {"examples": 21}
  assert (store / "20.abandoned-0").is_dir()
  assert not (store / "10.abandoned-0").exists()


def test_another_model_is_refused_by_name(store, two):
  with checkpoint.Checkpoints(store, every=10) as checkpoints:
    with pytest.raises(ValueError) as caught:
      checkpoints.restore(make(width=6))
    said = str(caught.value)
    assert "checkpoint 20 is of another model" in said
    assert "params/image/half (bfloat16[4] saved, bfloat16[6] wanted)" in said
    other = make()
    other.params["image"]["extra"] = other.params["image"].pop("half")
    with pytest.raises(
        ValueError, match=r"only the model has params/image/extra; only the "
        r"checkpoint has params/image/half"):
      checkpoints.restore(other)


def test_shapes_must_say_where_they_lie(store, two):
  with checkpoint.Checkpoints(store, every=10) as checkpoints:
    with pytest.raises(ValueError, match="step does not say where"):
      checkpoints.restore(abstract(make(), lambda x: None))


def test_nothing_there_is_said(store):
  with checkpoint.Checkpoints(store, every=10) as checkpoints:
    with pytest.raises(FileNotFoundError, match=r"holds the steps \[\]"):
      checkpoints.restore(make())


def test_what_was_not_finished_is_cleared_and_not_read(store, two, caplog):
  half = store / "30.orbax-checkpoint-tmp"
  shutil.copytree(store / "20", half)
  (store / "notes").mkdir()
  state, _, said = reopened(store, make(5), caplog)
  same(state, two[20])
  assert not half.exists() and (store / "notes").exists()
  assert len(said) == 1 and "30.orbax-checkpoint-tmp was not" in said[0]
  with checkpoint.Checkpoints(store, every=10) as checkpoints:
    assert checkpoints.save(30, make(3), {})


def test_a_reader_touches_nothing_and_sees_what_is_new(store, two):
  half = store / "30.orbax-checkpoint-tmp"
  half.mkdir()
  with checkpoint.Checkpoints(store, every=None) as reader:
    assert reader.latest() == 20
    state, _ = reader.restore(make(5))
    same(state, two[20])
    half.rmdir()
    with checkpoint.Checkpoints(store, every=10) as writer:
      writer.save(30, make(3), {})
    assert reader.latest() == 30
    with pytest.raises(ValueError, match="opened read-only"):
      reader.save(40, make(4), {}, force=True)


@contextlib.contextmanager
def full_disk():
  """No file grows beyond 64 KiB: writing fails as on a full disk."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_save_that_fails_behind_the_run_is_told_and_the_next_goes_on(
    store, caplog):
  small, large = make(), make(rows=1 << 15)
  checkpoints = checkpoint.Checkpoints(store, every=1, keep=1)
  checkpoints.save(1, small, {})
  checkpoints.wait()
  with full_disk():
    assert checkpoints.save(2, large, {})  # its error is not known yet
    with pytest.raises(RuntimeError, match="newest checkpoint is step 1"):
      checkpoints.wait()
  assert checkpoints.latest() == 1  # kept, although keep=1 and 2 was begun
  assert "Checkpoint 2 was not written (1 in a row)" in caplog.text
  assert checkpoints.save(2, large, {})  # the same step may be tried again
  checkpoints.close()
  assert sorted(p.name for p in store.iterdir()) == ["2"]
  same(reopened(store, large, caplog)[0], large)


def test_three_failures_in_a_row_stop_the_run_and_close_tells(store):
  large = make(rows=1 << 15)
  with full_disk():
    checkpoints = checkpoint.Checkpoints(store, every=1)
    for step in (1, 2, 2):  # the second is not there, so it is tried again
      assert checkpoints.save(step, large, {}, force=True)
    with pytest.raises(RuntimeError, match="3 saves in a row have failed"):
      checkpoints.save(3, large, {})
    with pytest.raises(RuntimeError, match=r"the last save in .* failed"):
      checkpoints.close()


def test_failed_saves_leave_nothing_and_say_it_once(store, caplog):
  large = make(rows=1 << 15)
  with full_disk(), pytest.raises(RuntimeError) as refused:
    with checkpoint.Checkpoints(store, every=1) as checkpoints:
      for step in (1, 2, 3, 4):
        checkpoints.save(step, large, {}, force=True)
        # What failed leaves its room to the next saves: threads of Orbax that
        # end late may write to the last one's folder again, and to no older one.
        steps = {int(path.name.partition(".")[0]) for path in store.iterdir()}
        assert steps <= {step - 1, step}
  assert list(store.iterdir()) == []
  # The first error is the one that is raised, and its end is the advice.
  assert "3 saves in a row" in str(refused.value)
  assert str(refused.value).endswith("start the same command again")
  assert len(str(refused.value)) < 1_000
  assert [r for r in caplog.records if r.exc_info] == []  # Orbax's tracebacks


def test_an_error_that_comes_again_while_closing_hides_no_advice(
    store, monkeypatch
):
  def fails(*arguments, **named):
    raise ValueError("RESOURCE_EXHAUSTED: planted")

  with pytest.raises(RuntimeError, match=r"start the same command again$"):
    with checkpoint.Checkpoints(store, every=1) as checkpoints:
      monkeypatch.setattr(checkpoints._manager, "save", fails)
      monkeypatch.setattr(checkpoints._manager, "close", fails)
      for step in (1, 2, 3):
        checkpoints.save(step, make(), {})
  with pytest.raises(ValueError, match="planted"):  # nothing else had failed
    with checkpoint.Checkpoints(store, every=1) as checkpoints:
      monkeypatch.setattr(checkpoints._manager, "close", fails)


def test_a_save_that_cannot_begin_counts_too(store, caplog):
  state = make()
  checkpoints = checkpoint.Checkpoints(store, every=1)
  checkpoints.save(1, state, {})
  checkpoints.wait()
  shutil.rmtree(store)
  store.write_text("a file where the directory was")
  assert not checkpoints.save(2, state, {})
  assert "Checkpoint 2 was not written (1 in a row)" in caplog.text
  store.unlink()
  store.mkdir()
  assert checkpoints.save(3, state, {})
  checkpoints.close()
  same(reopened(store, state, caplog)[0], state)


def test_a_position_that_json_cannot_hold_is_refused(store):
  with checkpoint.Checkpoints(store, every=1) as checkpoints:
    with pytest.raises(TypeError, match="cannot be saved as JSON"):
      checkpoints.save(1, make(), {"examples": np.int64(3)})


@pytest.mark.parametrize("settings, sentence", [
    (dict(directory="here"), "depends on where the program runs"),
    (dict(every=0), "every is 0"),
    (dict(keep=0), "keep is 0"),
    (dict(keep_every=0), "keep_every is 0"),
])
def test_settings_out_of_range_are_refused(store, settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    checkpoint.Checkpoints(**{"directory": store, "every": 1, **settings})
  assert not store.exists()


KILLED = """
import sys
import time
import jax, jax.numpy as jnp
from basic import types
from basic.engine import checkpoint
params = {"kernel": jax.random.normal(jax.random.key(0), (1 << 19,))}
checkpoints = checkpoint.Checkpoints(sys.argv[1], every=1)
for step in range(1, 1000):
  state = types.TrainState(
      jnp.int32(step), {"kernel": params["kernel"] + step}, (), (),
      jax.random.key(step))
  checkpoints.save(step, state, {"examples": step})
  print(step, flush=True)
"""


@pytest.mark.parametrize("delay", [
    .01, *(pytest.param(x, marks=pytest.mark.slow) for x in (0., .03, .1))])
def test_a_process_killed_while_saving_leaves_a_whole_checkpoint(
    store, delay, caplog):
  child = subprocess.Popen(
      [sys.executable, "-c", KILLED, str(store)], stdout=subprocess.PIPE,
      text=True, cwd=pathlib.Path(__file__).parents[2],
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"})
  try:
    begun = next(int(n) for n in child.stdout if int(n) == 3)
    time.sleep(delay)
  finally:
    child.send_signal(signal.SIGKILL)
    rest = child.communicate()[0].split()
  begun = max([begun, *map(int, rest)])
  kernel = jax.random.normal(jax.random.key(0), (1 << 19,))
  like = types.TrainState(
      jnp.int32(0), {"kernel": kernel}, (), (), jax.random.key(0))
  state, position, said = reopened(store, like, caplog)
  step = position["examples"]
  assert all("was not finished: removed" in line for line in said)
  # a step under way when the process died is there or is not; one before it is
  assert begun - 1 <= step <= begun + 1
  same(state, types.TrainState(
      jnp.int32(step), {"kernel": kernel + step}, (), (), jax.random.key(step)))

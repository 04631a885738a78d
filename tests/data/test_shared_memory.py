"""Memory of batches is used again, and never while anybody can see the batch."""

import gc
import os
import pathlib

import jax
import numpy as np
import planted
import pytest

from basic.data import examples, pipeline, shared_memory

LIKE = {
    "image": ((4, 4, 1), np.dtype(np.uint8)), "name": ((), "U"),
    "weight": ((3,), np.dtype(np.float32)), "flag": ((), np.dtype(bool)),
}
AHEAD = 2


@pytest.fixture
def made(monkeypatch):
  """The sizes of all memories that are made during a test."""
  sizes, make = [], shared_memory._memory

  def counted(size):
    sizes.append(size)
    return make(size)

  monkeypatch.setattr(shared_memory, "_memory", counted)
  return sizes


def stream(count=40, workers=2):
  return pipeline.stream(
      planted.Planted(count), prepare=examples.prepare(tokenize=None),
      batch_size=8, seed=3, threads=2, workers=workers, prefetch=AHEAD,
      patience=pipeline.stalls.Patience(60.0, 60.0),
  )


def agrees(batch):
  """Whether all pixels of each row are the number of its example."""
  return (batch["image"] == batch["id"][:, None, None, None]).all()


def mappings(pid):
  """How many memories of batches a process has mapped."""
  gc.collect()  # What JAX has let go of, too.
  maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
  return maps.count("/memfd:batch")


def test_a_loop_uses_the_memory_of_its_batches_again(made):
  with stream() as loader:
    ids = []
    for _ in range(25):
      batch = next(loader)
      assert agrees(batch)
      ids.extend(batch["id"])
    # Those begun ahead, the one that is requested, and the one before it.
    assert len(made) <= AHEAD + 2
    workers = [w.process.pid for w in loader._batches._batches._workers]
    assert all(0 < mappings(pid) <= AHEAD + 2 for pid in workers)
  np.testing.assert_array_equal(ids, loader.ids(0, 200))


VIEWS = {
    "the array": lambda array: array,
    "a slice of a slice": lambda array: array[2:][1:4, ::2].T,
    "another dtype": lambda array: array.view(np.int8).reshape(-1),
    "strides": lambda array: np.lib.stride_tricks.sliding_window_view(array, 2, 0),
    "a subclass": lambda array: array[..., 0].view(np.recarray),
    "a memoryview": lambda array: memoryview(array)[1:],
    "an array of JAX": lambda array: jax.device_put(array),
    "an array of JAX by DLPack": lambda array: jax.dlpack.from_dlpack(array),
}


def test_no_batch_is_written_over_a_view_that_a_caller_holds(made):
  with stream(workers=1) as loader:
    for kind, taken in VIEWS.items():
      batch = next(loader)
      view = taken(batch["image"])
      kept = np.array(view)
      if isinstance(view, jax.Array):
        address = batch["image"].__array_interface__["data"][0]
        assert view.unsafe_buffer_pointer() == address  # It is no copy.
      del batch
      for _ in range(6):
        assert agrees(next(loader))
      np.testing.assert_array_equal(np.asarray(view), kept, kind)
    assert len(made) <= AHEAD + 4  # JAX lets go of a view a little later.


def test_a_caller_may_hold_more_batches_than_are_kept(made):
  before = mappings(os.getpid())
  with stream(count=200) as loader:
    held = [next(loader) for _ in range(24)]
    assert len(made) >= 24 and all(map(agrees, held))
    np.testing.assert_array_equal(
        np.concatenate([batch["id"] for batch in held]), loader.ids(0, 24 * 8)
    )
    del held
    many = len(made)
    for _ in range(20):
      assert agrees(next(loader))
    assert len(made) == many  # From here on memory is used again.
    kept = loader._batches._batches._memories._kept
    pids = [w.process.pid for w in loader._batches._batches._workers]
    assert many > kept and all(mappings(pid) <= kept for pid in pids)
  assert mappings(os.getpid()) == before


def lend(memories, rows=5):
  """(number, arrays, whether the memory is new)."""
  number, arrays, descriptor = memories.lend(LIKE, rows)
  if descriptor is not None:
    os.close(descriptor)
  return number, arrays, descriptor is not None


def test_memory_returns_with_the_last_view_of_any_of_its_fields():
  memories = shared_memory.Memories(2)
  number, arrays, new = lend(memories)
  assert new and list(arrays) == ["image", "weight", "flag"]
  flags = arrays["flag"][1:]
  del arrays
  other, second, new = lend(memories)
  assert new and other != number
  del flags
  assert lend(memories)[0::2] == (number, False)
  del second
  assert lend(memories)[0::2] == (other, False)


def test_memory_beyond_what_is_kept_is_used_once():
  before = mappings(os.getpid())
  memories = shared_memory.Memories(1)
  first, second = lend(memories), lend(memories)
  assert (first[0] is not None) and second[0] is None and second[2]
  assert mappings(os.getpid()) == before + 2
  del second
  assert mappings(os.getpid()) == before + 1
  del first
  assert mappings(os.getpid()) == before + 1
  memories.close()
  assert mappings(os.getpid()) == before


def test_memory_that_is_lent_at_the_end_is_freed_with_its_last_view():
  before = mappings(os.getpid())
  loader = stream(workers=1)
  view = next(loader)["image"][3]
  kept = view.copy()
  loader.close()
  assert mappings(os.getpid()) == before + 1
  np.testing.assert_array_equal(view, kept)
  del view
  assert mappings(os.getpid()) == before


def test_fields_lie_apart_and_aligned():
  _, arrays, _ = lend(shared_memory.Memories(1))
  for value, array in enumerate(arrays.values(), 1):
    array[...] = value % 2
  for value, (name, array) in enumerate(arrays.items(), 1):
    assert (array.shape, array.dtype) == ((5, *LIKE[name][0]), LIKE[name][1])
    assert array.__array_interface__["data"][0] % 64 == 0
    assert (array == value % 2).all()
  assert list(arrays) == ["image", "weight", "flag"]

"""How data is read changes nothing of a run; in which order, it does."""

import pathlib
import resource
import signal
import time

import jax
import numpy as np
import pytest
import tiny

from basic import train
from basic.data import examples, pipeline
from basic.experiment import settings
from basic.pages import report
from basic.recording import in_flight


@pytest.fixture
def toys(monkeypatch):
  """Toys, and no report."""
  tiny.install(monkeypatch)
  monkeypatch.setattr(report, "held_out", lambda *args: None)
  monkeypatch.setattr(report, "write", lambda folder, samples: pathlib.Path(folder))


def test_a_killed_run_goes_on_with_other_workers_bit_for_bit(tmp_path, toys):
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, "step", 7)
    with pytest.raises(tiny.Killed):
      train.train(
          tiny.config(loader=dict(workers=1, threads=2)), tmp_path / "run"
      )
  train.train(tiny.config(loader=dict(threads=3, prefetch=0)), tmp_path / "run")
  tiny.assert_same_run(tmp_path / "run", tiny.whole())


@pytest.mark.slow
def test_a_run_of_workers_survives_sigkill(tmp_path, toys):
  programs = []
  for name, workers in (("one", 1), ("two", 2)):
    path = tmp_path / f"{name}_config.py"
    config = tiny.config(loader=dict(workers=workers, threads=2))
    programs.append((
        "basic.train", "--config", tiny.write_config(path, config),
        "--workdir", tmp_path / "run",
    ))
  assert tiny.program(*programs[0], kill="save 5").returncode == -signal.SIGKILL
  done = tiny.program(*programs[1])
  assert done.returncode == 0, done.stderr
  tiny.assert_same_run(tmp_path / "run", tiny.whole())


def test_another_shuffle_is_another_run(tmp_path, toys):
  with pytest.MonkeyPatch.context() as patch:
    tiny.kill(patch, "save", 5)
    with pytest.raises(tiny.Killed):
      train.train(tiny.config(), tmp_path / "run")
  with pytest.raises(ValueError, match='loader/shuffle: "examples" -> null'):
    train.train(tiny.config(loader=dict(shuffle=None)), tmp_path / "run")


@pytest.mark.parametrize("loader, sentence", [
    (dict(workers=-1), "loader.workers is -1; it takes 0 or more"),
    (dict(threads=0), "loader.threads is 0; it takes a number of at least 1"),
    (dict(prefetch=-2), "loader.prefetch is -2"),
    (dict(worker=1), "did you mean 'workers'"),
])
def test_wrong_settings_get_a_sentence(loader, sentence):
  with pytest.raises(ValueError, match=sentence):
    settings.complete(tiny.config(
        loader=loader, image=None,
        text=dict(name="text_transformer", width=16, depth=1, heads=2),
    ))


def test_a_shuffle_that_the_source_does_not_offer_is_refused(tmp_path, toys):
  with pytest.raises(ValueError, match="does not say where its shards begin"):
    train.train(tiny.config(loader=dict(shuffle="shards")), tmp_path / "run")
  assert not (tmp_path / "run" / "config.json").exists()


def test_no_more_than_two_steps_are_on_the_devices(tmp_path, toys, monkeypatch):
  begun, waited = [], []
  add, wait = in_flight.Pending.add, jax.block_until_ready

  def added(self, n, metrics):
    begun.append(metrics["loss"])
    add(self, n, metrics)
    # Step n runs; the one before it is done, and its batch is freed.
    assert n in (1, 6, 11) or waited[-1] is begun[-2]

  def waited_for(tree):
    if isinstance(tree, dict) and "loss" in tree:
      waited.append(tree["loss"])
    return wait(tree)

  monkeypatch.setattr(in_flight.Pending, "add", added)
  monkeypatch.setattr(jax, "block_until_ready", waited_for)
  train.train(tiny.config(evals={}), tmp_path / "run")
  # After a checkpoint, for which all steps are waited for, nothing is pending.
  assert len(begun) == 12 and len(waited) == 9


class Endless:
  """As many small examples as wanted, without an index."""

  def __init__(self, count):
    self._count = count

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    return {"image": np.full((32, 32, 3), index % 256, np.uint8), "id": index}


def peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_hundred_million_examples_begin_at_once():
  before, began = peak(), time.process_time()
  ids = []
  for start in (0, 10**8 - 512):
    with pipeline.stream(
        Endless(10**8), prepare=examples.prepare(tokenize=None), seed=0,
        batch_size=512, start=start, threads=2,
    ) as batches:
      ids.append(next(batches)["id"])
  assert time.process_time() - began < 5
  assert peak() - before < 2**26  # A permutation would take 400 MB or more.
  assert len(set(np.concatenate(ids).tolist())) == 1024


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_is_flat_over_a_hundred_thousand_examples(workers):
  with pipeline.stream(
      Endless(20_000), prepare=examples.prepare(tokenize=None), seed=0,
      batch_size=500, threads=2, workers=workers,
  ) as batches:
    for _ in range(20):
      next(batches)
    before = peak()
    for _ in range(200):
      next(batches)
  assert peak() - before < 2**25  # 300 MB of pixels have passed.

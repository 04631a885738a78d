"""Processes that read an evaluation's data together find what one alone finds."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

from basic import train, types
from basic.data import examples, pipeline
from basic.engine import shared_rows
from basic.experiment import restore

PROCESS = """
import json, sys
from basic.sharding import layout
layout.join()
import tiny
tiny.one_device = lambda patch: None
import test_shared_evaluation as test
print("found", json.dumps(test.found(sys.argv[1])))
"""


class Odd:
  """Examples with as many captions as they like, a text, and some unreadable."""

  def __init__(self):
    self.reads = []

  def __len__(self):
    return 21

  def __getitem__(self, index):
    self.reads.append(index)
    if index % 5 == 1 or 8 <= index < 12:  # In one batch all rows of a process.
      raise types.Unreadable("torn")
    return {
        "image": np.full((2, 2, 1), index, np.uint8), "label": np.int32(index),
        "text": ("a",) * (1 + index % 3), "name": np.array("x" * index),
        "text_languages": ("en", "de", "")[:1 + index % 3],
    }


def found(folder):
  """All that processes together, or one alone, find; JSON data."""
  with pytest.MonkeyPatch.context() as patch:
    tiny.install(patch)
    stage, state = restore.load(folder)
    with stage.program.layout.context():
      metrics = {e.prefix: e.run(state.params) for e in stage.evals}
      return {"metrics": metrics, **_rows(stage.program.layout)}


def _rows(placement):
  """What `shared` gives of a difficult source, and who read what."""
  source = Odd()
  prepare = examples.prepare(tokenize=lambda text: np.array([7, len(text)], np.int32))
  with pipeline.once(
      source, prepare=prepare, batch_size=8, threads=0,
      shard=(jax.process_index(), jax.process_count()),
  ) as rows:
    batches = []
    everywhere = jax.jit(lambda x: x, out_shardings=placement.everywhere)
    for fields, mask in shared_rows.shared(rows, placement, {"image"}):
      image = np.asarray(everywhere(fields["image"]))[mask].tolist()
      others = {
          name: x[mask].tolist() for name, x in fields.items() if name != "image"
      }
      batches.append([image, others, mask.tolist()])
    unreadable = shared_rows.total(rows.unreadable)
  return {
      "batches": batches, "unreadable": unreadable,
      "reads": sorted(set(source.reads)),
  }


def started(*arguments, rank, port):
  """One of two processes."""
  environment = {
      **os.environ, "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": "",
      "PYTHONPATH": os.pathsep.join([str(tiny.ROOT), str(tiny.ROOT / "tests")]),
      "OMPI_MCA_orte_hnp_uri": f"1531576320.0;tcp://127.0.0.1:{port}",
      "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(rank),
      "OMPI_COMM_WORLD_LOCAL_RANK": str(rank), "JAX_COORDINATOR_PORT": str(port),
  }
  return subprocess.Popen(
      [sys.executable, "-c", PROCESS, *map(str, arguments)], env=environment,
      cwd=tiny.ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )


def test_two_processes_read_half_each_and_find_what_one_finds(tmp_path, monkeypatch):
  tiny.install(monkeypatch)
  train.train(tiny.config(steps=1), tmp_path)
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  processes = [started(tmp_path, rank=rank, port=port) for rank in range(2)]
  said = [process.communicate(timeout=300) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  first, second = (
      json.loads(next(x for x in out.splitlines() if x.startswith("found "))[6:])
      for out, _ in said
  )
  alone = json.loads(json.dumps(found(tmp_path)))
  reads = [first.pop("reads"), second.pop("reads")]
  assert first == second
  assert first["batches"] == alone["batches"]
  assert first["unreadable"] == alone["unreadable"] == {"torn": 7}
  assert first["metrics"].keys() == alone["metrics"].keys()
  for name, metrics in alone["metrics"].items():
    # Where two scores are a rounding apart, a rank moves by one: that shows in
    # the mean rank of 16 images, by less than this, and would in a recall.
    assert first["metrics"][name] == pytest.approx(metrics, rel=0.01)
  # Rows 0 to 3 of each batch of 8 are the first process's. It reads another row
  # where none of its own in a batch is readable.
  assert {n for n in reads[1] if n % 8 < 4} <= {0}
  assert {n for n in reads[0] if n % 8 >= 4} <= {0}

"""A run small enough to be trained many times in one test.

Its towers are toys, its data is real. As a program it runs one of ours with the
toys in place: `python tiny.py basic.evaluate --workdir ...`. With TINY_KILL, say
"save 5", it kills itself there without warning.
"""

import atexit
import functools
import json
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import jax
import numpy as np
import pytest
import toys

from basic import paths, train, types
from basic.engine import checkpoint
from basic.experiment import build, restore, schema, settings
from basic.pages import report
from basic.recording import manifest, recorder
from basic.sources import digits

ROOT = pathlib.Path(__file__).resolve().parent.parent
OF_DATA = (
    "source", "tokenizer", "evals", "checkpoint", "record", "stages", "steps",
)
_PAGE = {name: getattr(report, name) for name in ("held_out", "write")}
CLOCKED = ("time", "throughput/examples_per_second")


def scenes(**changes):
  return dict(name="digits", canvas=24, channels=1, **changes)


def config(**changes):
  """A run of 12 steps that evaluates after 4 and 8 and saves after 5 and 10."""
  return dict(
      steps=12, batch_size=16,
      source=scenes(length=300),
      image=dict(name="toy", dropout=0.2),
      text=dict(name="toy", dropout=0.2),
      projection=dict(width=8),
      objective=dict(name="softmax", distinct="caption_id"),
      gradient=dict(name="cached", chunks=2),
      optimizer=dict(name="adamw", peak=1e-2, warmup=2),
      tokenizer=dict(captions=50),
      evals=dict(
          single=dict(
              name="zeroshot", every=4, batch_size=8, limit=16,
              source=scenes(split="test", kind="single")),
          scenes=dict(
              name="retrieval", batch_size=8, limit=16,
              source=scenes(split="test", length=40)),
      ),
      checkpoint=dict(every=5), record=dict(every=1, tensorboard=False),
  ) | changes


def toy(
    *,
    hidden: int = 16,
    width: int = 8,
    dropout: float = 0.0,
    vocab: int = 64,
    length: int = 12,
) -> types.Encoder:
  """Two layers over flattened rows; compiles in no time."""
  del vocab, length  # read by whoever makes the vocabulary
  return toys.tower(hidden, width, dropout)


class _Faulty:
  classes = ()

  def __init__(self, length, torn, wordless, hangs):
    self._good = digits.digits(canvas=24, channels=1, length=max(length, 1))
    self._length, self._torn, self._wordless = length, torn, wordless
    self._hangs = hangs

  def __len__(self):
    return self._length

  def __getitem__(self, index):
    if index == self._hangs:
      threading.Event().wait()
    if self._torn and index % self._torn == 0:
      raise types.Unreadable("truncated image", "it ends after 12 bytes")
    example = self._good[index]
    if self._wordless and index % self._wordless == self._wordless - 1:
      return {**example, "text": (17, b"seven")}
    return example


def faulty(
    *, length: int = 300, torn: int = 0, wordless: int = 0,
    hangs: int | None = None,
) -> types.Source:
  """Digits of which every so many are broken; 0: none. `hangs` is one."""
  return _Faulty(length, torn, wordless, hangs)


_programs = {}


def install(patch: pytest.MonkeyPatch) -> None:
  """Adds the toys to the plug-ins, and leaves one device for the mesh."""
  plugin, made = schema.plugin, build.program
  known = {"toy": toy, "faulty": faulty}
  patch.setattr(
      schema, "plugin", lambda folder, name: known.get(name) or plugin(folder, name)
  )

  def program(config, mesh, shapes, *, steps):
    # What is compiled is the same for every run of the same settings.
    own = {k: x for k, x in config.items() if k not in OF_DATA}
    key = json.dumps(own, sort_keys=True), repr((mesh, shapes, steps))
    if key not in _programs:
      _programs[key] = made(config, mesh, shapes, steps=steps)
    return _programs[key]

  patch.setattr(build, "program", program)
  # Collectives between virtual devices are slow, and tested elsewhere.
  one_device(patch)


def one_device(patch: pytest.MonkeyPatch) -> None:
  """Leaves one device for meshes."""
  devices = jax.devices()[:1]
  patch.setattr(jax, "devices", lambda *of: devices)


class Killed(BaseException):
  """What no handler catches."""


def kill(patch: pytest.MonkeyPatch, where: str, step: int, how=None) -> None:
  """Ends training at a moment of a step.

  Args:
    patch: undoes it.
    where: "step" after its dispatch, "save" when one was started, or
      "evaluation" in the middle of one.
    step: of the run.
    how: what to do; None raises `Killed`.
  """

  def die():
    raise Killed(f"{where} {step}")

  how, now = how or die, [0]
  progress, save = recorder.Recorder.progress, checkpoint.Checkpoints.save

  def progressed(self, n):
    now[0] = n
    progress(self, n)
    if where == "step" and n == step:
      how()

  def saved(self, n, *args, **kwargs):
    found = save(self, n, *args, **kwargs)
    if where == "save" and n == step:
      how()
    return found

  class Judge:
    def __init__(self, run):
      self._run = run

    def __call__(self, params):
      found = self._run(params)
      if where == "evaluation" and now[0] == step:
        how()
      return found

  run = build.run

  def built(*args):
    return [
        stage._replace(evals=tuple(
            e._replace(run=Judge(e.run)) for e in stage.evals
        ))
        for stage in run(*args)
    ]

  patch.setattr(recorder.Recorder, "progress", progressed)
  patch.setattr(checkpoint.Checkpoints, "save", saved)
  patch.setattr(build, "run", built)


def rows(workdir):
  """The lines of metrics.jsonl without what depends on the clock."""
  found = [
      {
          k: x for k, x in row.items()
          if k not in CLOCKED and not k.endswith("/seconds")
      }
      for row in recorder.read(workdir)
  ]
  return [row for row in found if set(row) != {"step"}]


def losses(workdir):
  """[(step, loss)] in the order of the file."""
  return [(r["step"], r["loss"]) for r in rows(workdir) if "loss" in r]


def parameters(workdir, step=None):
  """All parameters of a checkpoint by path, on the host."""
  _, state = restore.load(workdir, step)
  return {k: np.asarray(x) for k, x in paths.flatten(state.params).items()}


def assert_same_run(found, expected):
  """Two folders hold the same numbers and parameters, bit for bit."""
  assert rows(found) == rows(expected)
  theirs, ours = parameters(expected), parameters(found)
  assert ours.keys() == theirs.keys()
  for path, leaf in theirs.items():
    np.testing.assert_array_equal(ours[path], leaf, err_msg=path, strict=True)


@functools.cache
def whole() -> pathlib.Path:
  """The folder of a run that nothing interrupted. Not to be written to."""
  parent = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, parent)
  folder = pathlib.Path(parent) / "whole"
  with pytest.MonkeyPatch.context() as patch:
    install(patch)
    for name, own in _PAGE.items():  # The test that asks first may do without.
      patch.setattr(report, name, own)
    train.train(config(), folder)
  return folder


def begin(folder):
  """A run that has begun and saved nothing."""
  complete = settings.complete(config())
  build.run(complete, folder)
  manifest.begin(folder, complete, command=["train"])


def files(folder):
  """Bytes and time of every file below a folder."""
  return {
      str(path): (path.read_bytes(), path.stat().st_mtime_ns)
      for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file()
  }


def write_config(path, plain):
  """A configuration file as a person would write it."""
  path.write_text(
      "import json\nfrom ml_collections import ConfigDict\n\n"
      "def get_config():\n"
      f"  return ConfigDict(json.loads({json.dumps(plain)!r}))\n"
  )
  return path


def program(*arguments, kill="", toys=True, timeout=300):
  """Runs `python -m ARGUMENTS`; returns the finished process."""
  environment = {
      **os.environ, "TINY_KILL": kill,
      "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
  }
  start = [str(ROOT / "tests" / "tiny.py")] if toys else ["-m"]
  return subprocess.run(
      [sys.executable, *start, *map(str, arguments)], env=environment, cwd=ROOT,
      capture_output=True, text=True, timeout=timeout,
  )


def main():
  with pytest.MonkeyPatch.context() as patch:
    install(patch)
    if moment := os.environ.get("TINY_KILL"):
      where, step = moment.split()
      kill(patch, where, int(step), lambda: os.kill(os.getpid(), signal.SIGKILL))
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()

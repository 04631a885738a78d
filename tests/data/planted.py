"""Sources for worker processes, which import them from here."""

import os
import signal
import time

import numpy as np

from basic import types


class Planted:
  """Small images that say their index; `faults`: index -> what happens there."""

  def __init__(self, count, faults=None, text="caption"):
    self._count, self._faults, self._text = count, dict(faults or {}), text
    self.fingerprint = "planted"

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    fault = self._faults.get(index)
    if fault == "unreadable":
      raise types.Unreadable("truncated image", "planted")
    if fault == "error":
      raise OSError("disk gone")
    if fault == "strange":
      raise Strange(1, 2)
    if fault == "killed":
      os.kill(os.getpid(), signal.SIGKILL)
    if fault == "slowly":
      time.sleep(0.9)
    if fault == "slow":
      time.sleep(60)
    return {
        "image": np.full((4, 4, 1), index % 256, np.uint8),
        "text": f"{self._text} {index}",
        "name": "x" * (index % 5 + 1),
        "id": index,
        "process": os.getpid(),
    }


class Strange(Exception):
  """An error that a copy cannot be made of."""

  def __init__(self, one, two):
    super().__init__(f"{one} and {two}")


class Ragged:
  """Images of two sizes."""

  def __init__(self, count):
    self._count = count

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    return {"image": np.zeros((4, 4 + index % 2, 1), np.uint8)}


class Devices:
  """Says whether JAX has devices in the process that reads."""

  def __init__(self, count):
    self._count = count

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    from jax._src import xla_bridge

    return {
        "id": index, "process": os.getpid(),
        "initialised": bool(xla_bridge._backends),
    }

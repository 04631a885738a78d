"""Steps on their way: dispatched to the devices, and not yet read.

Reading a step's loss waits for the step. So metrics are left where they are
for a while and read together; then they are checked and written down.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from basic import types
from basic.data import pipeline
from basic.recording import recorder

# Steps in flight at most: keeps the devices busy without queueing batches.
AHEAD = 20


class Flight:
  """The steps of one stage that were dispatched and not yet read.

  Args:
    end: the step at which their stage ends; it is always recorded.
    every: steps between two that are recorded.
    batch_size: rows of the stage's global batch.
    rate: step of the run -> learning rate.
    stream: from which their batches came.
    record: where their numbers go.
    good: gives the step of the newest checkpoint, or None.
    unreadable: reads that failed before this stream was opened, by reason.
  """

  def __init__(
      self,
      *,
      end: int,
      every: int,
      batch_size: int,
      rate: Callable[[int], Any],
      stream: pipeline.Stream,
      record: recorder.Recorder,
      good: Callable[[], int | None],
      unreadable: Mapping[str, int],
  ):
    self._end, self._every, self._batch_size = end, every, batch_size
    self._rate, self._stream, self._recorder = rate, stream, record
    self._good = good
    self._before, self._written = unreadable, dict(unreadable)
    self._steps: list[tuple[int, int, Any]] = []

  def add(self, n: int, metrics: types.Metrics) -> None:
    """Notes that step n was dispatched, with the newest batch of the stream."""
    self._steps.append((n, self._stream.position, metrics))

  def full(self) -> bool:
    """Whether so many are on their way that reading is due."""
    return len(self._steps) >= AHEAD

  def land(self) -> None:
    """Waits for all of them, checks them and writes them down.

    Raises:
      FloatingPointError: if a loss or a gradient is not finite. It is written
        down, and so is what came before it; what came after it is not.
    """
    found, self._steps = jax.device_get(self._steps), []
    for n, seen, metrics in found:
      # A gradient that came chunk by chunk has no norm.
      watched = [metrics[k] for k in ("loss", "gradient_norm") if k in metrics]
      if not all(map(math.isfinite, watched)):
        self._recorder.write(n, metrics)
        said = "loss is {}, the gradient's norm {}".format(*watched, "not known")
        raise self._error(n, seen, said)
      if n % self._every == 0 or n == self._end:
        self._recorder.write(n, {
            **metrics, "learning_rate": self._rate(n), "examples_seen": seen,
        })
    if found:
      self._write_data(found[-1][0])

  def check(self, n: int, params: types.Params) -> None:
    """Waits for the newest step, n, and checks what it made of the parameters.

    Raises:
      FloatingPointError: if one is not finite: an update can overflow though
        its loss and its gradient did not.
    """
    if not _finite(params):
      raise self._error(n, self._stream.position, "its update is not finite")

  def unreadable(self) -> dict[str, int]:
    """Reads that failed since the run began, by reason."""
    now = self._stream.unreadable
    return {
        reason: self._before.get(reason, 0) + now.get(reason, 0)
        for reason in sorted({*self._before, *now})
    }

  def _write_data(self, n):
    """How fast the data came since the last time, and what of it was bad."""
    row, unreadable = {}, self.unreadable()
    if rate := self._recorder.rate():
      row["throughput/examples_per_second"] = rate
    if unreadable != self._written:
      row |= {f"data/unreadable/{k}": x for k, x in unreadable.items()}
      self._written = unreadable
    if row:
      self._recorder.write(n, row)

  def _error(self, n, seen, found):
    """Says which step it was, what its batch held, and what to do."""
    ids = self._stream.ids(seen - self._batch_size, seen).tolist()
    shown = ", ".join(map(str, ids[:64])) + (", ..." if len(ids) > 64 else "")
    good = self._good()
    return FloatingPointError(
        f"step {n}: {found}; training stopped. Its batch held the examples "
        f"{shown}. The last good checkpoint is "
        f"{'none' if good is None else f'that of step {good}'}. Lower the rate "
        "or clip the gradient, in a new workdir."
    )


@jax.jit
def _finite(params):
  return jnp.all(
      jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)])
  )

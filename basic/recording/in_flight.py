"""Metrics of steps that were dispatched to the devices and not yet read.

Reading a step's loss blocks until the step is done. So metrics stay on the
device for some steps and are then transferred, checked and recorded together.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from basic import types
from basic.data import pipeline
from basic.recording import recorder

# Most steps whose metrics wait to be read.
AHEAD = 20


class Pending:
  """The steps of one stage that were dispatched and not yet read.

  Args:
    end: the step at which their stage ends; it is always recorded.
    every: steps between two recorded ones.
    batch_size: examples in the stage's global batch.
    rate: step of the run -> learning rate.
    stream: the stream that their batches come from.
    record: writes their metrics.
    last_saved: returns the step of the newest checkpoint, or None.
    unreadable: number of examples that could not be read before this stream was
      opened, by reason.
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
      last_saved: Callable[[], int | None],
      unreadable: Mapping[str, int],
  ):
    self._end, self._every, self._batch_size = end, every, batch_size
    self._rate, self._stream, self._recorder = rate, stream, record
    self._last_saved = last_saved
    self._before, self._recorded = unreadable, dict(unreadable)
    self._steps: list[tuple[int, int, Any]] = []

  def add(self, n: int, metrics: types.Metrics) -> None:
    """Adds step n, which was dispatched with the newest batch of the stream.

    Waits for the step before it. So there are two batches on the devices, that of
    step n and the next, which is copied there while step n runs. Dispatching
    further ahead would gain nothing, and hold a batch for each step.
    """
    if self._steps:
      jax.block_until_ready(self._steps[-1][2])
    self._steps.append((n, self._stream.position, metrics))

  def full(self) -> bool:
    """Whether enough steps are pending for `flush` to be called."""
    return len(self._steps) >= AHEAD

  def flush(self) -> None:
    """Waits for all pending steps, checks and records their metrics.

    Raises:
      FloatingPointError: if a loss or a gradient is not finite. That step and
        those before it are recorded; those after it are not.
    """
    steps, self._steps = jax.device_get(self._steps), []
    for n, seen, metrics in steps:
      # Methods that apply gradients chunk by chunk report no gradient norm.
      watched = [metrics[k] for k in ("loss", "gradient_norm") if k in metrics]
      if not all(map(math.isfinite, watched)):
        self._recorder.write(n, metrics)
        fault = "loss is {}, gradient norm {}".format(*watched, "not known")
        raise self._error(n, seen, fault)
      if n % self._every == 0 or n == self._end:
        self._recorder.write(n, {
            **metrics, "learning_rate": self._rate(n), "examples_seen": seen,
        })
    if steps:
      self._record_data(steps[-1][0])

  def check(self, n: int, params: types.Params) -> None:
    """Waits for the newest step, n, and checks the parameters after it.

    Raises:
      FloatingPointError: if one is not finite: an update can overflow even if
        loss and gradient are finite.
    """
    if not _finite(params):
      raise self._error(n, self._stream.position, "its update is not finite")

  def unreadable(self) -> dict[str, int]:
    """Number of unreadable examples since the run began, by reason."""
    now = self._stream.unreadable
    return {
        reason: self._before.get(reason, 0) + now.get(reason, 0)
        for reason in sorted({*self._before, *now})
    }

  def _record_data(self, n):
    """Records the throughput since the last call, and unreadable examples."""
    row, unreadable = {}, self.unreadable()
    if rate := self._recorder.rate():
      row["throughput/examples_per_second"] = rate
    if unreadable != self._recorded:
      row |= {f"data/unreadable/{k}": x for k, x in unreadable.items()}
      self._recorded = unreadable
    if row:
      self._recorder.write(n, row)

  def _error(self, n, seen, fault):
    """An error that names the step and its examples, and says what to do."""
    ids = self._stream.ids(seen - self._batch_size, seen).tolist()
    shown = ", ".join(map(str, ids[:64])) + (", ..." if len(ids) > 64 else "")
    saved = self._last_saved()
    return FloatingPointError(
        f"step {n}: {fault}; training stopped. Its batch held the examples "
        f"{shown}. The last good checkpoint is "
        f"{'none' if saved is None else f'that of step {saved}'}. Lower the "
        "learning rate or clip the gradient, in a new workdir."
    )


@jax.jit
def _finite(params):
  """Whether all values of all parameters are finite."""
  return jnp.all(
      jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)])
  )

"""Metrics of steps that were dispatched to the devices and not yet read.

Reading a step's loss blocks until the step is done. So metrics stay on the
device for some steps and are then transferred, checked and recorded together.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from basic import cli, types
from basic.data import damage, pipeline
from basic.recording import quarantine, recorder

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
    tally: of the examples that could not be read before this stream was opened.
    limit: how many may be.
    listed: where they are listed.
    exchange: gives all processes what each has, in their order.
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
      tally: damage.Tally,
      limit: damage.Limit,
      listed: quarantine.Quarantine,
      exchange: Callable[[Any], list[Any]],
  ):
    self._end, self._every, self._batch_size = end, every, batch_size
    self._rate, self._stream, self._recorder = rate, stream, record
    self._last_saved = last_saved
    self.tally, self._limit = tally, limit
    self._listed, self._exchange = listed, exchange
    self._recorded = self._data(stream.position)
    self._steps: list[tuple[int, int, Any]] = []
    self._failures: list[tuple[int, damage.Failure]] = []

  def add(self, n: int, metrics: types.Metrics) -> None:
    """Adds step n, which was dispatched with the newest batch of the stream.

    Waits for the step before it. So there are two batches on the devices, that of
    step n and the next, which is copied there while step n runs. Dispatching
    further ahead would gain nothing, and hold a batch for each step.
    """
    if self._steps:
      jax.block_until_ready(self._steps[-1][2])
    self._steps.append((n, self._stream.position, metrics))
    rows = self._batch_size // jax.process_count()
    first = (
        self._stream.position - self._batch_size + jax.process_index() * rows
    )
    self._failures += [(first + f.row, f) for f in self._stream.failures]

  def full(self) -> bool:
    """Whether enough steps are pending for `flush` to be called."""
    return len(self._steps) >= AHEAD

  def flush(self) -> None:
    """Waits for all pending steps, checks and records their metrics.

    All processes of a run call it after the same step.

    Raises:
      FloatingPointError: if a loss or a gradient is not finite. That step and
        those before it are recorded; those after it are not.
      cli.DamagedData: if too many examples could not be read, on all processes
        alike. All pending steps are recorded.
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
      excess = self._account(steps[-1][1])
      self._record_data(*steps[-1][:2])
      if excess is not None:
        raise self._damaged(excess)

  def check(self, n: int, params: types.Params) -> None:
    """Waits for the newest step, n, and checks the parameters after it.

    Raises:
      FloatingPointError: if one is not finite: an update can overflow even if
        loss and gradient are finite.
    """
    if not _finite(params):
      raise self._error(n, self._stream.position, "its update is not finite")

  def _account(self, position):
    """Counts and lists what no process could read; a sentence if it is too much."""
    source = getattr(self._stream.source, "fingerprint", None)
    own, self._failures = self._failures, []
    whole = {failure.example: failure for _, failure in own}
    listed = {k for k in whole if not self._listed.new(source, k)}
    parts = self._exchange([
        (at, *(f._replace(message="", where="") if f.example in listed else f))
        for at, f in own
    ])
    failures = [
        (at, damage.Failure(*rest)) for part in parts for at, *rest in part
    ]
    failures = [
        (at, f if f.message else _restored(f, whole.get(f.example)))
        for at, f in sorted(failures, key=lambda each: (each[0], each[1].attempt))
    ]
    self._listed.add(source, (failure for _, failure in failures))
    self.tally, excess = damage.add(
        self.tally, failures, position, self._limit
    )
    return excess

  def _data(self, position):
    """The metrics of the examples that could not be read."""
    if not self.tally.reads:
      return {}
    return {
        **{f"data/unreadable/{k}": n for k, n in self.tally.reads.items()},
        "data/substituted": self.tally.substituted,
        "data/unreadable_fraction": self.tally.fraction(position, self._limit),
    }

  def _record_data(self, n, position):
    """Records the throughput since the last call, and unreadable examples."""
    row, data = {}, self._data(position)
    if rate := self._recorder.rate():
      row["throughput/examples_per_second"] = rate
    if data != self._recorded:
      row |= data
      self._recorded = data
    if row:
      self._recorder.write(n, row)

  def _damaged(self, excess):
    """An error that says what was found, and what to do."""
    saved = self._last_saved()
    since = (
        "there is no checkpoint yet" if saved is None
        else f"the newest checkpoint is that of step {saved}"
    )
    return cli.DamagedData(
        f"{excess}\nAll are in {self._listed.path}. Training stopped; {since}. "
        "Restore the files as they were when the run began and start the same "
        "command again; or, if so much of the data is really lost, raise "
        "unreadable.most, which a run that has begun may change."
    )

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


def _restored(
    failure: damage.Failure, own: damage.Failure | None
) -> damage.Failure:
  """A failure with the texts that were not exchanged, where this process has them."""
  if own is None:
    return failure._replace(message=failure.reason)
  return failure._replace(message=own.message, where=own.where)


@jax.jit
def _finite(params):
  """Whether all values of all parameters are finite."""
  return jnp.all(
      jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)])
  )

"""Records a run: its settings, its metrics and its progress.

A run's folder holds

    config.json     the complete configuration (`manifest`)
    run.json        command, versions, devices, and when it was started
    metrics.jsonl   the metrics, one JSON object per line (`journal`)
    tensorboard/    the same metrics for TensorBoard

Values that depend on the clock have their own names, "time" and by convention
"throughput/...", so that all other metrics of an interrupted run can be compared
line by line with those of an uninterrupted one.
"""

import collections
import contextlib
import io
import os
import pathlib
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import tensorboardX

from basic import files
from basic.recording import journal, manifest, progress

begin = manifest.begin
read = journal.read
curve = journal.curve


def table(results: Mapping[str, Any]) -> str:
  """Formats results as lines of text, grouped by the prefix of their names.

  Example:
    >>> print(table({"zeroshot/top1": 0.5, "retrieval/image_to_text@1": 0.25}))
    retrieval/image_to_text@1  0.2500
    <BLANKLINE>
    zeroshot/top1              0.5000
  """
  width = max((len(name) for name in results), default=0)
  groups = collections.defaultdict(list)
  for name in sorted(results):
    line = f"{name:<{width}}  {float(results[name]):#.4g}"
    groups[name.rpartition("/")[0]].append(line)
  return "\n\n".join("\n".join(lines) for lines in groups.values())


class Recorder:
  """Writes metrics as they come, and shows the progress of the run.

  In a run of several processes only the first one writes.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   with Recorder(folder, total=2, batch_size=8) as recorder:
    ...     recorder.write(1, {"loss": 2.0})
    ...   print(read(folder)[0]["loss"])
    2.0
  """

  def __init__(
      self,
      workdir: str | os.PathLike,
      *,
      total: int,
      batch_size: int,
      start: int = 0,
      every: float = 10.0,
      tensorboard: bool = True,
      wandb: Mapping[str, Any] | None = None,
      stream: progress.Stream | None = None,
      clock: Callable[[], float] = time.monotonic,
  ):
    """Opens the files of a run that starts or resumes.

    Args:
      workdir: the run's folder; created if it does not exist.
      total: steps of the whole run.
      batch_size: examples per step.
      start: steps already taken; lines of later steps are removed.
      every: seconds between two lines of progress without a terminal.
      tensorboard: whether to write for TensorBoard, in `tensorboard/`.
      wandb: arguments of `wandb.init`; None leaves Weights & Biases out.
      stream: where progress is printed; standard error if None.
      clock: returns seconds, from any origin.

    Raises:
      ValueError: if a line of metrics.jsonl other than the last is not valid.
      ModuleNotFoundError: if `wandb` is set and not installed.
    """
    writes = jax.process_index() == 0
    self._progress = progress.Progress(
        total=total, batch_size=batch_size, start=start, every=every,
        stream=(stream or sys.stderr) if writes else None, clock=clock,
    )
    self._file: io.BufferedWriter | None = None
    self._board = self._wandb = None
    if not writes:
      return
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    if wandb is not None:
      self._wandb = _weights_and_biases(folder, wandb)
    if dropped := journal.truncate(folder, start):
      self._progress.say(
          f"{journal.NAME}: removed {dropped} lines, incomplete or after step "
          f"{start}"
      )
    self._file = open(folder / journal.NAME, "ab")
    if tensorboard:
      self._board = tensorboardX.SummaryWriter(
          str(folder / "tensorboard"), purge_step=start + 1 if start else None
      )

  def write(
      self, step: int, metrics: Mapping[str, Any], prefix: str = ""
  ) -> None:
    """Appends one line with every metric under `prefix` + its name.

    Arrays on a device are transferred together, which blocks until the step
    that computes them is done: do not call this at every step.

    Args:
      step: steps taken when the metrics were measured.
      metrics: scalars, on a device or in host memory.
      prefix: prepended to every name: "retrieval/".

    Raises:
      ValueError: if a metric is not a scalar, or is named "step" or "time", or
        if the recorder is closed.
    """
    if self._file is None:
      return
    fetched = jax.device_get(dict(metrics))
    values = {prefix + n: _scalar(prefix + n, x) for n, x in fetched.items()}
    row = {"step": int(step), "time": round(time.time(), 3)}
    _append(self._file, journal.line({**row, **values}))
    if "loss" in values:
      self._progress.note(f"loss {values['loss']:.4g}")
    if self._board is not None:
      for name, value in values.items():
        self._board.add_scalar(name, value, row["step"])
    if self._wandb is not None:
      self._wandb.log({"step": row["step"], **values})

  def progress(self, step: int) -> None:
    """Updates the number of steps taken, and prints it from time to time.

    Reads nothing from a device. Call it after every step; the first call
    starts the clock of `rate`, so that compilation does not count.
    """
    self._progress.at(step)

  def resize(self, batch_size: int) -> None:
    """Begins a stage with another batch size; its speed is measured anew."""
    self._progress.resize(batch_size)

  def rate(self) -> float:
    """Examples per second since the last call, which starts a new interval.

    Calling it once after an evaluation excludes the time of the evaluation. 0
    before the second step.
    """
    return self._progress.rate()

  def show(self, results: Mapping[str, Any]) -> None:
    """Prints results as a `table`, without breaking the progress bar."""
    if self._file is not None:
      self._progress.say(table(jax.device_get(dict(results))))

  def sync(self) -> None:
    """Flushes all lines to disk, so that they survive a loss of power."""
    if self._file is None or self._file.closed:
      return
    self._file.flush()
    os.fsync(self._file.fileno())
    if self._board is not None:
      self._board.flush()

  def close(self) -> None:
    """Syncs and closes everything. May be called twice."""
    with contextlib.ExitStack() as stack:  # Closes the others if one fails.
      if self._wandb is not None:
        stack.callback(self._wandb.finish)
      if self._board is not None:
        stack.callback(self._board.close)
      if self._file is not None:
        stack.callback(self._file.close)
      stack.callback(self._progress.close)
      stack.callback(self.sync)
      self._wandb = None

  def __enter__(self) -> "Recorder":
    return self

  def __exit__(self, *error: Any) -> None:
    if error and error[0] is not None:
      # Show the error that ended the run, not one of closing the files.
      with contextlib.suppress(OSError):
        self.close()
    else:
      self.close()


def _append(file: io.BufferedWriter, line: bytes) -> None:
  """Writes a whole line at once, so that a kill can tear only the last one."""
  try:
    file.write(line)
    file.flush()
  except OSError as error:
    error.filename = error.filename or file.name
    raise


def _scalar(name: str, value: Any) -> float | int:
  """A Python number from a scalar in host memory."""
  if name in ("step", "time"):
    raise ValueError(
        f"A metric is named {name!r}, which every line has already. Rename it, "
        "or give a prefix."
    )
  array = np.asarray(value)
  if array.shape:
    raise ValueError(
        f"The metric {name!r} has shape {array.shape}; a metric is a scalar. "
        "Reduce it, or give each entry its own name."
    )
  return int(array) if array.dtype.kind in "iub" else float(array)


def _weights_and_biases(
    folder: pathlib.Path, settings: Mapping[str, Any]
) -> Any:
  """Opens the Weights & Biases run of this folder, the same after a resume."""
  try:
    import wandb
  except ImportError as error:
    raise ModuleNotFoundError(
        "record.wandb is set, but the package `wandb` is not installed. Install "
        "basic[wandb], or leave the setting out."
    ) from error
  path = folder / "wandb_id"
  if not path.exists():
    files.replace(path, secrets.token_hex(8).encode())
  identity = {"id": path.read_text(), "resume": "allow", "dir": str(folder)}
  run = wandb.init(**{**identity, **settings})
  # Its built-in step cannot decrease, but a resumed run repeats steps.
  run.define_metric("*", step_metric="step")
  return run

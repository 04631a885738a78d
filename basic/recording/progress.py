"""Shows progress: a bar on a terminal, a line every few seconds elsewhere."""

import io
import time
from collections.abc import Callable
from typing import TextIO, TypeAlias

import tqdm

# A text stream: sys.stderr is typed as the first, io.StringIO is the second.
Stream: TypeAlias = TextIO | io.TextIOBase


class _Bar(tqdm.tqdm):
  """A progress bar without the monitoring thread of tqdm."""

  monitor_interval = 0


class Progress:
  """Counts steps, measures speed, and estimates the time left.

  Example:
    >>> import io
    >>> seconds = iter([0.0, 20.0, 20.0])
    >>> progress = Progress(
    ...     total=4, batch_size=100, stream=io.StringIO(),
    ...     clock=lambda: next(seconds))
    >>> progress.at(1)
    >>> progress.at(3)
    >>> progress.rate()
    10.0
  """

  def __init__(
      self,
      *,
      total: int,
      batch_size: int,
      start: int = 0,
      every: float = 10.0,
      stream: Stream | None,
      clock: Callable[[], float] = time.monotonic,
  ):
    """Starts at step `start`.

    Args:
      total: steps of the whole run.
      batch_size: examples per step.
      start: steps already taken.
      every: seconds between two lines if the stream is not a terminal.
      stream: where to print; None prints nothing.
      clock: returns seconds, from any origin.
    """
    self._total, self._batch_size = total, batch_size
    self._step, self._every = start, every
    self._stream, self._clock = stream, clock
    # (time, step) at the last call of `rate`, and at the last printed line.
    self._marked: tuple[float, int] | None = None
    self._printed = (0.0, start)
    self._note = ""
    self._bar = None
    if stream is not None and stream.isatty():
      self._bar = _Bar(
          total=total * batch_size, initial=start * batch_size,
          unit=" examples", unit_scale=True, dynamic_ncols=True,
          mininterval=0.5, file=stream,
      )

  def at(self, step: int) -> None:
    """Updates the number of steps taken; prints if it is time to.

    The first call starts the clock, so that compilation does not count.
    """
    now, taken, self._step = self._clock(), step - self._step, step
    if self._marked is None:
      self._marked = self._printed = (now, step)
    if self._bar is not None:
      self._bar.set_description_str(f"step {step}/{self._total}", refresh=False)
      self._bar.set_postfix_str(self._note, refresh=False)
      self._bar.update(taken * self._batch_size)
    elif now >= self._printed[0] + self._every and step > self._printed[1]:
      self.say(self._line(now))
      self._printed = (now, step)

  def resize(self, batch_size: int) -> None:
    """Changes the number of examples per step; restarts the clock of `rate`."""
    self._batch_size, self._marked = batch_size, None
    if self._bar is not None:
      left = (self._total - self._step) * batch_size
      self._bar.total = self._bar.n + left

  def rate(self) -> float:
    """Examples per second since the last call, which starts a new interval.

    Calling it once after an evaluation excludes the time of the evaluation. 0
    before the second step.
    """
    if self._marked is None:
      return 0.0
    now, (then, before) = self._clock(), self._marked
    self._marked = (now, self._step)
    if now <= then:
      return 0.0
    return (self._step - before) * self._batch_size / (now - then)

  def note(self, text: str) -> None:
    """Sets a short text, such as the loss, to show after the progress."""
    self._note = text

  def say(self, text: str) -> None:
    """Prints lines without breaking the bar."""
    if self._stream is not None:
      _Bar.write(text, file=self._stream)
      self._stream.flush()

  def close(self) -> None:
    """Closes the bar, which stays visible. May be called twice."""
    if self._bar is not None:
      self._bar.close()

  def _line(self, now: float) -> str:
    """Step, fraction done, speed and time left."""
    then, before = self._printed
    speed = (self._step - before) / max(now - then, 1e-9)
    left = (self._total - self._step) / speed
    parts = [
        f"step {self._step}/{self._total}",
        f"{self._step / max(self._total, 1):.1%}",
        f"{speed * self._batch_size:,.1f} examples/s",
        f"{duration(left)} left",
        self._note,
    ]
    return "  ".join(part for part in parts if part)


def duration(seconds: float) -> str:
  """Formats a time as hours, minutes and seconds.

  Example:
    >>> duration(3725.0)
    '1:02:05'
  """
  minutes, second = divmod(round(seconds), 60)
  hours, minute = divmod(minutes, 60)
  return f"{hours}:{minute:02d}:{second:02d}"

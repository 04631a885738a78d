"""Accounts for examples that cannot be read, and says when there are too many.

Everything here is a function of the sequence of examples alone, and so the same
for any batch size, any number of processes, and after any resume:

    position p of the stream is bad    its own example cannot be read, so that a
                                       substitute took its place
    too many at p                      bad positions in the window / w > most

The window of p are the last w = `window` positions, up to p. A data set of
fewer examples is judged epoch by epoch: w is its number of examples, and the
window begins with the epoch, in which every example occurs once. A source with an
order of its own, as a mixture, has no epochs: w is at most its length. Positions that
are not reached yet count as good, so chance never stops a run early.
"""

import bisect
import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from basic import files, types

_NAMED = 5  # examples that a message names


class Failure(NamedTuple):
  """An attempt to read an example that failed.

  Attributes:
    example: its index in the source.
    reason: as in `types.Unreadable`.
    message: the whole error.
    row: of the batch that the example was read for.
    attempt: 0 for the example itself, 1, 2, ... for its substitutes.
    where: the file or record that holds it; "" if the source does not say.
  """

  example: int
  reason: str
  message: str
  row: int = 0
  attempt: int = 0
  where: str = ""

  @property
  def said(self) -> str:
    """Which example it is, where it is stored, and what is wrong with it."""
    at = f" ({self.where})" if self.where else ""
    return files.printable(f"example {self.example}{at}: {self.message}")


def failure(
    source: types.Source, index: int, error: types.Unreadable
) -> Failure:
  """The failed attempt to read an example of a source."""
  return Failure(index, error.reason, str(error), where=where(source, index))


def where(source: types.Source, index: int) -> str:
  """The file or record that holds an example; "" if the source does not say.

  What goes wrong in a source's own `where` becomes the answer: a run that only
  reports a bad example must not end for it.
  """
  place = getattr(source, "where", None)
  if not callable(place):
    return ""
  try:
    return str(place(index))
  except Exception as error:
    return f"where({index}) raised {type(error).__name__}: {error}"


class Limit(NamedTuple):
  """When a run stops.

  Attributes:
    most: the largest fraction of bad positions, 0 to 1; 1 never stops.
    window: positions that it is measured over, w.
    epoch: examples in an epoch, if every epoch has each example once; None if
      the source has an order of its own.
  """

  most: float
  window: int
  epoch: int | None = None

  @property
  def span(self) -> int:
    """The denominator of the fraction, in positions."""
    return self.window if self.epoch is None else min(self.window, self.epoch)

  def start(self, position: int) -> int:
    """The first position of the window whose last is `position`."""
    if self.epoch is not None and self.epoch < self.window:
      return position - position % self.epoch
    return position - self.window + 1


def limit(source: types.Source, *, most: float, window: int) -> Limit:
  """The limit for a source, whose epochs are random permutations or its own.

  Args:
    source: that the stream reads.
    most: as in `Limit`.
    window: as in `Limit`.
  """
  if getattr(source, "order", None) is None:
    return Limit(most, window, len(source))
  return Limit(most, min(window, len(source)))


@dataclasses.dataclass(frozen=True)
class Tally:
  """What could not be read so far, of all processes of a run.

  Attributes:
    reads: reason -> failed reads, those of substitutes included.
    substituted: positions whose example was replaced.
    begin: the first position that counts for the window: where the stage began.
    recent: (position, reason) of the bad positions in the last window.
  """

  reads: Mapping[str, int] = dataclasses.field(default_factory=dict)
  substituted: int = 0
  begin: int = 0
  recent: tuple[tuple[int, str], ...] = ()

  def of_stage(self, position: int) -> "Tally":
    """The tally of a stage that begins at a position: its window is empty."""
    return dataclasses.replace(self, begin=position, recent=())

  def fraction(self, position: int, limit: Limit) -> float:
    """Bad positions among the latest that were reached, at most a window of them.

    It is what to expect of the next ones, whereas `add` judges a whole window, or
    epoch, of which some positions may not be reached yet.
    """
    start = max(self.begin, position - limit.window)
    if position <= start:
      return 0.0
    return sum(at >= start for at, _ in self.recent) / (position - start)

  def record(self) -> dict[str, Any]:
    """The tally as JSON data; `restored` reads it."""
    recent: dict[str, list[int]] = {}
    for position, reason in self.recent:
      recent.setdefault(reason, []).append(position)
    return {
        "reads": dict(self.reads), "substituted": self.substituted,
        "begin": self.begin, "recent": recent,
    }


def restored(record: Mapping[str, Any]) -> Tally:
  """The tally that `Tally.record` recorded; {} gives an empty one."""
  recent = sorted(
      (position, reason)
      for reason, positions in record.get("recent", {}).items()
      for position in positions
  )
  return Tally(
      dict(record.get("reads", {})), record.get("substituted", 0),
      record.get("begin", 0), tuple(recent),
  )


def add(
    tally: Tally,
    failures: Sequence[tuple[int, Failure]],
    position: int,
    bound: Limit,
) -> tuple[Tally, str | None]:
  """Counts failed reads.

  Args:
    tally: of all positions before those of the failures.
    failures: (position, failed read) of all processes, in any order.
    position: positions that the stream has reached.
    bound: when to stop.

  Returns:
    (the tally up to `position`, None or a sentence that says why to stop).
  """
  failures = sorted(failures, key=lambda each: (each[0], each[1].attempt))
  new = [(at, each.reason) for at, each in failures if each.attempt == 0]
  recent = [*tally.recent, *new]
  sentence = _excess(recent, len(tally.recent), tally.begin, bound)
  if sentence is not None:
    newest = [each for _, each in failures if each.attempt == 0][-_NAMED:]
    named = "".join(f"\n  {each.said}" for each in newest)
    sentence += f" The newest:{named}"
  reads = collections.Counter(tally.reads)
  reads.update(each.reason for _, each in failures)
  kept = tuple(each for each in recent if each[0] >= position - bound.window)
  return Tally(
      dict(sorted(reads.items())), tally.substituted + len(new), tally.begin, kept
  ), sentence


def _excess(recent, old: int, begin: int, bound: Limit) -> str | None:
  """Says so if one of the bad positions from number `old` on is one too many."""
  positions = [position for position, _ in recent]
  for last in range(old, len(recent)):
    start = max(begin, bound.start(positions[last]))
    first = bisect.bisect_left(positions, start)
    count = last + 1 - first
    # A quotient, not a product: 29 / 100 > 0.29 is exact, 29 > 0.29 * 100 not.
    if count / bound.span > bound.most:
      reasons = collections.Counter(
          reason for _, reason in recent[first : last + 1]
      )
      listed = ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common())
      return (
          f"{count:,} of {_described(bound, positions[last] + 1 - start)} could "
          f"not be read ({listed}), and unreadable.most allows {bound.most:g} of "
          f"{bound.span:,}."
      )
  return None


def _described(bound: Limit, seen: int) -> str:
  if bound.epoch is not None and bound.epoch < bound.window:
    return f"the first {seen:,} examples of an epoch of {bound.epoch:,}"
  return f"the last {seen:,} examples"

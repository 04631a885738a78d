"""The metrics of a run as columns."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from basic.recording import journal, recorder


class Metrics(Mapping[str, np.ndarray]):
  """The metrics that a run has recorded, one column each.

  A mapping from names to arrays of equal length, one value for each step at which
  anything was recorded: "step" is int64, all others are float64, NaN where a
  metric was not recorded. `curve` leaves those steps out.

  Attributes:
    last: the newest value of every metric, by name.

  Example:
    >>> metrics = Metrics([{"step": 1, "loss": 2.0}, {"step": 1, "zeroshot@1": 0.1},
    ...                    {"step": 2, "loss": 1.5}])
    >>> metrics["step"], metrics["zeroshot@1"]
    (array([1, 2]), array([0.1, nan]))
    >>> metrics
    2 steps, 1 to 2; the newest values:
    loss        1.500
    zeroshot@1  0.1000
  """

  def __init__(self, rows: Sequence[Mapping[str, Any]]):
    """Arranges the lines of metrics.jsonl, oldest first."""
    steps = sorted({row["step"] for row in rows})
    place = {step: n for n, step in enumerate(steps)}
    self._columns = {"step": np.array(steps, np.int64)}
    self.last: dict[str, float] = {}
    for row in rows:
      for name, value in row.items():
        if name == "step":
          continue
        if name not in self._columns:
          self._columns[name] = np.full(len(steps), np.nan)
        self._columns[name][place[row["step"]]] = value
        self.last[name] = value

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._columns:
      raise KeyError(f"{name!r} was not recorded; there are {sorted(self)}")
    return self._columns[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._columns)

  def __len__(self) -> int:
    return len(self._columns)

  def curve(
      self, name: str
  ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """(steps, values) at the steps where a metric was recorded, to be plotted.

    Args:
      name: of the metric: `plt.plot(*metrics.curve("loss"))`.

    Raises:
      KeyError: if it was never recorded.

    Example:
      >>> metrics = Metrics([{"step": 1, "loss": 2.0}, {"step": 2, "scale": 10.0}])
      >>> metrics.curve("loss")
      (array([1]), array([2.]))
    """
    values = self[name].astype(np.float64)
    recorded = ~np.isnan(values)
    return self["step"][recorded], values[recorded]

  def table(self) -> str:
    """The newest value of every metric as lines of text."""
    return recorder.table({k: x for k, x in self.last.items() if k != "time"})

  def frame(self) -> Any:
    """All columns as a pandas.DataFrame, indexed by step.

    Raises:
      ImportError: if pandas is not installed.
    """
    try:
      import pandas
    except ImportError as error:
      raise ImportError(
          "`frame` needs pandas: pip install pandas. Without it, the columns are "
          "NumPy arrays: metrics['loss'], metrics['step']."
      ) from error
    return pandas.DataFrame(dict(self)).set_index("step")

  def __repr__(self) -> str:
    if not len(self["step"]):
      return "no metrics yet"
    first, last = self["step"][0], self["step"][-1]
    lines = self.table()
    return (
        f"{len(self['step'])} steps, {first} to {last}; the newest values:\n{lines}"
    )


def read_metrics(workdir: str | os.PathLike) -> Metrics:
  """The metrics of a run, finished or not.

  Args:
    workdir: folder of the run.

  Raises:
    FileNotFoundError: if the folder is not that of a run.
    ValueError: if its metrics.jsonl was damaged.

  Example:
    metrics = basic.read_metrics("runs/digits")
    plt.plot(*metrics.curve("loss"))
  """
  folder = pathlib.Path(workdir)
  if not (folder / "config.json").exists():
    raise FileNotFoundError(
        f"{os.fspath(workdir)} holds no config.json, so it is not the folder of a "
        "run; give the workdir that the training was given."
    )
  return Metrics(journal.read(folder))

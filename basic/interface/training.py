"""Training from Python: what it is given, and what it gives back."""

import datetime
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from basic.experiment import build, configuration, restore
from basic.interface import metrics, model
from basic.recording import manifest, recorder


class Run:
  """A finished run: its results, its metrics, its report and its model.

  Attributes:
    workdir: its folder.
    report: its page, to be opened in a browser.
    step: steps taken.
    results: the metrics of the last evaluation, by name.
    metrics: all that was recorded, as columns (`Metrics`).
  """

  def __init__(self, workdir: str | os.PathLike):
    """Reads the folder of a run.

    Raises:
      FileNotFoundError: if it is not that of a run.
    """
    self.workdir = pathlib.Path(workdir)
    self.report = self.workdir / "report.html"
    self.metrics = metrics.read_metrics(workdir)
    evaluated = tuple(self._evaluations())
    self.results = {
        name: value for name, value in self.metrics.last.items()
        if name.startswith(evaluated)
    }
    steps = self.metrics["step"]
    self.step = int(steps[-1]) if len(steps) else 0

  def _evaluations(self) -> Iterator[str]:
    """How the names of evaluations' metrics begin, of all stages."""
    for stage in build.stage_configs(restore.configuration(self.workdir)):
      for label, each in stage["evals"].items():
        yield f"{each['name']}/{label}"

  @property
  def config(self) -> Any:
    """The complete configuration, as a dict."""
    return manifest.load(self.workdir / "config.json")

  def load(self, step: int | None = None) -> model.Model:
    """The trained model, as `basic.load` opens it.

    Args:
      step: the checkpoint; None: the newest.
    """
    return model.load(self.workdir, step=step)

  def __repr__(self) -> str:
    lines = recorder.table(self.results) or "no evaluations"
    return f"{self.workdir}, step {self.step}; report: {self.report}\n{lines}"


def workdir(config: configuration.Given, given: str | os.PathLike | None) -> Any:
  """The folder for a run: the given one, or a new one, runs/NAME-DATE-TIME.

  Args:
    config: whose file gives the name.
    given: by the user; None: none.
  """
  if given is not None:
    return given
  now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  folder = pathlib.Path("runs") / f"{configuration.name(config)}-{now}"
  for n in range(2, 1000):
    if not folder.exists():
      break
    folder = folder.with_name(f"{configuration.name(config)}-{now}-{n}")
  return folder

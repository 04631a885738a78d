"""Builds a page that compares several runs."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from basic.pages import differences, document, markup, plots, stages, summary
from basic.recording import journal

MOST = 18  # runs of a page; as many as there are looks of curves
_PLOTS = 80  # plots of curves
_ROWS = 200  # metrics or settings of a table


class Run(NamedTuple):
  """A run as its files tell of it.

  Attributes:
    name: by which the page calls it; no other run has it.
    config: its complete configuration.
    meta: the content of `run.json`.
    rows: the lines of `metrics.jsonl`, oldest first.
  """

  name: str
  config: Mapping[str, Any]
  meta: Mapping[str, Any]
  rows: Sequence[Mapping[str, Any]]


def names(folders: Sequence[pathlib.Path]) -> list[str]:
  """Short names of different folders: the parts of their paths that differ.

  Example:
    >>> names([pathlib.Path("/runs/a/1"), pathlib.Path("/runs/b/1")])
    ['a/1', 'b/1']
  """
  parts = [folder.parts for folder in folders]
  for kept in range(1, max(map(len, parts)) + 1):
    found = [markup.clean("/".join(each[-kept:])) for each in parts]
    if len(set(found)) == len(found):
      return found
  # They differ in what cannot be written.
  return [f"{n}. {markup.clean(each.name)}" for n, each in enumerate(folders, 1)]


def comparison(runs: Sequence[Run]) -> str:
  """Builds the page.

  Args:
    runs: two or more, in the order of their columns.

  Returns:
    An HTML document with styles and plots inline, and no links but to its own
    sections.

  Raises:
    ValueError: if there are fewer than two, or more than `MOST`.
  """
  if not 2 <= len(runs) <= MOST:
    raise ValueError(
        f"A comparison is of 2 to {MOST} runs, and {len(runs)} were given; for a "
        "single one, python -m basic.report --workdir RUN."
    )
  runs = [Run(*map(markup.clean, run)) for run in runs]
  sections = [
      ("Runs", _runs(runs)),
      ("Results", _results(runs)),
      ("Settings", _settings(runs)),
      ("Batch size", _batch_sizes(runs)),
      ("Stages", _stages(runs)),
      ("Curves", _curves(runs)),
  ]
  return document.document(
      f"{len(runs)} runs", plots.legend([run.name for run in runs]),
      [(name, content) for name, content in sections if content],
  )


def _runs(runs: Sequence[Run]) -> str:
  rows = []
  for run in runs:
    device = run.meta.get("device_kind", "")
    count = f"{run.meta.get('device_count', 1)} \N{MULTIPLICATION SIGN} "
    rows.append((
        markup.text(run.name),
        markup.text(", ".join(stages.facts(run.config, run.rows)) or "no numbers yet"),
        markup.text(count + str(device) if device else ""),
        f"<code>{markup.text(run.meta.get('command', ''))}</code>",
    ))
  return markup.table(("run", "so far", "devices", "command"), rows, "texts runs")


def _results(runs: Sequence[Run]) -> str:
  """The last value of every result, side by side; the best of each is marked."""
  found = _metrics(runs)
  rows = []
  for name in found[:_ROWS]:
    last = [_last(run, name) for run in runs]
    rows.append((markup.name(name), *_cells(name, last)))
  if not rows:
    return "<p>No evaluation has been written yet.</p>"
  head = ("", *(markup.name(run.name) for run in runs))
  more = (
      f"<p>{len(found) - _ROWS:,} more results are left out.</p>"
      if len(found) > _ROWS else ""
  )
  return (
      "<p>The last value of each run; the best one is bold where it is known which "
      "is better. Runs may have ended at different steps.</p>"
      + markup.table(head, rows) + more
  )


def _cells(name: str, values: Sequence[float | None]) -> list[str]:
  """Values as text, of which the best one is bold; empty where there is none."""
  known = np.array([np.nan if v is None else v for v in values], float)
  choose, best = summary.has_best(name), None
  if choose is not None and np.isfinite(known).any():
    best = known[choose(known)]
  return [
      "" if value is None
      else f"<strong>{summary.number(name, value)}</strong>" if value == best
      else summary.number(name, value)
      for value in values
  ]


def _settings(runs: Sequence[Run]) -> str:
  found = differences.differences([run.config for run in runs])
  if not found:
    return "<p>The runs have the same settings.</p>"
  rows = [
      (
          markup.name(path or "all"),
          *(f"<code>{markup.text(value, 80)}</code>" for value in values),
      )
      for path, values in found[:_ROWS]
  ]
  said = "The settings in which the runs differ; they agree in all others."
  if len(found) > _ROWS:
    said = f"The first {_ROWS} of {len(found):,} settings in which the runs differ."
  head = ("", *(markup.name(run.name) for run in runs))
  return (
      f"<p>{said}</p>"
      + markup.table(head, rows, "texts settings")
  )


def _batch_sizes(runs: Sequence[Run]) -> str:
  """Final results against the batch size at the end; empty where all are equal."""
  sizes = [stages.batch_size(run.config) for run in runs]
  if len({size for size in sizes if size is not None}) < 2:
    return ""
  drawn = []
  for figure in summary.figures(_together(runs)):
    if not figure.is_result or len(drawn) >= _PLOTS:
      continue
    name = figure.names[0]  # of @1, @5 and @10, the strictest
    points = sorted(
        (size, value)
        for size, run in zip(sizes, runs, strict=True)
        if size is not None and (value := _last(run, name)) is not None
    )
    if len({size for size, _ in points}) < 2:
      continue
    across, values = map(np.array, zip(*points, strict=True))
    at, means = _means(across, values)
    picture = plots.points(
        {"each run": (across, values), "mean": (at, means)}
        if len(at) < len(across) else {"each run": (across, values)},
        across="batch size", unit=figure.unit,
        percent=summary.is_fraction(name, values),
    )
    drawn.append(summary.framed(
        figure._replace(names=(name,)), picture, int((~np.isfinite(values)).sum())
    ))
  if not drawn:
    return ""
  return (
      "<p>The last value of each run against its batch size at the end. Where runs "
      "differ in more than this, see Settings.</p>"
      f'<div class="plots">{"".join(drawn)}</div>'
  )


def _means(across: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  at = np.unique(across)
  return at, np.array([values[across == size].mean() for size in at])


def _stages(runs: Sequence[Run]) -> str:
  """Results at the end of every stage; empty if no run has several."""
  parts = []
  for run in runs:
    known = stages.stages(run.config)
    if len(known) < 2:
      continue
    rows = []
    for name in _metrics([run])[:_ROWS]:
      steps, values = journal.curve(run.rows, name)
      rows.append((markup.name(name), *(
          _within(name, steps, values, each) for each in known
      )))
    if not rows:
      continue
    head = ("", *(_stage(n, each) for n, each in enumerate(known, 1)))
    parts.append(f"<h3>{markup.name(run.name)}</h3>{markup.table(head, rows)}")
  if not parts:
    return ""
  return "<p>The last value in each stage.</p>" + "".join(parts)


def _stage(number: int, stage: stages.Stage) -> str:
  size = "" if stage.batch_size is None else f", batches of {stage.batch_size:,}"
  return f"stage {number}<br><small>to step {stage.end:,}{size}</small>"


def _within(
    name: str, steps: np.ndarray, values: np.ndarray, stage: stages.Stage
) -> str:
  inside = (steps > stage.end - stage.steps) & (steps <= stage.end)
  return summary.number(name, values[inside][-1]) if inside.any() else ""


def _curves(runs: Sequence[Run]) -> str:
  """Every metric of all runs over each other."""
  marks = sorted({
      step for run in runs for step in stages.boundaries(run.config)
  })
  found = summary.figures(_together(runs))
  parts = []
  for is_result, group in itertools.groupby(
      found[:_PLOTS], lambda figure: figure.is_result
  ):
    drawn = "".join(_overlaid(runs, figure, marks) for figure in group)
    title = "Evaluations" if is_result else "Training"
    parts.append(f'<h3>{title}</h3><div class="plots">{drawn}</div>')
  if not parts:
    return "<p>No numbers have been written yet.</p>"
  said = "<p>Dashed lines are the boundaries of stages.</p>" if marks else ""
  more = (
      f"<p>{len(found) - _PLOTS:,} more plots are left out.</p>"
      if len(found) > _PLOTS else ""
  )
  return said + "".join(parts) + more


def _overlaid(
    runs: Sequence[Run], figure: summary.Figure, marks: Sequence[int]
) -> str:
  """The strictest metric of a figure, one curve a run."""
  name = figure.names[0]
  series = {run.name: journal.curve(run.rows, name) for run in runs}
  values = np.concatenate([v for _, v in series.values()])
  picture = plots.curves(
      series, unit=figure.unit, percent=summary.is_fraction(name, values),
      marks=marks, label=f"{name}, {figure.unit}",
  )
  return summary.framed(
      figure._replace(names=(name,)), picture, int((~np.isfinite(values)).sum())
  )


def _metrics(runs: Sequence[Run]) -> list[str]:
  return summary.results(_together(runs))


def _together(runs: Sequence[Run]) -> list[Mapping[str, Any]]:
  """One line with every metric of every run, for whoever asks for names."""
  return [{name: 0.0 for run in runs for row in run.rows for name in row}]


def _last(run: Run, name: str) -> float | None:
  _, values = journal.curve(run.rows, name)
  return float(values[-1]) if len(values) else None

"""Results of several models side by side: averages, robustness, and a table."""

import json
import os
import pathlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from basic.experiment import tasks
from basic.ops import robustness

Record = Mapping[str, Any]  # as from `suite.measure`
# Metrics that are fractions, and shown in percent.
_FRACTION = re.compile(r"@\d|accuracy|/map|/per_class")
_FEWEST = 3  # A line through two models predicts both exactly.


class Summary(NamedTuple):
  """What a table shows; a list has one entry a model, None where there is none.

  Attributes:
    models: origin of each.
    results: task -> its records.
    averages: title -> mean of the first metric of its tasks, if all are done.
    robustness: task -> effective robustness (ops/robustness.py).
    line: where the lines of `robustness` are from, in words; "" without any.
  """

  models: list[str]
  results: dict[str, list[Record]]
  averages: dict[str, list[float | None]]
  robustness: dict[str, list[float | None]]
  line: str

  def plain(self) -> dict[str, Any]:
    """All of it as plain data, for JSON."""
    return self._asdict()


def summary(
    columns: Sequence[Sequence[Record]],
    lines: str | os.PathLike | None = None,
) -> Summary:
  """Puts the results of models side by side.

  Args:
    columns: for each model, its records, of the same tasks in the same order.
    lines: a TOML or JSON file with the lines of models that were not made robust:
      task -> {"slope", "intercept"} of logits of accuracies. None: lines are fitted
      to these models, if they are three or more.

  Returns:
    A summary.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it holds something else.
  """
  names = [record["task"] for record in columns[0]] if columns else []
  results = {
      name: [column[n] for column in columns] for n, name in enumerate(names)
  }
  first = {
      name: np.array([_value(each) for each in records])
      for name, records in results.items()
  }
  averages = {
      title: _listed(np.mean([first[name] for name in members], axis=0))
      for title, members in tasks.suites()["averages"].items()
      if set(members) <= first.keys()
  }
  shifts = tasks.suites()["shifts"]
  known = None if lines is None else _lines(lines)
  found, whence = {}, ""
  if known is not None:
    whence = f"lines of {os.fspath(lines or '')}"
  elif len(columns) >= _FEWEST:
    whence = f"lines fitted to the {len(columns)} models of this table"
  for name in shifts["after"] if whence else ():
    if {name, shifts["before"]} <= first.keys():
      found[name] = _effective(
          first[shifts["before"]], first[name], known and known.get(name),
          fitted=known is None,
      )
  return Summary(
      [column[0]["model"] for column in columns if column], results, averages,
      found, whence if found else "",
  )


def _effective(before, after, line, *, fitted):
  """Effective robustness of each model; None where a result or line is missing."""
  both = ~np.isnan(before + after)
  if fitted and both.sum() >= _FEWEST and len(np.unique(before[both])) > 1:
    line = robustness.fit(before[both], after[both])
  if line is None:
    return [None] * len(before)
  return [
      robustness.effective(x, y, line) if there else None
      for x, y, there in zip(before, after, both, strict=True)
  ]


def _lines(file):
  """Task -> line, from a file."""
  path = pathlib.Path(file)
  text = path.read_text()
  try:
    found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    return {
        name: robustness.Fit(float(each["slope"]), float(each["intercept"]))
        for name, each in found.items()
    }
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
        f"{path} does not hold lines ({error!r}); for each task it takes a slope and "
        "an intercept: [imagenet_v2], slope = 1.1, intercept = -0.5."
    ) from error


def _value(record):
  """The first metric of a record; NaN if it was not measured."""
  if record["status"] != "done":
    return np.nan
  value = record["metrics"].get(record["shown"][0])
  return np.nan if value is None else value


def _listed(values):
  """Floats, and None for NaN."""
  return [None if np.isnan(x) else float(x) for x in values]


def table(found: Summary) -> str:
  """The summary as lines of text: fractions in percent, with 95% intervals."""
  rows = [("", "", *_headings(found.models))]
  for name, records in found.results.items():
    shown = list(dict.fromkeys(m for r in records for m in _shown(r)))
    for metric in shown or [""]:
      rows.append((name, _said(metric), *(_cell(r, metric) for r in records)))
  for title, values in found.averages.items():
    rows.append((title, "", *(_percent(x) for x in values)))
  for name, values in found.robustness.items():
    rows.append((
        name, "effective robustness",
        *("-" if x is None else f"{100 * x:+.1f}" for x in values),
    ))
  widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
  lines = [
      "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
      for row in rows
  ]
  return "\n".join([line.rstrip() for line in lines] + [*_notes(found)])


def _headings(models):
  """The models themselves, or their numbers if their names are long."""
  short = len(models) == 1 or all(len(model) <= 24 for model in models)
  return models if short else [f"({n})" for n, _ in enumerate(models, 1)]


def _notes(found):
  """What the table cannot say: long names, where lines are from, what is missing."""
  notes = [
      f"{number}  {model}"
      for number, model in zip(_headings(found.models), found.models, strict=True)
      if number != model
  ]
  if found.line:
    notes.append(f"effective robustness: {found.line}")
  missing = {}
  for name, records in found.results.items():
    for record in records:
      if record["status"] != "done":
        why = f"{name} {record['status']}: {record['why']}"
        missing[why] = None
  notes += list(missing)
  return ["", *notes] if notes else []


def _shown(record: Record) -> list[str]:
  """The metrics of a record that belong into a table."""
  return [name for name in record["shown"] if name in record.get("metrics", {})]


def _said(metric: str) -> str:
  """The name of a metric as people call it."""
  names = {theirs: name for name, theirs in tasks.METRICS.items()}
  return names.get(metric, metric.strip("/").replace("_", " "))


def _cell(record: Record, metric: str) -> str:
  """A number with its interval, or what became of it."""
  value = record.get("metrics", {}).get(metric)
  if record["status"] != "done" or value is None:
    return "-" if record["status"] == "done" else record["status"]
  show = _percent if _FRACTION.search(metric) else "{:.4g}".format
  interval = record["intervals"].get(metric)
  if not interval or None in interval:
    return show(value)
  return f"{show(value)} [{show(interval[0])}, {show(interval[1])}]"


def _percent(value):
  return "-" if value is None else f"{100 * value:.1f}"

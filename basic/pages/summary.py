"""Shows evaluation results and training metrics as cards, table and plots."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from basic.pages import markup, plots
from basic.recording import journal

Rows = Sequence[Mapping[str, Any]]

# Unit of a metric, by the last part of its name; the order is that of the plots.
_UNITS = (
    (r"(.*_)?loss", "nats per row"),
    (r"(.*_)?scale", "inverse temperature"),
    (r"(.*_)?temperature", "temperature"),
    (r"learning_rate|lr", "learning rate"),
    (r"(.*_)?examples_per_second", "examples per second"),
    (r"(.*_)?norm", "Euclidean norm"),
    (r"(.*_)?seconds", "seconds"),
    (r"(.*_)?bytes", "bytes"),
    (r"(.*_)?rank", "rank, 1 is best"),
    (r".*_to_.*", "recall"),
)
# First parts of the names of training metrics; all others are evaluations.
_TRAINING = frozenset((
    "data", "gradient", "memory", "model", "objective", "optimizer",
    "throughput", "time", "train",
))
_FRACTION = re.compile(r".*(@\d+|accuracy|recall|precision|top_?\d|per_class)")
_FALLS = re.compile(r".*(loss|error|perplexity|gap|rank|unreadable)")
# Numbers of examples: they are in the table, but not plotted.
_COUNT = re.compile(r".*(count|captions|distractors)")
_CARDS = 6
_ROWS = 400  # results of a table
_PLOTS = 80  # plots of a page; each is at most 30 kB
_SERIES = 9  # curves of a plot


class Figure(NamedTuple):
  """A plot: metrics of one stem.

  Attributes:
    names: of the metrics, such as "r/to_text@1" and "r/to_text@5".
    is_result: whether they are of an evaluation, not of training.
    group: of the evaluation: "retrieval/test"; empty for training.
    title: what is plotted, text.
    unit: label of the y axis.
  """

  names: tuple[str, ...]
  is_result: bool
  group: str
  title: str
  unit: str


def cards(rows: Rows) -> str:
  """Shows the most important results."""
  names = _names(rows)
  results = [n for n in names if _is_result(n) and not _COUNT.fullmatch(n)]
  # Of recall@1, @5 and @10 only the strictest gets a card.
  leading = [
      min(group, key=_strictness)
      for _, group in itertools.groupby(results, _stem)
  ]
  # "pairs/per_class" is of the same predictions as "pairs": no second card.
  stems = {_stem(name) for name in leading}
  own = [n for n in leading if _stem(n).rpartition("/")[0] not in stems]
  ranked = sorted(own, key=lambda n: (_FRACTION.fullmatch(n) is None, n))
  shown = ranked[:_CARDS] or [n for n in names if not _is_result(n)][:4]
  return f'<div class="headline">{"".join(_card(rows, n) for n in shown)}</div>'


def table(rows: Rows) -> str:
  """Lists the last, best and first value of every result."""
  names = results(rows)
  body = []
  for name in names[:_ROWS]:
    steps, values = journal.curve(rows, name)
    body.append((
        markup.name(name), f"<strong>{number(name, values[-1])}</strong>",
        _best(name, steps, values), number(name, values[0]),
    ))
  if not body:
    return "<p>No evaluation has been written yet.</p>"
  return markup.table(("", "last", "best", "first"), body) + _left_out(
      names[_ROWS:], "results"
  )


def curves(rows: Rows, marks: Sequence[int] = ()) -> str:
  """Plots every metric over steps, metrics of the same stem together.

  Args:
    rows: the lines of `metrics.jsonl`, oldest first.
    marks: the steps at which stages end, the last one's apart.

  Returns:
    HTML.
  """
  parts, found = [], figures(rows)
  for is_result, group in itertools.groupby(
      found[:_PLOTS], lambda figure: figure.is_result
  ):
    drawn = "".join(_plot(rows, figure, marks) for figure in group)
    title = "Evaluations" if is_result else "Training"
    parts.append(f'<h3>{title}</h3><div class="plots">{drawn}</div>')
  if not parts:
    return "<p>No numbers have been written yet.</p>"
  said = (
      "<p>Dashed lines are the boundaries of stages.</p>" if len(marks) else ""
  )
  left = [name for figure in found[_PLOTS:] for name in figure.names]
  return said + "".join(parts) + _left_out(left, "metrics")


def results(rows: Rows) -> list[str]:
  """The names of all results of evaluations, in the order of a table."""
  return [name for name in _names(rows) if _is_result(name)]


def figures(rows: Rows) -> list[Figure]:
  """The plots of all metrics that are plotted, those of training first."""
  names = [name for name in _names(rows) if not _COUNT.fullmatch(name)]
  found = []
  for stem, same in itertools.groupby(names, _stem):
    group, _, last = stem.rpartition("/")
    together = tuple(same)[:_SERIES]
    found.append(Figure(
        together, _is_result(stem), group, _spaced(last),
        _unit(together[0]) or "value",
    ))
  return found


def has_best(name: str) -> Callable[[np.ndarray], int] | None:
  """Which of several values of a metric is the best one.

  Args:
    name: of the metric.

  Returns:
    Values, some of them finite -> the index of the best one; None if it is not
    known whether a lower one is better.
  """
  falls = _FALLS.fullmatch(name) is not None
  if not (falls or _FRACTION.fullmatch(name)) or _COUNT.fullmatch(name):
    return None
  choose = np.nanargmin if falls else np.nanargmax
  return lambda values: int(choose(np.where(np.isfinite(values), values, np.nan)))


def number(name: str, value: float) -> str:
  """A value of a metric as text: a fraction in percent, others in four digits."""
  if _FRACTION.fullmatch(name) and 0 <= value <= 1:
    return f"{value:.1%}"
  if 10_000 <= abs(value) < 1e15:
    return f"{value:,.0f}"
  return f"{value:.4g}"


def is_fraction(name: str, values: np.ndarray) -> bool:
  """Whether the values of a metric are fractions, to be shown in percent."""
  finite = values[np.isfinite(values)]
  if not len(finite) or _FRACTION.fullmatch(name) is None:
    return False
  return bool(finite.min() >= 0 and finite.max() <= 1)


def _left_out(names: Sequence[str], what: str) -> str:
  """Names what a page of bounded size has no room for."""
  if not names:
    return ""
  listed = ", ".join(f"<code>{markup.text(n, 120)}</code>" for n in names[:_ROWS])
  return (
      f"<details><summary>{len(names):,} more {what}</summary><p>Their numbers are in "
      f"<code>metrics.jsonl</code>: {listed}</p></details>"
  )


def _card(rows: Rows, name: str) -> str:
  _, values = journal.curve(rows, name)
  group, _, last = name.rpartition("/")
  since = f"from {number(name, values[0])}" if len(values) > 1 else ""
  return (
      f'<div class="figure"><small>{markup.name(group) or "&nbsp;"}</small>'
      f"<strong>{number(name, values[-1])}</strong>"
      f"<span>{markup.text(_spaced(last))}</span><small>{since}</small></div>"
  )


def _plot(rows: Rows, figure: Figure, marks: Sequence[int]) -> str:
  series = {name: journal.curve(rows, name) for name in figure.names}
  values = np.concatenate([v for _, v in series.values()])
  stem = _stem(figure.names[0])
  picture = plots.curves(
      {n.removeprefix(stem) or figure.title: each for n, each in series.items()},
      unit=figure.unit, percent=is_fraction(figure.names[0], values), marks=marks,
  )
  return framed(figure, picture, int((~np.isfinite(values)).sum()))


def framed(figure: Figure, picture: str, not_finite: int) -> str:
  """A plot with its heading and the names of its metrics below.

  Args:
    figure: what is plotted.
    picture: the plot, HTML.
    not_finite: number of values that have no place in it.

  Returns:
    HTML.
  """
  over = f"<small>{markup.name(figure.group)}</small> " if figure.is_result else ""
  note = (
      f" <em>{not_finite:,} values are not finite.</em>" if not_finite else ""
  )
  code = ", ".join(f"<code>{markup.text(n, 120)}</code>" for n in figure.names)
  return (
      f"<figure><h4>{over}{markup.text(figure.title)}</h4>{picture}"
      f"<figcaption>{code}{note}</figcaption></figure>"
  )


def _names(rows: Rows) -> list[str]:
  """All metrics, those of training first, in the order of their plots."""
  names = {n: None for row in rows for n in row if n not in ("step", "time")}
  return sorted(names, key=_order)


def _order(name: str) -> tuple:
  is_result = _is_result(name)
  group = name.rpartition("/")[0] if is_result else ""
  return is_result, group, _plot_order(name), _stem(name), _strictness(name)


def _is_result(name: str) -> bool:
  is_named = re.search("[/@]", name) is not None
  return is_named and name.partition("/")[0] not in _TRAINING


def _stem(name: str) -> str:
  """"retrieval/text_to_image" of "retrieval/text_to_image@10"."""
  return re.sub(r"@\d+$", "", name)


def _strictness(name: str) -> tuple[int, str]:
  match = re.search(r"@(\d+)$", name)
  return (int(match[1]) if match else 0, name)


def _plot_order(name: str) -> int:
  last = _stem(name).rpartition("/")[2]
  for place, (pattern, _) in enumerate(_UNITS):
    if re.fullmatch(pattern, last):
      return place
  return len(_UNITS)


def _unit(name: str) -> str:
  place = _plot_order(name)
  if place < len(_UNITS):
    return _UNITS[place][1]
  return "accuracy" if "@" in name else ""


def _best(name: str, steps: np.ndarray, values: np.ndarray) -> str:
  """The best value and its step, if it is known whether lower is better."""
  choose = has_best(name)
  if choose is None or not np.isfinite(values).any():
    return ""
  at = choose(values)
  return f"{number(name, values[at])} <small>at {steps[at]:,}</small>"


def _spaced(name: str) -> str:
  return name.replace("_", " ")

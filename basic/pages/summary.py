"""Shows evaluation results and training metrics as cards, table and plots."""

import html
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from basic.pages import plots
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
  body = []
  for name in filter(_is_result, _names(rows)):
    steps, values = journal.curve(rows, name)
    cells = "".join(
        f"<td>{text}</td>" for text in (
            f"<strong>{_number(name, values[-1])}</strong>",
            _best(name, steps, values),
            _number(name, values[0]),
        )
    )
    # Lets a narrow page break long names.
    shown = re.sub("([/_])", r"\1<wbr>", html.escape(name))
    body.append(f'<tr><th scope="row">{shown}</th>{cells}</tr>')
  if not body:
    return "<p>No evaluation has been written yet.</p>"
  columns = ("", "last", "best", "first")
  head = "".join(f'<th scope="col">{column}</th>' for column in columns)
  return (
      '<div class="scroll"><table class="results"><thead><tr>'
      f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
  )


def curves(rows: Rows) -> str:
  """Plots every metric over steps, metrics of the same stem together."""
  parts = []
  names = [n for n in _names(rows) if not _COUNT.fullmatch(n)]
  for is_result, group in itertools.groupby(names, _is_result):
    figures = [
        _plot(rows, list(same)) for _, same in itertools.groupby(group, _stem)
    ]
    title = "Evaluations" if is_result else "Training"
    parts.append(f'<h3>{title}</h3><div class="plots">{"".join(figures)}</div>')
  return "".join(parts) or "<p>No numbers have been written yet.</p>"


def _card(rows: Rows, name: str) -> str:
  _, values = journal.curve(rows, name)
  group, _, last = name.rpartition("/")
  since = f"from {_number(name, values[0])}" if len(values) > 1 else ""
  return (
      f'<div class="figure"><small>{html.escape(group) or "&nbsp;"}</small>'
      f"<strong>{_number(name, values[-1])}</strong>"
      f"<span>{html.escape(_spaced(last))}</span><small>{since}</small></div>"
  )


def _plot(rows: Rows, names: Sequence[str]) -> str:
  stem = _stem(names[0])
  group, _, last = stem.rpartition("/")
  series = {n: journal.curve(rows, n) for n in names}
  not_finite = sum(int((~np.isfinite(v)).sum()) for _, v in series.values())
  labels = {n: n.removeprefix(stem) or last for n in names}
  picture = plots.curves(
      {labels[n]: curve for n, curve in series.items()},
      unit=_unit(names[0]) or _spaced(last),
      percent=_is_fraction(names[0], series.values()),
  )
  over = f"<small>{html.escape(group)}</small> " if _is_result(names[0]) else ""
  note = (
      f" <em>{not_finite} values are not finite.</em>" if not_finite else ""
  )
  code = ", ".join(f"<code>{html.escape(n)}</code>" for n in names)
  return (
      f"<figure><h4>{over}{html.escape(_spaced(last))}</h4>{picture}"
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


def _is_fraction(name: str, series: Iterable[plots.Curve]) -> bool:
  values = np.concatenate([v[np.isfinite(v)] for _, v in series])
  if not len(values) or _FRACTION.fullmatch(name) is None:
    return False
  return bool(values.min() >= 0 and values.max() <= 1)


def _best(name: str, steps: np.ndarray, values: np.ndarray) -> str:
  """The best value and its step, if it is known whether lower is better."""
  falls = _FALLS.fullmatch(name) is not None
  if not (falls or _FRACTION.fullmatch(name)) or not np.isfinite(values).any():
    return ""
  at = int(np.nanargmin(values) if falls else np.nanargmax(values))
  return f"{_number(name, values[at])} <small>at {steps[at]:,}</small>"


def _number(name: str, value: float) -> str:
  if _FRACTION.fullmatch(name) and 0 <= value <= 1:
    return f"{value:.1%}"
  return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _spaced(name: str) -> str:
  return name.replace("_", " ")

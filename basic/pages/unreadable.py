"""Shows what of the data could not be read."""

from collections.abc import Mapping, Sequence
from typing import Any

from basic.pages import markup

Rows = Sequence[Mapping[str, Any]]

_TRAINING = "data/unreadable/"
_SHOWN = 20  # examples that are listed
_ROWS = 100  # reasons


def section(rows: Rows, listed: Sequence[Mapping[str, Any]]) -> str:
  """Counts by reason, the fraction at the end, and the first examples.

  Args:
    rows: the lines of `metrics.jsonl`, oldest first.
    listed: the lines of `quarantine.jsonl`.

  Returns:
    HTML; one sentence if everything could be read.
  """
  last = {name: value for row in rows for name, value in row.items()}
  counts = [
      (*_place(name), int(value)) for name, value in sorted(last.items())
      if "/unreadable/" in name
  ]
  if not counts and not listed:
    return "<p>Every example that this run asked for could be read.</p>"
  by_reason = _table(("in", "reason", "reads"), counts[:_ROWS]) if counts else ""
  return _summary(last) + by_reason + _list(listed)


def _place(name: str) -> tuple[str, str]:
  """(where examples were read, the reason) of the name of a metric."""
  where, _, reason = name.partition("/unreadable/")
  return "training" if name.startswith(_TRAINING) else where, reason


def _summary(last: Mapping[str, Any]) -> str:
  if "data/substituted" not in last:
    return "<p>In training, every example could be read.</p>"
  return (
      f"<p>In training, {last['data/substituted']:,.0f} examples could not be "
      "read and were replaced by others. Of the latest examples these are "
      f"{last.get('data/unreadable_fraction', 0):.2%}; above "
      "<code>unreadable.most</code> the run stops.</p>"
  )


def _list(listed: Sequence[Mapping[str, Any]]) -> str:
  if not listed:
    return ""
  shown = [
      (row["index"], row["reason"], row["message"].removeprefix(f"{row['reason']}: "))
      for row in listed[:_SHOWN]
  ]
  more = (
      f" These are the first {_SHOWN} of {len(listed):,}."
      if len(listed) > _SHOWN else ""
  )
  return (
      "<h3>Examples that could not be read</h3><p>All that are listed are in "
      f'<a href="quarantine.jsonl">quarantine.jsonl</a>, each once.{more}</p>'
      + _table(("example", "reason", "message"), shown)
  )


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  return markup.table(columns, [[_text(cell) for cell in row] for row in rows], "texts")


def _text(cell: Any) -> str:
  return f"{cell:,}" if isinstance(cell, int) else markup.text(cell, 500)

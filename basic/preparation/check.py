"""Reads examples of a source and says what keeps a run from using it."""

import collections
import logging
from typing import Any

from basic import sources, types
from basic.data import damage

_MOST = 0.1  # the default of `unreadable.most`
_log = logging.getLogger(__name__)


def check(*, source: types.Source, examples: int = 64) -> types.Counts:
  """Says what a source lacks (basic.sources.check), and what is unreadable.

  Args:
    source: settings of the source: {"name": "folder", "path": "pictures"}.
    examples: number of examples to read, at equal distances.

  Returns:
    The number of examples, of those read, and of unreadable ones by reason. If
    more than a tenth is unreadable, "verdict" says that a run would stop.

  Raises:
    ValueError: if something is missing, one line for each fault; if none of the
      examples can be read; or if `examples` is not positive.
  """
  if examples < 1:
    raise ValueError(f"examples is {examples}; it takes a number of at least 1.")
  faults = sources.check(source, examples)
  if faults:
    raise ValueError("\n".join(["the source cannot be used as it is:", *faults]))
  asked = min(examples, len(source))
  reasons: collections.Counter[str] = collections.Counter()
  said: dict[str, str] = {}  # reason -> its first example
  for position in range(asked):
    index = position * len(source) // asked
    try:
      _read(source, index)
    except types.Unreadable as error:
      reasons[error.reason] += 1
      said.setdefault(error.reason, damage.failure(source, index, error).said)
  bad, firsts = reasons.total(), "\n".join(f"  {each}" for each in said.values())
  if bad == asked:
    raise ValueError(
        f"none of {asked} examples that were read can be used ({_listed(reasons)}):"
        f"\n{firsts}\nMend the data or the settings of the source."
    )
  counts: dict[str, Any] = {
      "examples": len(source), "read": asked - bad,
      **{f"unreadable/{reason}": count for reason, count in reasons.items()},
  }
  if bad:
    _log.warning(
        "%d of %d cannot be read; the first of each reason:\n%s", bad, asked, firsts
    )
  if bad > _MOST * asked:
    counts["verdict"] = (
        f"{bad / asked:.0%} is unreadable, and a run stops above {_MOST:.0%} "
        "(unreadable.most): mend the data, or leave these examples out."
    )
  return counts


def _read(source: types.Source, index: int) -> None:
  """Reads and decodes an example, or raises `types.Unreadable`."""
  image: Any = source[index].get("image")
  if hasattr(image, "decode"):
    image.decode()


def _listed(reasons: collections.Counter[str]) -> str:
  return ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())

"""In which settings runs differ."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

ABSENT = "(absent)"


def differences(
    configs: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[str]]]:
  """The settings in which complete configurations differ.

  Args:
    configs: as `config.json` holds them.

  Returns:
    (path of the setting, its value in each configuration as JSON), in the order
    of the paths; `ABSENT` where a configuration does not have it.

  Example:
    >>> differences([{"steps": 9, "image": {"depth": 2}},
    ...              {"steps": 9, "image": {"depth": 3}}])
    [('image/depth', ['2', '3'])]
  """
  flat = [_leaves("", config) for config in configs]
  # The elements of lists, and the settings of a group that one of them leaves
  # out, are compared one by one.
  paths = sorted(set().union(*flat), key=lambda path: path.split("/"))
  found = []
  for path in paths:
    if any(other.startswith(f"{path}/") for other in paths):
      continue  # empty in one of them, and compared one by one
    values = [leaves.get(path, ABSENT) for leaves in flat]
    if len(set(values)) > 1:
      found.append((path, values))
  return found


def _leaves(path: str, value: Any) -> dict[str, str]:
  """Path -> value of everything in nested data that is not nested further."""
  pairs: list[tuple[str, Any]] = []
  if isinstance(value, Mapping):
    pairs = [(str(name), each) for name, each in value.items()]
  elif isinstance(value, (list, tuple)) and any(
      isinstance(each, (Mapping, list, tuple)) for each in value
  ):
    pairs = [(str(n), each) for n, each in enumerate(value)]
  if not pairs:
    return {path: json.dumps(value, sort_keys=True)}
  found: dict[str, str] = {}
  for name, each in pairs:
    found |= _leaves(f"{path}/{name}" if path else name, each)
  return found

"""Renamed settings: the old name works for one more release.

The module of a plug-in, or the `__init__` of its folder, lists them:

    RENAMED = {"old_name": "new_name"}

A row applies to every function there that takes the new name and not the old
one, so a row in an `__init__` applies to all plug-ins of that folder.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from basic.experiment import schema


def table(function: Callable[..., Any]) -> dict[str, str]:
  """Old name -> new name, for the renamed settings of one function."""
  module = function.__module__
  rows: dict[str, str] = {}
  for name in (module.rpartition(".")[0], module):
    rows |= getattr(sys.modules.get(name), "RENAMED", {})
  return {
      old: new for old, new in rows.items()
      if schema.takes(function, new) and not schema.takes(function, old)
  }


def renew(
    where: str, function: Callable[..., Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
  """Settings under their new names.

  Args:
    where: path of the settings, for messages: "optimizer".
    function: takes the settings as arguments; other settings are kept as is.
    settings: the settings, by name.

  Returns:
    (settings, one warning for each old name).

  Raises:
    ValueError: if a setting is given under both names.
  """
  old_names = table(function)
  result, sentences = {}, []
  for name, value in settings.items():
    new = old_names.get(name, name)
    if new != name and new in settings:
      raise ValueError(
          f"{where}: {name!r} is the old name of {new!r}, and both are given; "
          f"keep {new!r}."
      )
    if new != name:
      sentences.append(
          f"{where}.{name} is now called {new}; the old name works in this "
          "release and not in the next."
      )
    result[new] = value
  return result, sentences


def warn(sentences: Iterable[str]) -> None:
  """Issues each sentence as a FutureWarning, which Python shows only once."""
  for sentence in sentences:
    warnings.warn(sentence, FutureWarning, stacklevel=2)


def configuration(
    config: Mapping[str, Any],
    functions: Callable[[str, Any], list[Callable[..., Any]]],
) -> tuple[dict[str, Any], list[str]]:
  """A configuration under the new names, including stages and evaluations.

  Args:
    config: a nested mapping.
    functions: (group, name of the plug-in) -> the functions that take the
      group's settings as arguments. The top level is the group "", each entry
      of `evals` the group "evaluation".

  Returns:
    (configuration, one warning for each old name).

  Raises:
    ValueError: if a setting is given under both names.
  """
  sentences: list[str] = []

  def group(key, settings, base, where):
    for function in functions(key, settings.get("name", base.get("name"))):
      settings, warned = renew(where or "config", function, settings)
      sentences.extend(warned)
    if key not in ("", "evals", "evaluation"):
      return dict(settings)
    return {
        k: inner("evaluation" if key == "evals" else k, v, base.get(k), where, k)
        for k, v in settings.items()
    }

  def inner(key, value, base, where, name):
    if not isinstance(value, Mapping):
      return value
    base = base if isinstance(base, Mapping) else {}
    return group(key, value, base, f"{where}.{name}".strip("."))

  result = group("", config, {}, "")
  stages = result.get("stages")
  if isinstance(stages, (list, tuple)):
    # A stage may change settings of a plug-in without repeating its name.
    result["stages"] = tuple(
        group("", changes, result, f"stages[{n}]")
        if isinstance(changes, Mapping) else changes
        for n, changes in enumerate(stages)
    )
  return result, sentences

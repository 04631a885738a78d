"""Settings that had another name: the old one works for one more release.

The module of a plug-in, or the `__init__` of its folder, lists them:

    RENAMED = {"old_name": "new_name"}

A row holds for every function there that takes the new name and not the old
one, so rows of an `__init__` serve all plug-ins of the folder that share them.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from basic.experiment import schema


def table(function: Callable[..., Any]) -> dict[str, str]:
  """Old name -> new name, of the settings of one function."""
  module = function.__module__
  rows: dict[str, str] = {}
  for place in (module.rpartition(".")[0], module):
    rows |= getattr(sys.modules.get(place), "RENAMED", {})
  return {
      old: new for old, new in rows.items()
      if schema.takes(function, new) and not schema.takes(function, old)
  }


def renew(
    where: str, function: Callable[..., Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
  """Settings under their new names.

  Args:
    where: what the settings are called in messages: "optimizer".
    function: whose arguments they are; other settings are left as they are.
    settings: the settings, by name.

  Returns:
    (settings, a sentence for each old name).

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
  """Shows each sentence as a FutureWarning, which Python shows once."""
  for sentence in sentences:
    warnings.warn(sentence, FutureWarning, stacklevel=2)


def configuration(
    config: Mapping[str, Any],
    functions: Callable[[str, Any], list[Callable[..., Any]]],
) -> tuple[dict[str, Any], list[str]]:
  """A configuration under the new names, its stages and evaluations included.

  Args:
    config: a nested mapping.
    functions: (group, name of the plug-in) -> the functions whose arguments the
      group holds. The whole is the group "", each of `evals` is "evaluation".

  Returns:
    (configuration, a sentence for each old name).

  Raises:
    ValueError: if a setting is given under both names.
  """
  sentences: list[str] = []

  def group(key, settings, base, where):
    for function in functions(key, settings.get("name", base.get("name"))):
      settings, said = renew(where or "config", function, settings)
      sentences.extend(said)
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
    # A stage that changes a plug-in's settings need not name the plug-in again.
    result["stages"] = tuple(
        group("", changes, result, f"stages[{n}]")
        if isinstance(changes, Mapping) else changes
        for n, changes in enumerate(stages)
    )
  return result, sentences

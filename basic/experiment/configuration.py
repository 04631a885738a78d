"""Configurations from Python: files, mappings, and settings given beside them."""

import copy
import importlib.util
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import ml_collections
import numpy as np

from basic import files
from basic.experiment import overrides

# The path of a file with `get_config`, or settings.
Given: TypeAlias = str | os.PathLike | Mapping[str, Any] | ml_collections.ConfigDict


def config(source: Given, /, *assignments: str, **settings: Any) -> Any:
  """A configuration that can be changed, trained and stored.

  Args:
    source: the path of a file with a function `get_config`, whose code is run; or
      a mapping or a ConfigDict, which is copied.
    *assignments: settings as on the command line: "optimizer.peak=1e-3",
      "stages[0].steps=5". They may name everything that an experiment takes.
    **settings: settings of the outermost level: `steps=100`,
      `source=dict(name="folder", path="pictures")`. NumPy's scalars are taken as
      Python's numbers, here and in a mapping.

  Returns:
    A ConfigDict: `config.optimizer.peak` reads a setting and, with "=", sets it.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file has no `get_config`, or a setting does not exist or
      has another type.

  Example:
    >>> changed = config({"steps": 9, "optimizer": {"name": "sgd"}},
    ...                  "optimizer.peak=1e-3", steps=100)
    >>> changed.steps, changed.optimizer.peak
    (100, 0.001)
  """
  found = read(source)
  if not isinstance(found, ml_collections.ConfigDict):
    found = ml_collections.ConfigDict(found, convert_dict=True)
  found = overrides.apply(found, assignments)
  with found.unlocked(), found.ignore_type():
    for name, value in _plain(settings).items():
      overrides.apply(found, [f"{name}={value!r}"])  # Refuses unknown names.
      found[name] = value
  return found


def read(source: Given) -> Any:
  """The configuration in a file, or a copy of a mapping or ConfigDict.

  Args:
    source: as in `config`; a path may be followed by ":text", which is the
      argument of its `get_config`, as in `--config`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it has no `get_config`, or that returns no configuration.
  """
  if isinstance(source, Mapping | ml_collections.ConfigDict):
    return _plain(copy.deepcopy(source))
  path, _, text = os.fspath(source).partition(".py:")
  path = files.checked("config", f"{path}.py" if text else path)
  if not path.is_file():
    raise FileNotFoundError(
        f"there is no configuration {os.fspath(source)!r}, seen from "
        f"{pathlib.Path.cwd()}; give the path of a file such as "
        "configs/digits.py, or settings as a dict."
    )
  module = _module(path)
  get_config = getattr(module, "get_config", None)
  if get_config is None:
    raise ValueError(f"{path} has no function get_config, which returns settings.")
  found = get_config(*([text] if text else []))
  if not isinstance(found, Mapping | ml_collections.ConfigDict):
    raise ValueError(
        f"get_config of {path} returned a {type(found).__name__}; expected a "
        "ConfigDict or a dict."
    )
  return _plain(found)


def name(source: Given) -> str:
  """A short name for a configuration: that of its file, or "run"."""
  if isinstance(source, str | os.PathLike):
    return pathlib.Path(os.fspath(source).partition(".py:")[0]).stem
  return "run"


def _plain(value: Any) -> Any:
  """A value with Python's numbers in place of NumPy's scalars, at any depth."""
  if isinstance(value, np.generic):
    return value.item()
  if isinstance(value, Mapping):
    return {key: _plain(each) for key, each in value.items()}
  if isinstance(value, list | tuple):
    found = [_plain(each) for each in value]
    return tuple(found) if isinstance(value, tuple) else found
  return value


def _module(path: pathlib.Path) -> Any:
  """Runs a file of Python; its name is not entered among the modules."""
  spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
  if spec is None or spec.loader is None:
    raise ValueError(f"{path} is no file of Python; expected a name like run.py.")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module

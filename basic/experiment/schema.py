"""Finds plug-ins by name and checks settings: the signature is the schema.

A plug-in is a module with one public function of the same name:
`basic.objectives.sigmoid` defines `sigmoid(*, ...)`. Settings are checked against
that signature, so an unknown or ill-typed setting raises a readable error before
any device is used.
"""

import collections.abc
import difflib
import importlib
import inspect
import pathlib
import types as python_types
import typing
from collections.abc import Callable, Mapping
from typing import Any

_PACKAGE = pathlib.Path(__file__).parent.parent


def plugins(folder: str) -> list[str]:
  """Names of the plug-ins in a folder of the package.

  Example:
    >>> "softmax" in plugins("objectives")
    True
  """
  return sorted(
      path.stem for path in (_PACKAGE / folder).glob("*.py")
      if not path.stem.startswith("_")
  )


def plugin(folder: str, name: str) -> Callable[..., Any]:
  """The function `name` of the module `basic.<folder>.<name>`.

  Raises:
    ValueError: if there is no such plug-in; the message lists all that exist.
  """
  names = plugins(folder)
  if name not in names:
    raise ValueError(
        f"there is no {name!r} in basic/{folder}{_nearest(name, names)} "
        f"It has {names}."
    )
  return getattr(importlib.import_module(f"basic.{folder}.{name}"), name)


def make(folder: str, settings: Mapping[str, Any], **extra: Any) -> Any:
  """Calls the plug-in that complete settings name.

  Args:
    folder: folder of the package: "sources".
    settings: `name`, and settings of the plug-in; others are ignored.
    extra: arguments that are no settings; those that the plug-in does not take
      are ignored. Settings win over them.

  Returns:
    What the plug-in returns.
  """
  function = plugin(folder, settings["name"])
  arguments = {**extra, **settings}
  return function(**{k: v for k, v in arguments.items() if takes(function, k)})


def member(module: Any, name: str, result: Any) -> Callable[..., Any]:
  """The function `name` of a module that returns `result`.

  Raises:
    ValueError: if there is none; the message lists all that exist.
  """
  names = sorted(
      key for key, value in vars(module).items()
      if inspect.isfunction(value) and not key.startswith("_")
      and f"{value.__module__}.".startswith(f"{module.__name__}.")
      and typing.get_type_hints(value).get("return") == result
  )
  if name not in names:
    raise ValueError(
        f"there is no {name!r} in {module.__name__}{_nearest(name, names)} "
        f"It has {names}."
    )
  return getattr(module, name)


def complete(
    where: str,
    function: Callable[..., Any],
    settings: Mapping[str, Any],
    given: tuple[str, ...] = (),
    kept: tuple[str, ...] = (),
) -> dict[str, Any]:
  """Checks settings against a signature and fills in what they leave out.

  Args:
    where: path of the settings, for messages: "objective".
    function: its keyword-only arguments are the settings that it takes.
    settings: the settings, by name; "name" itself is ignored.
    given: arguments that the caller supplies later unless settings do.
    kept: arguments that only the caller supplies; they are no settings.

  Returns:
    Every setting with its value, in the order of the signature; those that
    are `given` and not set are absent.

  Raises:
    ValueError: if a setting is unknown, missing, or of another type.
  """
  accepted = {
      name: argument
      for name, argument in inspect.signature(function).parameters.items()
      if argument.kind is inspect.Parameter.KEYWORD_ONLY and name not in kept
  }
  settings = {k: v for k, v in settings.items() if k != "name"}
  for name in settings:
    if name not in accepted:
      raise ValueError(
          f"{where}: {function.__name__}() has no setting {name!r}"
          f"{_nearest(name, accepted)} It takes {sorted(accepted)}."
      )
  hints = typing.get_type_hints(
      function.__init__ if inspect.isclass(function) else function
  )
  full = {}
  for name, argument in accepted.items():
    if name in settings:
      full[name] = _checked(f"{where}.{name}", settings[name], hints[name])
    elif name in given:
      continue
    elif argument.default is inspect.Parameter.empty:
      raise ValueError(
          f"{where}: {function.__name__}() needs the setting {name!r}."
      )
    else:
      full[name] = argument.default
  return full


def takes(function: Callable[..., Any], name: str) -> bool:
  """Whether a function has an argument of that name."""
  return name in inspect.signature(function).parameters


def _nearest(name: str, names: typing.Iterable[str]) -> str:
  """The end of an error's sentence: suggests a similar name if there is one."""
  close = difflib.get_close_matches(name, list(names), 1)
  return f"; did you mean {close[0]!r}?" if close else "."


def _checked(where: str, value: Any, hint: Any) -> Any:
  """A value as its type hint says, or a ValueError."""
  value = _tuples(value)
  if not _fits(value, hint):
    name = getattr(hint, "__name__", None) if isinstance(hint, type) else None
    raise ValueError(
        f"{where} is {value!r} ({type(value).__name__}); it takes "
        f"{name or str(hint).replace('typing.', '')}."
    )
  return float(value) if hint is float else value


def _tuples(value: Any) -> Any:
  """Lists as tuples, at any depth: JSON and command lines have no tuples."""
  if isinstance(value, (list, tuple)):
    return tuple(_tuples(each) for each in value)
  return value


def _fits(value: Any, hint: Any) -> bool:
  """Whether a value is of the type of a hint; ints count as floats."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, python_types.UnionType):
    return any(_fits(value, choice) for choice in arguments)
  if origin is typing.Literal:
    return value in arguments
  if origin is tuple and Ellipsis not in arguments and arguments:
    return isinstance(value, tuple) and len(value) == len(arguments) and all(
        map(_fits, value, arguments)
    )
  if origin in (tuple, list, collections.abc.Sequence):
    inner = arguments[0] if arguments else Any
    return isinstance(value, tuple) and all(_fits(v, inner) for v in value)
  if origin in (dict, collections.abc.Mapping):
    return isinstance(value, Mapping)
  if hint is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if hint in (bool, str, type(None)):
    return isinstance(value, hint)
  return True  # Any, and types that only Python code can pass.

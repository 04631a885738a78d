"""Finds plug-ins by name and checks settings: the signature is the schema.

A plug-in is a module with one public function of the same name:
`basic.objectives.sigmoid` defines `sigmoid(*, ...)`; or a function of another
package, named "their_package.module:function". Settings are checked against
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

from basic import types

_PACKAGE = pathlib.Path(__file__).parent.parent
_SOURCES = Mapping[str, types.Source]  # sources by label, of a source of sources


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
  """The function that a name in a configuration stands for.

  Args:
    folder: folder of the package: "sources".
    name: of a module in that folder, whose function of the same name it is; or
      "their_package.module:function", a function of another package, whose
      keyword-only arguments are its settings.

  Raises:
    ValueError: if there is no such plug-in; the message lists all that exist,
      or says why the other package's function cannot be used.
  """
  if ":" in name:
    return _foreign(name)
  names = plugins(folder)
  if name not in names:
    raise ValueError(
        f"there is no {name!r} in basic/{folder}{nearest(name, names)} "
        f"It has {names}."
    )
  return getattr(importlib.import_module(f"basic.{folder}.{name}"), name)


def _foreign(name: str) -> Callable[..., Any]:
  """The function that "package.module:function" names."""
  module_name, _, function_name = name.partition(":")
  if not all(part.isidentifier() for part in module_name.split(".")):
    raise ValueError(
        f"{name!r} names the module {module_name!r}, which cannot be imported: a "
        "module is named as by `import`, such as their_package.birds:birds."
    )
  try:
    module = importlib.import_module(module_name)
  except ImportError as error:
    raise ValueError(
        f"{name!r} names the module {module_name!r}, which cannot be imported: "
        f"{error}. It must be installed, or lie in the folder from which the "
        "command is started."
    ) from error
  function = getattr(module, function_name, None)
  if not callable(function):
    names = [key for key, value in vars(module).items() if callable(value)]
    raise ValueError(
        f"{module_name} has no function {function_name!r}"
        f"{nearest(function_name, names)}"
    )
  unnamed = [
      argument.name for argument in inspect.signature(function).parameters.values()
      if argument.kind is not inspect.Parameter.KEYWORD_ONLY
  ]
  if unnamed:
    raise ValueError(
        f"{name} takes {unnamed} by position; the settings of a configuration "
        "have names, so put all arguments after a `*`."
    )
  return function


def make(folder: str, settings: Mapping[str, Any], **extra: Any) -> Any:
  """Calls the plug-in that complete settings name.

  Args:
    folder: folder of the package: "sources".
    settings: `name`, and settings of the plug-in; others are ignored.
    extra: arguments that are no settings; those that the plug-in does not take
      are ignored. Settings win over them.

  Returns:
    What the plug-in returns. Its arguments of type `types.Source`, or
    `Mapping[str, types.Source]`, are made of their settings first.
  """
  function = plugin(folder, settings["name"])
  arguments = {**extra, **settings}
  types_of = hints(function)
  return function(**{
      key: _made(value, types_of.get(key)) for key, value in arguments.items()
      if takes(function, key)
  })


def _made(value: Any, hint: Any) -> Any:
  """The sources that settings describe, where an argument is of sources."""
  if hint == types.Source:
    return make("sources", value)
  if hint == _SOURCES:
    return {label: make("sources", each) for label, each in value.items()}
  return value


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
        f"there is no {name!r} in {module.__name__}{nearest(name, names)} "
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
  accepted = arguments(function, kept)
  settings = {k: v for k, v in settings.items() if k != "name"}
  for name in settings:
    if name not in accepted:
      raise ValueError(
          f"{where}: {function.__name__}() has no setting {name!r}"
          f"{nearest(name, accepted)} It takes {sorted(accepted)}."
      )
  types_of = hints(function)
  full = {}
  for name, argument in accepted.items():
    if name in settings:
      full[name] = checked(
          f"{where}.{name}", settings[name], types_of.get(name, Any)
      )
    elif name in given:
      continue
    elif argument.default is inspect.Parameter.empty:
      raise ValueError(
          f"{where}: {function.__name__}() needs the setting {name!r}."
      )
    else:
      full[name] = argument.default
  return full


def arguments(
    function: Callable[..., Any], kept: tuple[str, ...] = ()
) -> dict[str, inspect.Parameter]:
  """The keyword-only arguments of a function, by name, except those `kept`."""
  return {
      name: argument
      for name, argument in inspect.signature(function).parameters.items()
      if argument.kind is inspect.Parameter.KEYWORD_ONLY and name not in kept
  }


def hints(function: Callable[..., Any]) -> dict[str, Any]:
  """The types of a function's arguments, by name, of those that are annotated.

  Raises:
    ValueError: if an annotation names something that does not exist.
  """
  try:
    return typing.get_type_hints(
        function.__init__ if inspect.isclass(function) else function
    )
  except (NameError, AttributeError, SyntaxError, TypeError) as error:
    raise ValueError(
        f"{function.__module__}:{function.__name__} has an annotation that cannot "
        f"be resolved ({error}); its settings are checked against their types, so "
        "import at the top of that file what they name."
    ) from error


def takes(function: Callable[..., Any], name: str) -> bool:
  """Whether a function has an argument of that name."""
  return name in inspect.signature(function).parameters


def nearest(name: str, names: typing.Iterable[str]) -> str:
  """The end of an error's sentence: suggests a similar name if there is one.

  Example:
    >>> nearest("peek", ["peak", "decay"])
    "; did you mean 'peak'?"
  """
  close = difflib.get_close_matches(name, list(names), 1)
  return f"; did you mean {close[0]!r}?" if close else "."


def checked(where: str, value: Any, hint: Any) -> Any:
  """A value as its type hint says: lists as tuples, sources complete.

  Args:
    where: path of the setting, for messages: "optimizer.peak".
    value: of the setting.
    hint: type of the argument.

  Raises:
    ValueError: if the value is of another type.
  """
  value = tuples(value)
  if hint == types.Source:
    return _source(where, value)
  if hint == _SOURCES and isinstance(value, Mapping):
    return {k: _source(f"{where}.{k}", each) for k, each in value.items()}
  if not fits(value, hint):
    raise ValueError(
        f"{where} is {value!r} ({type(value).__name__}); it takes {shown(hint)}."
    )
  return float(value) if hint is float else value


def shown(hint: Any) -> str:
  """A type as a message names it.

  Example:
    >>> shown(int), shown(float | None)
    ('int', 'float | None')
  """
  name = getattr(hint, "__name__", None) if isinstance(hint, type) else None
  return name or str(hint).replace("typing.", "")


def _source(where: str, value: Any) -> dict[str, Any]:
  """Complete settings of a source that another source reads."""
  name = value.get("name") if isinstance(value, Mapping) else None
  if not isinstance(name, str):
    raise ValueError(
        f"{where} is {value!r}; it takes the settings of a source, such as "
        "dict(name='tfds', ...)."
    )
  try:
    function = plugin("sources", name)
  except ValueError as error:
    raise ValueError(f"{where}.name: {error}") from error
  return {"name": name} | complete(where, function, value)


def tuples(value: Any) -> Any:
  """Lists as tuples, at any depth: JSON and command lines have no tuples.

  Example:
    >>> tuples([1, [2]])
    (1, (2,))
  """
  if isinstance(value, (list, tuple)):
    return tuple(tuples(each) for each in value)
  return value


def fits(value: Any, hint: Any) -> bool:
  """Whether a value is of the type of a hint; ints count as floats.

  Example:
    >>> fits(1, float | None), fits((1, 2), tuple[str, ...])
    (True, False)
  """
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, python_types.UnionType):
    return any(fits(value, choice) for choice in arguments)
  if origin is typing.Literal:
    return value in arguments
  if origin is tuple and Ellipsis not in arguments and arguments:
    return isinstance(value, tuple) and len(value) == len(arguments) and all(
        map(fits, value, arguments)
    )
  if origin in (tuple, list, collections.abc.Sequence):
    inner = arguments[0] if arguments else Any
    return isinstance(value, tuple) and all(fits(v, inner) for v in value)
  if origin in (dict, collections.abc.Mapping):
    if not isinstance(value, Mapping):
      return False
    key, each = arguments or (Any, Any)
    return all(fits(k, key) and fits(tuples(v), each) for k, v in value.items())
  if hint is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if hint in (bool, str, type(None)):
    return isinstance(value, hint)
  return True  # Any, and types that only Python code can pass.

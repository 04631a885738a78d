"""Settings of a function from a command line: --name=value for each argument."""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from basic.experiment import schema

_BOOLS = {"true": "True", "false": "False"}


def settings(
    where: str, function: Callable[..., Any], arguments: Sequence[str]
) -> dict[str, Any]:
  """Parses the arguments of a command as the settings of a function.

  A value is a Python literal where it can be read as one, and text otherwise;
  an argument of nested settings is given by its path:

      --shards='{00..12}.tar' --most=8 --source.name=tar --overwrite

  What follows a `--` is the argument `runner`, a tuple of text: flags that another
  program parses.

  Args:
    where: the name of the command, for messages.
    function: its keyword-only arguments are the settings.
    arguments: of the command line: "--name=value", "--name value", or "--name"
      alone for True.

  Returns:
    Complete settings of the function.

  Raises:
    ValueError: if an argument is not of this form, if a command that takes no
      `runner` is given flags for one, or as `schema.complete`.

  Example:
    >>> def index(*, shards: str, most: int = 4) -> None: ...
    >>> settings("index", index, ["--shards", "a.tar", "--most=8"])
    {'shards': 'a.tar', 'most': 8}
  """
  types_of = schema.hints(function)
  remaining, flags = split(arguments)
  given: dict[str, Any] = {}
  if flags is not None:
    if "runner" not in types_of:
      raise ValueError(
          f"{where}: found {' '.join(['--', *flags])!r}; only a command that has "
          "the setting runner takes flags after `--`."
      )
    given["runner"] = flags
  while remaining:
    name, text = _next(where, remaining)
    group, names = given, name.split(".")
    for part in names[:-1]:
      group = group.setdefault(part, {})
      if not isinstance(group, dict):
        raise ValueError(f"{where}: --{name} is set, and so is --{part} itself.")
    group[names[-1]] = value(text, types_of.get(name, Any))
  return schema.complete(where, function, given)


def split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...] | None]:
  """The arguments before a `--`, and those after it; None where there is none.

  Example:
    >>> split(["--most=8", "--", "--runner=DirectRunner"])
    (['--most=8'], ('--runner=DirectRunner',))
  """
  own = list(arguments)
  if "--" not in own:
    return own, None
  place = own.index("--")
  return own[:place], tuple(own[place + 1:])


def _next(where: str, remaining: list[str]) -> tuple[str, str]:
  """Takes one (name, text of the value) from the front of the arguments."""
  argument = remaining.pop(0)
  if not argument.startswith("--") or len(argument) < 3:
    raise ValueError(
        f"{where}: found {argument!r}; expected --name=value. "
        "`--help` in place of all of them lists the names."
    )
  name, equals, text = argument[2:].partition("=")
  name = name.replace("-", "_")
  if equals:
    return name, text
  if remaining and not remaining[0].startswith("--"):
    return name, remaining.pop(0)
  return name, "True"


def value(text: str, hint: Any) -> Any:
  """The value that a text stands for, where an argument of a type is wanted.

  A Python literal where that is of the type, otherwise the text itself or a tuple
  of it. A text that is of none of these types is returned as a literal, for
  `schema.checked` to refuse.

  Example:
    >>> value("007", str), value("1e-3", float), value("a.tar", tuple[str, ...])
    ('007', 0.001, ('a.tar',))
  """
  literal = _literal(_BOOLS.get(text, text))
  if hint is Any:
    return literal
  if not isinstance(literal, str) and schema.fits(schema.tuples(literal), hint):
    return literal
  return next((x for x in (text, (text,)) if schema.fits(x, hint)), literal)


def _literal(text: str) -> Any:
  """A text as the Python literal that it is, or itself."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def manual(function: Callable[..., Any]) -> str:
  """The help of a command: the documentation of its function."""
  return inspect.getdoc(function) or ""


def commands(folder: str) -> Mapping[str, str]:
  """The commands in a folder of the package, with what each does in a line."""
  return {
      name: manual(schema.plugin(folder, name)).split("\n")[0]
      for name in schema.plugins(folder)
  }

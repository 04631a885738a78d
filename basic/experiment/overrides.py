"""Settings given beside a configuration: optimizer.peak=1e-3 on a command line.

Everything that the manual and the plug-ins take can be set, whether or not the
configuration mentions it. Names and types are checked against the signatures
that `settings.complete` checks a whole configuration against.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from basic import types
from basic.experiment import command_line, schema, settings

_PREFIX = re.compile(r"--?(no)?config\.")
_GROUP = (Mapping, ml_collections.ConfigDict)
_INDEXED = re.compile(r"(\w+)\[(-?\d+)\]")
# Kinds of groups, beside those of `settings.arguments`: "*x" maps labels to
# groups x, "stages" is their list, "stage" one of them, None has free keys.
_LABELLED = {"evals": "*evaluation", "looks": "*look", "photometric": "*change"}


class _Place(NamedTuple):
  """A group of settings.

  Attributes:
    where: its path, for messages.
    kind: what it takes.
    own: its settings in the configuration, changed in place.
    base: the settings that it changes, where it is of a stage.
  """

  where: str
  kind: str | None
  own: Any
  base: Any


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
  """Takes the settings out of a command line.

  Args:
    arguments: "--config.name=value", "--config.name value", "--config.name" for
      True, "--noconfig.name" for False, and any others.

  Returns:
    (the other arguments, "name=value" for each setting).

  Example:
    >>> split(["train", "--config.steps", "5", "--workdir=x"])
    (['train', '--workdir=x'], ['steps=5'])
  """
  others, found, remaining = [], [], list(arguments)
  while remaining:
    argument = remaining.pop(0)
    prefix = _PREFIX.match(argument)
    if argument == "--" or not prefix:
      others += [argument, *(remaining if argument == "--" else [])]
      remaining = [] if argument == "--" else remaining
      continue
    name = argument[prefix.end():]
    if "=" not in name:
      follows = not prefix[1] and remaining and not remaining[0].startswith("--")
      name += f"={remaining.pop(0) if follows else not prefix[1]}"
    found.append(name)
  return others, found


def names(assignments: Sequence[str]) -> list[str]:
  """The settings that assignments set: "optimizer.peak"."""
  return [each.partition("=")[0] for each in assignments]


def apply(config: Any, assignments: Sequence[str]) -> Any:
  """A configuration with some settings replaced or added.

  Args:
    config: settings of `manual.experiment`: a nested mapping or a ConfigDict,
      which is left as it is.
    assignments: "path=value": "optimizer.peak=1e-3", "stages[0].steps=5",
      "evals.single.limit=100". A value is a Python literal, or text. Names of
      plug-ins are set before their settings; otherwise the last one wins.

  Returns:
    A copy of the configuration; in a ConfigDict, what refers to a replaced
    setting follows it.

  Raises:
    ValueError: if an assignment has no "=", there is no such setting, or its
      value is of another type.

  Example:
    >>> apply({"optimizer": {"name": "sgd"}}, ["optimizer.peak=1e-3"])
    {'optimizer': {'name': 'sgd', 'peak': 0.001}}
  """
  result = copy.deepcopy(config)
  if isinstance(result, ml_collections.ConfigDict):
    result.unlock()
  for path, text in sorted(map(_pair, assignments), key=_names_first):
    _assign(result, path, text)
  if isinstance(result, ml_collections.ConfigDict):
    result.lock()
  return result


def _pair(assignment: str) -> tuple[str, str]:
  path, equals, text = assignment.partition("=")
  if not equals or not path.strip():
    raise ValueError(
        f"found {assignment!r}; expected the path of a setting and its value, "
        "such as optimizer.peak=1e-3."
    )
  return path.strip(), text


def _names_first(pair: tuple[str, str]) -> tuple[int, ...]:
  """A key to sort by: names of plug-ins, from the outermost on, come first."""
  *groups, last = pair[0].split(".")
  return (0, len(groups)) if last == "name" else (1,)


def _assign(config: Any, path: str, text: str) -> None:
  """Sets one setting in place."""
  *groups, last = _keys(path)
  place = _Place("", "", config, {})
  for n, key in enumerate(groups):
    is_new = place.kind == "*change" or [*groups[n + 1:], last] == ["name"]
    place = _inside(place, key, is_new)
  if place.kind == "stages":
    raise ValueError(
        f"{path}: a stage has settings of its own; set one of them, as by "
        "stages[0].steps=5."
    )
  hint = _hint(place, last)
  value = schema.checked(path, command_line.value(text, hint), hint)
  _set(place.own, str(last), value)


def _keys(path: str) -> Iterator[str | int]:
  """The keys along a path; what is in brackets is a number."""
  for part in path.split("."):
    if indexed := _INDEXED.fullmatch(part):
      yield indexed[1]
      yield int(indexed[2])
    else:
      yield part


def _inside(place: _Place, key: str | int, is_new: bool) -> _Place:
  """A group in a group, made if there is none yet.

  Args:
    place: the outer group.
    key: of the inner one.
    is_new: whether a label that does not exist yet begins a group.
  """
  where = f"{place.where}.{key}".strip(".")
  if place.kind == "stages":
    return _stage(place, key)
  key, kind = str(key), _kind(place, key)
  if kind == "stages":
    return _Place(where, kind, place.own.get(key) or (), place.own)
  own, base = place.own.get(key), place.base.get(key)
  if own is None:
    if str(place.kind).startswith("*") and not is_new and base is None:
      raise ValueError(
          f"{where}: {place.where} has no {key!r}"
          f"{schema.nearest(key, place.own)} It has {sorted(place.own)}; a new "
          f"one begins with {where}.name=..."
      )
    _set(place.own, key, {})
    own = place.own[key]
  if not isinstance(own, _GROUP):
    raise ValueError(
        f"{where} is {own!r} in the configuration, which has no settings of its "
        f"own; set {where} as a whole."
    )
  return _Place(where, kind, own, base if isinstance(base, _GROUP) else {})


def _stage(place: _Place, key: str | int) -> _Place:
  """One of the stages."""
  count = len(place.own)
  if isinstance(key, str):
    raise ValueError(
        f"stages.{key}: the configuration has {count} stages; name one of them, as "
        f"by stages[0].{key}=..."
    )
  if not -count <= key < count:
    raise ValueError(
        f"stages[{key}] is not there: the configuration has {count} stages, "
        "which are counted from stages[0] on."
    )
  return _Place(f"stages[{key}]", "stage", place.own[key], place.base)


def _kind(place: _Place, key: str | int) -> str | None:
  """What a group in a group is."""
  hint = _hint(place, key)
  if str(place.kind).startswith("*"):
    return str(place.kind)[1:]
  if place.kind in ("", "stage") and (key in _LABELLED or key == "stages"):
    return _LABELLED.get(str(key), "stages")
  if settings.is_group(str(place.kind), str(key)):
    return str(key)
  if hint == types.Source:
    return "source"
  if hint == Mapping[str, types.Source]:
    return "*source"
  if not schema.fits({}, hint):
    raise ValueError(
        f"{f'{place.where}.{key}'.strip('.')} takes {schema.shown(hint)}, which "
        "has no settings of its own."
    )
  return None


def _hint(place: _Place, key: str | int) -> Any:
  """The type of a setting of a group; ValueError if there is no such setting."""
  if place.kind is None:
    return Any
  if place.kind.startswith("*"):
    return Mapping[str, Any]
  if key == "name" and settings.is_named(place.kind):
    return str
  name = place.own.get("name", place.base.get("name"))
  known = settings.arguments(place.where, place.kind, name)
  if key not in known:
    raise ValueError(
        f"{f'{place.where}.{key}'.strip('.')}: {name or place.where or 'config'} "
        f"has no setting {key!r}{schema.nearest(str(key), known)} It takes "
        f"{sorted(known)}."
    )
  return known[str(key)]


def _set(group: Any, key: str, value: Any) -> None:
  """Sets a setting, which may be new and of another type than before."""
  if isinstance(group, ml_collections.ConfigDict):
    with group.unlocked(), group.ignore_type():
      group[key] = value
  else:
    group[key] = value

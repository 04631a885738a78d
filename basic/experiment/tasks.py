"""Tasks of evaluation suites: files that say which data, names, prompts and metric.

A task is a TOML file, in `basic/evals/tasks` or anywhere else:

    about = "CIFAR-10: small photographs of animals and vehicles."
    metric = "accuracy"
    name = "zeroshot"
    templates = ["a photo of a {}.", "a small picture of a {}."]
    [source]
    name = "tfds"
    dataset = "cifar10"
    split = "test"
    label = "label"

`about`, `metric`, `known_as`, `needs` and `like` are its own; all else are settings of
an evaluation, as in `evals` of a configuration. Lists may be in files beside it. A
task that is `like = "cifar10"` reads the source of that one, and its `reference` says
only what is different there, such as `split = "train"`.
"""

import functools
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

from basic.experiment import name_lists, schema, settings

FOLDER = pathlib.Path(schema.__file__).parent.parent / "evals" / "tasks"
# What people call a metric -> what evaluators do.
METRICS = {
    "accuracy": "@1", "accuracy_top5": "@5", "mean_per_class": "/per_class@1",
    "map_11_point": "/map_11_point",
}
# Setting with a file -> the setting that its content is.
_FILES = {
    "classnames_file": "classes", "templates_file": "templates",
    "subset_file": "subset",
}
_OWN = ("about", "metric", "known_as", "needs")
_DATA_DIR = "{data_dir}"


class Task(NamedTuple):
  """A data set, what to measure on it, and how.

  Attributes:
    name: of its file, without ".toml".
    about: what it is, in a sentence.
    metrics: those shown in a table, the most important one first, as the evaluator
      names them: "@1".
    known_as: its keys in other projects' files of names, such as CLIP_benchmark's.
    needs: where its data comes from, in a sentence; "" for data of TFDS.
    settings: complete settings of its evaluation.
  """

  name: str
  about: str
  metrics: tuple[str, ...]
  known_as: tuple[str, ...]
  needs: str
  settings: dict[str, Any]


class NoData(FileNotFoundError):
  """The data of a task is not on this machine."""


def names() -> list[str]:
  """The tasks that come with this package, sorted.

  Example:
    >>> {"imagenet", "imagenet_a", "voc2007"} <= set(names())
    True
  """
  return sorted(path.stem for path in FOLDER.glob("*.toml"))


@functools.cache
def suites() -> dict[str, Any]:
  """Suites, averages and shifts of the tasks of this package (evals/suites.toml).

  Returns:
    "suites": name -> tasks; "averages": title -> tasks; "shifts": "before", a
    task, and "after", the tasks with other data of its classes.
  """
  return tomllib.loads((FOLDER.parent / "suites.toml").read_text())


def of_suite(suite: str) -> list[str]:
  """The tasks of a suite; those of all suites, each once, for "all".

  Raises:
    ValueError: if there is no such suite.
  """
  known = suites()["suites"]
  if suite == "all":
    return list(dict.fromkeys(name for tasks in known.values() for name in tasks))
  if suite not in known:
    raise ValueError(
        f"--suite is {suite!r}; there are {sorted([*known, 'all'])}."
    )
  return list(known[suite])


def read(
    where: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    classnames: str | os.PathLike | None = None,
    templates: str | os.PathLike | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Task:
  """Reads and checks a task.

  Args:
    where: a name of `names()`, or the path of a TOML file.
    data_dir: folder of the data sets: TFDS's, and what "{data_dir}" in the settings
      of a source stands for; None: TFDS's default.
    classnames: a file of class names in place of those of the task, as read by
      `name_lists`; a task that it does not list keeps its own.
    templates: a file of templates, likewise.
    changes: settings that take precedence, such as limit=1000.

  Returns:
    A task; its source is not open.

  Raises:
    FileNotFoundError: if there is no such task or file; `NoData` if its source
      needs `data_dir` and there is none.
    ValueError: if a file cannot be read, or a setting is wrong.
  """
  path = _path(where)
  found = _alike(_toml(path))
  own = {key: found.pop(key) for key in _OWN if key in found}
  known_as = (path.stem, *own.get("known_as", ()))
  for key, setting in _FILES.items():
    if key in found:
      found |= _listed(path.parent / found.pop(key), setting, known_as)
  takes = functools.partial(
      schema.takes, schema.plugin("evals", found.get("name", ""))
  )
  for file, setting in ((classnames, "classes"), (templates, "templates")):
    if file is not None and takes(setting):
      given = _listed(pathlib.Path(file), setting, known_as)
      if "classes" in given:
        found = _relabelled(found, given["classes"])
      found |= given
  accepted = {k: v for k, v in (changes or {}).items() if v is not None}
  placed = _placed({**found, **accepted}, data_dir, own.get("needs", ""), path.stem)
  metrics = own.get("metric", "accuracy")
  listed = [metrics] if isinstance(metrics, str) else metrics
  return Task(
      path.stem, own.get("about", ""),
      tuple(METRICS.get(metric, metric) for metric in listed), known_as,
      own.get("needs", ""), settings.evaluation(path.name, placed),
  )


def _path(where):
  """The file of a task."""
  text = os.fspath(where)
  if text in names():
    return FOLDER / f"{text}.toml"
  path = pathlib.Path(text)
  if path.suffix == ".toml" and path.exists():
    return path
  raise FileNotFoundError(
      f"there is no task {text!r}; it is one of {names()}, or the path of a TOML "
      "file."
  )


def _toml(path):
  try:
    return tomllib.loads(path.read_text())
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f"{path}: it is not TOML: {error}.") from error


def _alike(found):
  """A task with the source of the one that it is `like`."""
  other = _toml(_path(found["like"])) if "like" in found else {}
  source = {**other.get("source", {}), **found.get("source", {})}
  taken = {"source": source} if source else {}
  if other and "reference" in found:
    taken["reference"] = {**source, **found["reference"]}
  if "needs" in other:
    taken["needs"] = other["needs"]
  return {k: v for k, v in {**found, **taken}.items() if k != "like"}


def _listed(path, setting, known_as):
  """{setting: what a file lists}; a mapping of classes is of the setting `names`."""
  found = name_lists.read(path, known_as)
  if found is None:
    return {}
  if isinstance(found, dict) and setting != "classes":
    raise ValueError(f"{path}: {setting} takes a list, and it has a mapping.")
  return {"names" if isinstance(found, dict) else setting: found}


def _relabelled(found, classes):
  """A task before `classes` take the place of its `names`, which `subset` may use.

  Labels are in the order of the sorted names, as TFDS and folders of classes have it.
  """
  own = found.get("names") or {}
  labels = {name: label for label, name in enumerate(sorted(own))}
  rest = {key: value for key, value in found.items() if key != "names"}
  if own and "subset" in found and not set(found["subset"]) <= set(classes):
    rest["subset"] = tuple(labels.get(each, each) for each in found["subset"])
  return rest


def _placed(found, data_dir, needs, name):
  """The settings with the folder of the data in the settings of sources."""

  def fill(value):
    if isinstance(value, Mapping):
      inner = {key: fill(each) for key, each in value.items()}
      kind = inner.get("name")
      if data_dir is not None and kind in schema.plugins("sources"):
        if schema.takes(schema.plugin("sources", kind), "data_dir"):
          inner.setdefault("data_dir", os.fspath(data_dir))
      return inner
    if isinstance(value, list):
      return [fill(each) for each in value]
    if isinstance(value, str) and _DATA_DIR in value:
      if data_dir is None:
        raise NoData(
            f"{name} reads {value}, and no --data_dir says where that is. {needs}"
        )
      return value.replace(_DATA_DIR, os.fspath(data_dir))
    return value

  sources = [key for key in ("source", "reference") if key in found]
  return {**found, **{key: fill(found[key]) for key in sources}}



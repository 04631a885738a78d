"""The reference: Markdown pages from signatures and docstrings.

There is a page for each kind of plug-in, for the groups of settings, for the
Python interface and for the programs. Sphinx makes them part of the site
(conf.py).
"""

import ast
import inspect
import pathlib
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import docstrings

import basic
from basic.experiment import manual, schema, settings

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Folder of plug-ins -> title and introduction of its page.
KINDS = {
    "objectives": ("Objectives", "`objective=dict(name=...)`: the loss over all "
                   "pairs of a batch."),
    "encoders": ("Encoders", "`image=dict(name=...)`, `text=dict(name=...)`: the "
                 "towers, from rows to features."),
    "sources": ("Sources", "`source=dict(name=...)`: where examples come from. "
                "[Data](../data.md) tells how they are read."),
    "augmentations": ("Augmentations", "`looks=dict(image=dict(name=...))`: how "
                      "training changes images, example by example."),
    "evals": ("Evaluations", "`evals=dict(label=dict(name=..., source=...))`: "
              "metrics of the towers on held-out data."),
    "weights": ("Formats of weights", "`weights=dict(name=..., path=...)` reads "
                "them, `basic.export --format` writes them."),
    "gradient": ("Gradients", "`gradient=dict(name=...)`: how the gradient of the "
                 "whole batch is computed. All give the same values."),
    "optim": ("Optimizers", "`optimizer=dict(name=...)`: from gradients to "
              "updates."),
    "preparation": ("Preparation", "`python -m basic.prepare NAME --setting=value`: "
                    "commands that make data ready."),
}
# Folder -> group of settings in a configuration, where there is one.
GROUPS = {"evals": "evaluation", "gradient": "gradient", "optim": "optimizer"}
PROGRAMS = (
    "train", "evaluate", "report", "plan", "export", "interpolate", "prepare",
    "embed", "serve",
)


def pages() -> dict[str, str]:
  """All pages of the reference: file name -> Markdown."""
  made = {f"{folder}.md": plugins(folder) for folder in KINDS}
  made["settings.md"] = groups()
  made["python.md"] = interface()
  made["programs.md"] = programs()
  return {"index.md": _index(), **made}


def names(folder: str) -> list[str]:
  """The plug-ins that a configuration can name in a folder."""
  if folder not in ("gradient", "optim"):
    return schema.plugins(folder)
  module, result = settings._MEMBERS[GROUPS[folder]]
  return sorted(
      name for name, value in vars(module).items()
      if name in schema.plugins(folder) and inspect.isfunction(value)
      and typing.get_type_hints(value).get("return") == result
  )


def plugins(folder: str) -> str:
  """The page of one kind of plug-in."""
  title, introduction = KINDS[folder]
  group = GROUPS.get(folder, "")
  parts = [f"# {title}", introduction]
  for name in names(folder):
    function = _function(folder, name)
    supplied = (
        *settings._SUPPLIED.get(group, ()),
        *settings._SUPPLIED_UNLESS_SET.get(group, ()),
    )
    parts.append(_entry(
        name, function, f"{folder}-{name}", supplied=supplied,
        source=f"basic/{folder}/{name}.py", module=_module_text(function),
    ))
  return _page(parts)


def _function(folder: str, name: str) -> Callable[..., Any]:
  if folder in ("gradient", "optim"):
    return getattr(settings._MEMBERS[GROUPS[folder]][0], name)
  return schema.plugin(folder, name)


def groups() -> str:
  """The page of the groups of settings in a configuration."""
  parts = [
      "# Settings of an experiment",
      "A configuration is a nested mapping of these settings. `python -m basic.train "
      "--config FILE --config.optimizer.peak=1e-3` changes one on the command line.",
  ]
  schemas = {"experiment": manual.experiment} | {
      name: value for name, value in vars(manual).items()
      if inspect.isfunction(value) and not name.startswith("_")
  }
  own = {function: name for name, function in schemas.items()}
  for key, function in settings._FUNCTIONS.items():
    own.setdefault(function, key)
  for function, name in own.items():
    origin = function.__module__.replace(".", "/")
    parts.append(_entry(
        name, function, f"settings-{name}", source=f"{origin}.py",
        supplied=settings._SUPPLIED.get(name, ()),
    ))
  return _page(parts)


def interface() -> str:
  """The page of what `import basic` offers."""
  parts = [
      "# Python", docstrings.prose(inspect.getdoc(basic) or ""),
  ]
  for name in getattr(basic, "__all__", ()):
    value = getattr(basic, name)
    if inspect.ismodule(value):  # A program that can be called.
      value = getattr(value, name)
    parts.append(_entry(f"basic.{name}", value, f"python-{name}"))
    if inspect.isclass(value):
      parts += [
          _entry(f"{name}.{key}", method, f"python-{name}-{key}", level=3)
          for key, method in _methods(value)
      ]
  return _page(parts)


def _methods(owner: type) -> Iterable[tuple[str, Any]]:
  """Documented public methods and properties of a class, in their order."""
  for key, value in vars(owner).items():
    plain = value.fget if isinstance(value, property) else value
    plain = getattr(plain, "__func__", plain)
    if not key.startswith("_") and inspect.isfunction(plain) and plain.__doc__:
      yield key, plain


def programs() -> str:
  """The page of the programs: their own words on how they are started."""
  parts = ["# Programs", "Each lists its flags with `--help`."]
  for name in PROGRAMS:
    file = ROOT / "basic" / f"{name}.py"
    if not file.exists():
      continue
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    command, _, rest = text.partition("\n")
    parts += [
        f"(program-{name})=\n## basic.{name}", f"```text\n{command}\n```",
        docstrings.prose(textwrap.dedent(rest)),
    ]
  return _page(parts)


def _entry(
    name: str, function: Callable[..., Any], anchor: str, *, level: int = 2,
    source: str = "", module: str = "", supplied: tuple[str, ...] = (),
) -> str:
  """One function or class: what it does, its settings, and the rest."""
  text = docstrings.parse(inspect.getdoc(function) or "")
  parts = [
      f"({anchor})=\n{'#' * level} {name}",
      docstrings.prose(text.short_description),
      docstrings.prose(text.long_description), docstrings.prose(module),
      _arguments(function, text, supplied),
  ]
  returned = text.returns
  if returned is not None and returned.description:
    parts.append(f"**Returns.** {docstrings.prose(returned.description)}")
  if text.raises:
    errors = [
        docstrings.definition(f"`{each.type_name}`", each.description or "")
        for each in text.raises
    ]
    parts += ["**Raises**", *errors]
  for each in text.meta:
    if each.args[0] == "references":
      parts += ["**References**", docstrings.references(each.description or "")]
    if each.args[0] == "examples":
      parts += ["**Example**", f"```pycon\n{each.description}\n```"]
  if source:
    parts.append(f"*Written in* `{source}`.")
  return "\n\n".join(filter(None, parts))


def _module_text(function: Callable[..., Any]) -> str:
  """What the module of a plug-in says after its first line."""
  text = inspect.getdoc(sys.modules[function.__module__]) or ""
  whole = docstrings.parse(text)
  return whole.long_description or ""


def _arguments(
    function: Callable[..., Any], text: Any, supplied: tuple[str, ...]
) -> str:
  """The definition list of a function's arguments, with types and defaults."""
  constructor = vars(function).get("__init__") if inspect.isclass(function) else None
  own = docstrings.parse(inspect.getdoc(constructor) or "") if constructor else None
  params = [*text.params, *(own.params if own else ())]
  described = {  # One entry may describe several: "b1, b2: as in `adamw`."
      name.strip(" *"): each for each in params for name in each.arg_name.split(",")
  }
  hints, written = _hints(function), _defaults(function)
  entries = []
  for name, argument in _signature(function).items():
    if name == "self":
      continue
    kind = shown(hints.get(name, argument.annotation))
    default = "" if argument.default is inspect.Parameter.empty else (
        f" = `{written.get(name, repr(argument.default))}`"
    )
    note = " *supplied by the run*" if name in supplied else (
        "" if default or argument.kind in _REST else " *required*"
    )
    found = described.pop(name, None)
    entries.append(docstrings.definition(
        f"`{name}`: {kind}{default}{note}", (found and found.description) or ""
    ))
  entries += [  # Attributes of a class, which its signature does not have.
      docstrings.definition(f"`{name}`", each.description or "")
      for name, each in described.items() if each.args[0] == "attribute"
  ]
  return "\n\n".join(entries)


_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
  try:
    return inspect.signature(function).parameters
  except ValueError:
    return {}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
  try:
    return schema.hints(function)
  except ValueError:  # A type that is imported for the type checker alone.
    return {}


def shown(hint: Any) -> str:
  """A type as the reference names it.

  Example:
    >>> shown(int | None), shown(typing.Literal["a", "b"])
    ('`int | None`', '`"a" | "b"`')
  """
  if hint is inspect.Parameter.empty:
    return "`Any`"
  return f"`{_type(hint)}`"


def _type(hint: Any) -> str:
  if isinstance(hint, str):
    return hint
  if hint is type(None):
    return "None"
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Literal:
    return " | ".join(f'"{x}"' if isinstance(x, str) else repr(x) for x in inner)
  if hint == manual.Settings:
    return "settings"
  if isinstance(hint, type) and origin is None:
    module = hint.__module__.removeprefix("basic.")
    plain = module in ("builtins", "collections.abc", "typing", "pathlib", "os")
    return hint.__name__ if plain or "jaxtyping" in module else (
        f"{module.rpartition('.')[2]}.{hint.__name__}"
    )
  text = str(hint)
  for old in ("collections.abc.", "typing.", "basic.", "NoneType"):
    text = text.replace(old, "None" if old == "NoneType" else "")
  if origin is not None and inner and "Union" in str(origin):
    return " | ".join(map(_type, inner))
  return text


def _defaults(function: Callable[..., Any]) -> dict[str, str]:
  """Defaults as they are written, where they name nothing: "1 / 0.07"."""
  try:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
  except (OSError, TypeError, SyntaxError):
    return {}
  node = tree.body[0]
  if not isinstance(node, ast.FunctionDef):
    return {}
  ordinary = [*node.args.posonlyargs, *node.args.args]
  late = ordinary[len(ordinary) - len(node.args.defaults):]
  pairs = [
      *zip(late, node.args.defaults, strict=True),
      *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
  ]
  return {
      argument.arg: ast.unparse(default).replace("'", '"')
      for argument, default in pairs
      if default is not None
      and not any(isinstance(x, ast.Name) for x in ast.walk(default))
  }


def _index() -> str:
  entries = "\n".join(["settings", *KINDS, "python", "programs"])
  return _page([
      "# Reference",
      "All that a configuration can name, with every setting, its type and its "
      "default; the Python interface; and the programs. Made from signatures and "
      "docstrings.",
      f"```{{toctree}}\n:maxdepth: 2\n\n{entries}\n```",
  ])


def _page(parts: Iterable[str]) -> str:
  return "\n\n".join(filter(None, parts)) + "\n"


def write(folder: pathlib.Path) -> None:
  """Writes all pages into a folder, and touches none that has not changed."""
  folder.mkdir(parents=True, exist_ok=True)
  made = pages()
  for stale in folder.glob("*.md"):
    if stale.name not in made:
      stale.unlink()
  for name, text in made.items():
    file = folder / name
    if not file.exists() or file.read_text() != text:
      file.write_text(text)

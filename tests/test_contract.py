"""What every file promises, whoever wrote it: shape, names, size, candour.

Reads syntax trees and tokens; imports nothing, so a file that cannot be
imported is still judged.
"""

import ast
import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What the factory in each plug-in folder returns.
NOUNS = {
    "encoders": "Encoder",
    "objectives": "Objective",
    "augmentations": "Augment",
    "sources": "Source",
    "evals": ("Evaluator", "ReferenceEvaluator"),
    "weights": "Format",
    "preparation": "Counts",
}
FILE_LINES = 400
FUNCTION_LINES = 60  # without docstrings
DRAWERS = {"utils", "util", "common", "core", "misc", "helpers", "helper"}
# Built up, so that this file does not find itself.
SILENCERS = re.compile(
    r"noqa|type:\s*ignore|pylint:|pyright:|fmt:\s*(off|skip)|pragma:|"
    r"\b(TODO|FIXME|XXX|HACK)\b"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files(*folders: str) -> list[str]:
  return sorted(
      str(path.relative_to(ROOT))
      for folder in folders
      for path in (ROOT / folder).rglob("*.py")
  )


def read(path: str) -> str:
  return (ROOT / path).read_text()


def plugins() -> list[str]:
  return [
      path
      for path in files(*(f"basic/{folder}" for folder in NOUNS))
      if not pathlib.Path(path).name.startswith("_")
  ]


def plugin_faults(path: str, source: str) -> list[str]:
  """Lists how a plug-in departs from `def name(*, ...) -> Noun`."""
  _, folder, file = path.split("/")
  name = file.removesuffix(".py")
  factory = next(
      (
          node
          for node in ast.parse(source).body
          if isinstance(node, ast.FunctionDef) and node.name == name
      ),
      None,
  )
  if factory is None:
    return [f"{path} defines no function {name}()"]
  where = f"{path}:{factory.lineno} {name}()"
  faults = []
  given = factory.args
  if given.posonlyargs or given.args or given.vararg or given.kwarg:
    faults.append(f"{where} takes more than keyword-only arguments")
  faults += [
      f"{where} does not annotate {argument.arg}"
      for argument in given.kwonlyargs
      if argument.annotation is None
  ]
  returned = ast.unparse(factory.returns) if factory.returns else "nothing"
  nouns = NOUNS[folder] if isinstance(NOUNS[folder], tuple) else (NOUNS[folder],)
  if returned.split(".")[-1] not in nouns:
    faults.append(f"{where} returns {returned}, expected {' or '.join(nouns)}")
  text = ast.get_docstring(factory) or ""
  if "Returns:" not in text:
    faults.append(f"{where} has no Returns: in its docstring")
  if given.kwonlyargs and "Args:" not in text:
    faults.append(f"{where} has no Args: in its docstring")
  faults += [
      f"{where} does not document {argument.arg}"
      for argument in given.kwonlyargs
      if not re.search(rf"^\s+{argument.arg}: ", text, re.MULTILINE)
  ]
  return faults


def docstring_lines(node: ast.AST) -> int:
  """Counts the lines of every docstring inside a node, its own included."""
  total = 0
  for inner in ast.walk(node):
    if isinstance(inner, (Function, ast.ClassDef)) and ast.get_docstring(inner):
      text = inner.body[0]
      total += text.end_lineno - text.lineno + 1
  return total


def size_faults(path: str, source: str) -> list[str]:
  """Lists what is too long to be read in one go."""
  faults = []
  lines = len(source.splitlines())
  if lines > FILE_LINES:
    faults.append(f"{path} has {lines} lines, more than {FILE_LINES}")
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, Function):
      length = node.end_lineno - node.lineno + 1 - docstring_lines(node)
      if length > FUNCTION_LINES:
        faults.append(
            f"{path}:{node.lineno} {node.name}() has {length} lines without"
            f" docstrings, more than {FUNCTION_LINES}"
        )
  return faults


def swallows(node: ast.AST) -> bool:
  """Whether a node hides every error, or turns warnings off."""
  if isinstance(node, ast.ExceptHandler):
    caught = ast.unparse(node.type) if node.type else "BaseException"
    silent = all(isinstance(line, ast.Pass) for line in node.body)
    return node.type is None or (
        silent and caught in ("Exception", "BaseException")
    )
  if isinstance(node, ast.Call):
    called = ast.unparse(node.func)
    given = [ast.unparse(argument) for argument in node.args]
    if called.endswith(("simplefilter", "filterwarnings")):
      return given[:1] == ["'ignore'"]
    return called.endswith("suppress") and bool(
        {"Exception", "BaseException"} & set(given)
    )
  return False


def silencers(path: str, source: str) -> list[str]:
  """Lists comments that quiet a checker, and code that hides errors."""
  tokens = tokenize.generate_tokens(io.StringIO(source).readline)
  comments = [
      f"{path}:{token.start[0]} {token.string}"
      for token in tokens
      if token.type == tokenize.COMMENT and SILENCERS.search(token.string)
  ]
  return comments + [
      f"{path}:{node.lineno} hides errors: {ast.unparse(node).splitlines()[0]}"
      for node in ast.walk(ast.parse(source))
      if swallows(node)
  ]


@pytest.mark.parametrize("path", plugins())
def test_a_plugin_is_one_documented_factory_of_its_own_name(path):
  assert not plugin_faults(path, read(path))


@pytest.mark.parametrize("path", files("basic", "configs", "benchmarks"))
def test_files_and_functions_fit_in_the_head(path):
  assert not size_faults(path, read(path))


def test_there_are_no_drawers():
  for path in files("basic", "configs", "tests", "benchmarks", "launch"):
    names = set(pathlib.Path(path).with_suffix("").parts)
    assert not names & DRAWERS, f"{path}: name the one idea instead"


@pytest.mark.parametrize("path", files("basic", "configs", "benchmarks"))
def test_every_module_says_what_it_is_for(path):
  text = ast.get_docstring(ast.parse(read(path)))
  assert text, f"{path} has no docstring"


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in files("configs")
        if not pathlib.Path(path).name.startswith("_")
    ],
)
def test_a_configuration_begins_with_the_command_that_runs_it(path):
  text = ast.get_docstring(ast.parse(read(path))) or ""
  assert text.startswith("python -m basic."), path
  assert path in text.splitlines()[0], path


def test_every_folder_is_a_package_and_so_is_installed():
  for path in files("basic"):
    folder = pathlib.Path(path).parent
    assert (ROOT / folder / "__init__.py").exists(), f"{folder}/__init__.py"


@pytest.mark.parametrize(
    "path", files("basic", "configs", "tests", "benchmarks")
)
def test_nothing_is_silenced(path):
  assert not silencers(path, read(path))


GOOD = '''
def foo(*, scale: float = 10.0) -> types.Objective:
  """Judges.

  Args:
    scale: positive.

  Returns:
    An objective.
  """
'''


def test_a_plugin_that_keeps_its_promise_passes():
  assert plugin_faults("basic/objectives/foo.py", GOOD) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("def foo", "def bar", "defines no function foo()"),
        ("*, scale", "scale", "keyword-only"),
        ("*, scale: float = 10.0", "**scale: float", "keyword-only"),
        ("scale: float = 10.0", "scale=10.0", "does not annotate scale"),
        ("types.Objective", "types.Encoder", "expected Objective"),
        (" -> types.Objective", "", "returns nothing"),
        ("Returns:", "Gives:", "no Returns:"),
        ("Args:", "Settings:", "no Args:"),
        ("scale: positive", "size: positive", "does not document scale"),
    ],
)
def test_a_plugin_that_breaks_its_promise_is_found(before, after, expected):
  source = GOOD.replace(before, after)
  faults = plugin_faults("basic/objectives/foo.py", source)
  assert any(expected in fault for fault in faults), faults


def test_a_file_or_function_that_is_too_long_is_found():
  body = "  x = 1\n" * FUNCTION_LINES
  documented = f'def f():\n  """One.\n\n  Two.\n  """\n{body[8:]}'
  assert size_faults("a.py", documented) == []
  assert "f() has 61 lines" in size_faults("a.py", f"def f():\n{body}")[0]
  assert "401 lines" in size_faults("a.py", "x = 1\n" * 401)[0]


@pytest.mark.parametrize(
    "source",
    [
        "import x  # no" + "qa: F401\n",
        "x = 1  # type: " + "ignore\n",
        "# TO" + "DO: later\n",
        "try:\n  f()\nexcept:\n  g()\n",
        "try:\n  f()\nexcept Exception:\n  pass\n",
        "with contextlib.suppress(Exception):\n  f()\n",
        "warnings.filterwarnings('ignore')\n",
    ],
)
def test_a_silencer_is_found(source):
  assert len(silencers("a.py", source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "try:\n  f()\nexcept Exception as error:\n  raise g() from error\n",
        "try:\n  f()\nexcept OSError:\n  pass\n",
        "x = 'noqa'  # a word in a string quiets nothing\n",
    ],
)
def test_what_silences_nothing_passes(source):
  assert silencers("a.py", source) == []

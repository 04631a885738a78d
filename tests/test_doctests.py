"""Every example in a docstring of basic/ runs and prints what it says.

Examples are taken from the source and not from the imported objects: the
wrappers that check types at run time hide functions from `doctest`'s own search.
"""

import ast
import doctest
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.FAIL_FAST
KNOWN = {"jax": jax, "jnp": jnp, "np": np}  # what an example need not import


def examples(path: str, source: str) -> list[doctest.DocTest]:
  """Collects the docstrings of a file that hold examples."""
  found = []
  owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  for node in ast.walk(ast.parse(source)):
    text = ast.get_docstring(node) if isinstance(node, owners) else None
    if text and ">>>" in text:
      name = getattr(node, "name", pathlib.Path(path).stem)
      line = node.body[0].lineno - 1
      parser = doctest.DocTestParser()
      found.append(parser.get_doctest(text, {}, name, path, line))
  return found


def failures(tests: list[doctest.DocTest], names: dict) -> str:
  """Runs examples among the given names; returns what went wrong, or ""."""
  said: list[str] = []
  for test in tests:
    test.globs = KNOWN | names
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    runner.run(test, out=said.append)
  return "".join(said)


def modules() -> list[str]:
  return sorted(
      str(path.relative_to(ROOT)) for path in (ROOT / "basic").rglob("*.py")
  )


@pytest.mark.parametrize("path", modules())
def test_examples_print_what_they_say(path):
  tests = examples(path, (ROOT / path).read_text())
  if tests:  # programs define flags, so a file without examples stays unread
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    said = failures(tests, vars(module))
    assert not said, said


def test_the_search_finds_the_examples_of_functions():
  path = "basic/paths.py"
  names = {test.name for test in examples(path, (ROOT / path).read_text())}
  assert {"flatten", "unflatten", "any_of"} <= names


def test_an_example_that_lies_is_found():
  source = 'def f():\n  """Adds.\n\n  Example:\n    >>> 1 + 1\n    3\n  """\n'
  said = failures(examples("a.py", source), {})
  assert "Expected:\n    3\nGot:\n    2" in said
  assert 'File "a.py", line 5, in f' in said

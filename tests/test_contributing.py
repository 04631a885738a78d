"""CONTRIBUTING.md names only files and functions that exist."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py): ([\w.]+)`", TEXT)


def defines(source, name):
  """Whether a module has a function, or a class a method, of that name."""
  nodes = ast.parse(source).body
  for part in name.split("."):
    kinds = (ast.FunctionDef, ast.ClassDef)
    node = next(
        (n for n in nodes if isinstance(n, kinds) and n.name == part), None)
    if node is None:
      return False
    nodes = node.body
  return True


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda text: text)
def test_every_function_on_the_way_of_a_batch_exists(file, name):
  assert defines((ROOT / "basic" / file).read_text(), name), f"{file}: {name}"


def test_the_life_of_one_batch_has_twelve_lines_that_name_functions():
  section = TEXT.split("## The life of one batch")[1].split("##")[0]
  lines = re.findall(r"^(\d+)\. `[\w/]+\.py: [\w.]+` ", section, re.MULTILINE)
  assert [int(number) for number in lines] == list(range(1, 13))


def test_every_folder_of_plugins_has_a_row():
  rows = re.findall(r"\| `basic/(\w+)/foo\.py` \|", TEXT)
  assert sorted(rows) == [
      "augmentations", "encoders", "evals", "gradient", "objectives", "optim",
      "preparation", "sources", "weights",
  ]


def test_every_path_that_is_named_exists():
  paths = re.findall(r"`((?:tests|basic|launch|configs)/[\w/.]*)`", TEXT)
  assert len(paths) > 10
  missing = [p for p in paths if "foo" not in p and not (ROOT / p).exists()]
  assert not missing


def test_a_function_that_is_gone_is_noticed():
  source = "class A:\n  def b(self):\n    pass\n\ndef c():\n  pass\n"
  assert defines(source, "A.b") and defines(source, "c")
  assert not defines(source, "b") and not defines(source, "A.c")

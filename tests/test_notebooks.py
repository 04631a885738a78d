"""Notebooks are stripped, begin alike, say nothing of this machine, and run."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
every = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)


def cells(notebook, kind):
  return ["".join(x["source"]) for x in notebook["cells"] if x["cell_type"] == kind]


def faults(notebook, name):
  """What is wrong with the structure of a notebook, by format 4.5 and by ours."""
  found = []
  if (notebook["nbformat"], notebook["nbformat_minor"]) != (4, 5):
    found.append("another format than 4.5")
  if sorted(notebook["metadata"]) != ["kernelspec", "language_info"]:
    found.append("metadata of an editor")
  names = [cell["id"] for cell in notebook["cells"]]
  if len(set(names)) < len(names) or not all(
      re.fullmatch(r"[\w-]{1,64}", each) for each in names
  ):
    found.append("cells without an id of their own")
  for cell in notebook["cells"]:
    code = cell["cell_type"] == "code"
    fields = {"cell_type", "id", "metadata", "source"}
    if set(cell) != fields | ({"execution_count", "outputs"} if code else set()):
      found.append(f"fields of the cell {cell['id']}")
    elif code and (cell["outputs"] or cell["execution_count"] is not None):
      found.append(f"outputs of the cell {cell['id']}")
    if cell["metadata"]:
      found.append(f"metadata of the cell {cell['id']}")
  first = "".join(notebook["cells"][0]["source"])
  if not first.startswith("# ") or f"/notebooks/{name}.ipynb)" not in first:
    found.append("no title with a badge")
  return found


@every
def test_a_notebook_is_valid_and_has_no_outputs(file):
  text = file.read_text()
  notebook = json.loads(text)
  assert faults(notebook, file.stem) == []
  # As it is written, so that a change shows as what it is.
  assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


@every
def test_a_command_that_evaluates_weights_says_on_what(file):
  notebook = json.loads(file.read_text())
  for text in (*cells(notebook, "markdown"), *cells(notebook, "code")):
    for command in re.findall(r"basic\.evaluate [^`]*--weights[^`]*", text):
      assert re.search(r"--(suite|tasks)", command), command


def test_outputs_and_other_leftovers_are_found():
  notebook = json.loads(FILES[0].read_text())
  cell = next(x for x in notebook["cells"] if x["cell_type"] == "code")
  cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["1"]}]
  notebook["cells"][-1]["metadata"] = {"collapsed": True}
  found = faults(notebook, FILES[0].stem)
  assert [each.split(" of ")[0] for each in found] == ["outputs", "metadata"]


@every
def test_a_notebook_begins_as_all_do_and_names_no_other_place(file):
  notebook, first = json.loads(file.read_text()), json.loads(FILES[0].read_text())
  code = cells(notebook, "code")
  assert code[:2] == cells(first, "code")[:2]  # installs; shows the device
  assert len([each for each in code if "pip" in each and "install" in each]) <= 2
  for source in code:
    tree = ast.parse(source)
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    assert not [x for x in ast.walk(tree) if isinstance(x, kinds)]
  everything = "".join(code + cells(notebook, "markdown"))
  assert not re.search(r"/(root|home|work|tmp|usr)/|RESULT", everything)


def test_the_table_lists_every_notebook():
  listed = re.findall(r"\(([\w]+)\.ipynb\)", (ROOT / "notebooks/README.md").read_text())
  assert sorted(listed) == [file.stem for file in FILES]


@pytest.mark.slow
@every
def test_a_notebook_runs_from_top_to_bottom(file):
  code = "\n".join(cells(json.loads(file.read_text()), "code"))
  done = subprocess.run(
      [sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True,
      timeout=1800,
      env={**os.environ, "MPLBACKEND": "Agg", "JAX_NUM_CPU_DEVICES": "1",
           "XLA_FLAGS": ""},
  )
  assert done.returncode == 0, done.stdout + done.stderr

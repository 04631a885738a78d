"""What every experiment is, in full: a diff here says what a change changed.

`UPDATE_GOLDEN=1 bash launch/test.sh tests/test_golden.py` rewrites the files
of tests/golden; commit them with the change that they explain.
"""

import difflib
import json
import os
import pathlib
import re

import checks
import experiments
import jax
import pytest

from basic import paths

FOLDER = pathlib.Path(__file__).resolve().parent / "golden"
UPDATE = "UPDATE_GOLDEN=1 python -m pytest tests/test_golden.py"

every = pytest.mark.parametrize("name", experiments.NAMES)


def compare(path, found):
  """Fails with what differs, or writes it down where that is asked for."""
  if os.environ.get("UPDATE_GOLDEN") == "1":
    path.parent.mkdir(exist_ok=True)
    path.write_text(found)
    return
  stored = path.read_text() if path.exists() else ""
  if found != stored:
    lines = difflib.unified_diff(
        stored.splitlines(), found.splitlines(), f"{path.name}, stored",
        f"{path.name}, now", lineterm="",
    )
    pytest.fail(
        "\n".join(lines) + f"\nIf this is what you meant: {UPDATE}, and commit "
        f"tests/golden/{path.name}.", pytrace=False,
    )


def parameters(program):
  """One line a parameter: path, shape, type, names of its axes."""
  state = jax.eval_shape(program.fresh)
  lines = []
  for path, leaf in sorted(paths.flatten(state.params).items()):
    shape = "x".join(map(str, leaf.shape)) or "scalar"
    axes = next(
        (names for pattern, names in program.layout.axes
         if re.fullmatch(pattern, path)), (),
    )
    lines.append(f"{path} {shape} {leaf.dtype} {' '.join(axes) or '-'}\n")
  return "".join(lines)


@every
def test_parameters_are_those_written_down(name):
  found = ""
  for n, program in enumerate(
      experiments.programs(experiments.read(name), checks.line(1))
  ):
    lines = parameters(program)
    if not n:
      first = found = lines
    elif lines != first:  # Most stages change nothing of this.
      found += f"\nstage {n}\n{lines}"
  compare(FOLDER / f"{name}.parameters.txt", found)


@every
def test_the_complete_configuration_is_the_one_written_down(name):
  config = json.dumps(experiments.read(name), indent=2, sort_keys=True)
  compare(FOLDER / f"{name}.json", config + "\n")


def test_no_file_is_left_of_an_experiment_that_is_gone():
  expected = {
      f"{name}{end}" for name in experiments.NAMES
      for end in (".json", ".parameters.txt")
  }
  assert {path.name for path in FOLDER.iterdir()} == expected


def test_a_difference_is_shown_with_what_to_do(tmp_path, monkeypatch):
  monkeypatch.delenv("UPDATE_GOLDEN", raising=False)
  path = tmp_path / "x.parameters.txt"
  path.write_text("image/kernel 2x3 float32 embed mlp\n")
  with pytest.raises(pytest.fail.Exception) as failure:
    compare(path, "image/kernel 2x4 float32 embed mlp\n")
  said = str(failure.value)
  assert "-image/kernel 2x3" in said and "+image/kernel 2x4" in said
  assert "UPDATE_GOLDEN=1" in said and "commit" in said
  monkeypatch.setenv("UPDATE_GOLDEN", "1")
  compare(path, "new\n")
  monkeypatch.delenv("UPDATE_GOLDEN")
  compare(path, "new\n")

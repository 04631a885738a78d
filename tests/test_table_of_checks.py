"""The table in tests/README.md names tests that are there, check by check."""

import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
ROWS = re.findall(
    r"^\| (\d+) \|.*\| (.*) \|$", (HERE / "README.md").read_text(), re.MULTILINE
)


def missing(cell: str) -> list[str]:
  """Files and tests of a cell, `file.py: name, begin_*`, that do not exist."""
  found = []
  for file, names in re.findall(r"`([\w/]+\.py)(?:: ([^`]+))?`", cell):
    path = HERE / file
    text = path.read_text() if path.exists() else ""
    for name in names.split(", ") if names else [""]:
      pattern = rf"def test_{name.replace('*', '[a-z0-9_]*')}" + r"\b" * bool(name)
      if not re.search(pattern, text):
        found.append(f"{file}: {name}")
  return found


def test_all_checks_are_there_in_order():
  assert [int(number) for number, _ in ROWS] == list(range(1, 33))


def test_every_check_names_tests_that_exist_or_says_later():
  for number, cell in ROWS:
    assert not missing(cell), f"check {number}"
    assert "`" in cell or cell.startswith("later, with"), f"check {number}"


def test_a_name_that_is_gone_is_found():
  assert missing("`test_step.py: no_such_claim`") == [
      "test_step.py: no_such_claim"
  ]
  assert missing("`test_no_such_file.py`") == ["test_no_such_file.py: "]

"""The command line of `python -m basic.prepare`."""

import json

import pytest

from basic import prepare
from basic.experiment import schema

SHAPES = ("--source.name=shapes", "--source.length=6")


def test_the_commands_are_the_files_that_are_there(capsys):
  prepare.main([])
  shown = capsys.readouterr().out
  for name in schema.plugins("preparation"):
    assert f"\n  {name} " in shown


def test_help_is_the_documentation_of_the_command(capsys):
  prepare.main(["check", "--help"])
  assert "settings of the source" in capsys.readouterr().out


def test_counts_are_printed_as_a_table_or_as_json(capsys):
  prepare.main(["check", *SHAPES])
  assert "\nread      6\n" in "\n" + capsys.readouterr().out
  prepare.main(["check", *SHAPES, "--json"])
  counts = json.loads(capsys.readouterr().out)
  assert (counts["examples"], counts["read"]) == (6, 6)


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["chek"], "did you mean 'check'"),
    (["check"], "needs the setting 'source'"),
    (["check", "shapes"], "expected --name=value"),
    (["check", *SHAPES, "--exmples=3"], "did you mean 'examples'"),
    (["check", "--source.name=shape"], "did you mean 'shapes'"),
    (["check", *SHAPES, "--examples.a=3"], "examples"),
    (["check", "--source=3", "--source.name=shapes"], "and so is --source itself"),
])
def test_a_wrong_command_line_ends_in_a_sentence(arguments, sentence):
  with pytest.raises(SystemExit, match=sentence):
    prepare.main(arguments)


def test_flags_after_two_dashes_are_not_read_here(monkeypatch):
  seen = []
  monkeypatch.setattr(
      prepare, "prepare", lambda *arguments: seen.append(arguments) or {}
  )
  prepare.main(["filter", "--out=a", "--", "--help", "--json"])
  assert seen == [("filter", ["--out=a", "--", "--help", "--json"])]

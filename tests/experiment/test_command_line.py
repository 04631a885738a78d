"""The arguments of a command are the settings of a function."""

import pytest

from basic import types
from basic.experiment import command_line


def command(
    *,
    shards: tuple[str, ...] = (),
    path: str = "",
    most: int = 1,
    share: float = 0.5,
    overwrite: bool = False,
    source: types.Source | None = None,
) -> None:
  """Does nothing."""


@pytest.mark.parametrize(("arguments", "expected"), [
    ([], {}),
    (["--most=8"], {"most": 8}),
    (["--most", "8"], {"most": 8}),
    (["--share", "0.25", "--overwrite"], {"share": 0.25, "overwrite": True}),
    (["--overwrite=False"], {"overwrite": False}),
    (["--path=007"], {"path": "007"}),
    (["--path=7"], {"path": "7"}),
    (["--path=1_000"], {"path": "1_000"}),
    (["--path=a=b"], {"path": "a=b"}),
    (["--shards=a.tar"], {"shards": ("a.tar",)}),
    (["--shards=('a.tar', 'b.tar')"], {"shards": ("a.tar", "b.tar")}),
    (["--shards=012"], {"shards": ("012",)}),
])
def test_values_are_what_the_argument_takes(arguments, expected):
  found = command_line.settings("command", command, arguments)
  assert {k: found[k] for k in expected} == expected


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["most=8"], "expected --name=value"),
    (["-m"], "expected --name=value"),
    (["--most=eight"], r"command\.most is 'eight'"),
    (["--mots=8"], "did you mean 'most'"),
])
def test_what_is_no_setting_is_refused(arguments, sentence):
  with pytest.raises(ValueError, match=sentence):
    command_line.settings("command", command, arguments)


def piped(*, most: int = 1, runner: tuple[str, ...] = ()) -> None:
  """Does nothing."""


@pytest.mark.parametrize(("arguments", "most", "runner"), [
    (["--most=8", "--", "--runner=DirectRunner", "--most=9", "7"], 8,
     ("--runner=DirectRunner", "--most=9", "7")),
    (["--", "--", "--json"], 1, ("--", "--json")),
    (["--most=2", "--"], 2, ()),
    (["--runner=--direct"], 1, ("--direct",)),
])
def test_what_follows_two_dashes_is_passed_on(arguments, most, runner):
  found = command_line.settings("piped", piped, arguments)
  assert found == {"most": most, "runner": runner}


def test_flags_for_a_command_that_takes_none_are_refused():
  with pytest.raises(ValueError, match="found '-- --runner=X'; only a command"):
    command_line.settings("command", command, ["--most=8", "--", "--runner=X"])

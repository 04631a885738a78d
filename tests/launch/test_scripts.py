"""The launch commands: they parse, refuse in a sentence, and install once.

Nothing is installed here. A stand-in for Python, a few lines of shell, answers
for its version, makes a folder when asked for an environment, and writes down
what it is asked to install or run.
"""

import os
import pathlib
import shutil
import stat
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = (
    "launch/docs.sh", "launch/environment.sh", "launch/quickstart.sh",
    "launch/test.sh", ".ci/run",
)

PRETENDS = """#!/usr/bin/env bash
case "$*" in
  *version_info*) echo {version} ;;
  *base_prefix*) echo {version}.0 /usr ;;
  *ensurepip*) exit {ensurepip} ;;
  "-m venv "*)
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python" ;;
  "-m pip "*)
    echo "$*" >>"$RECORD"
    echo "pip says something at the end"
    exit "${{PIP_STATUS:-0}}" ;;
  "-m ruff "*)
    echo "$*" >>"$RECORD"
    exit "${{RUFF_STATUS:-0}}" ;;
  "-m basedpyright "*)
    echo "-m basedpyright" >>"$RECORD"
    echo "x.py:1 is no int"
    exit "${{TYPES_STATUS:-0}}" ;;
  "-m "*)
    echo "$*" >>"$RECORD"
    echo "platforms=${{JAX_PLATFORMS-unset}} nproc=${{NPROC-unset}}" >>"$RECORD" ;;
esac
"""


def interpreter(
    folder: pathlib.Path,
    version: str,
    ensurepip: int = 0,
    name: str = "python",
) -> pathlib.Path:
  """Writes a stand-in for Python that says it is of this version."""
  folder.mkdir(exist_ok=True)
  path = folder / name
  path.write_text(PRETENDS.format(version=version, ensurepip=ensurepip))
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return path


def run(script, *arguments, **environment) -> subprocess.CompletedProcess:
  dropped = ("PYTHON", "EXTRAS", "NPROC", "JAX_PLATFORMS")
  kept = {k: v for k, v in os.environ.items() if k not in dropped}
  return subprocess.run(
      ["bash", str(script), *arguments],
      env=kept | {k: str(v) for k, v in environment.items()},
      capture_output=True,
      text=True,
      timeout=30,
  )


@pytest.fixture
def checkout(tmp_path):
  """A copy of what the launch commands read, and nothing else."""
  made = tmp_path / "a checkout"  # with a space, as home folders have
  shutil.copytree(ROOT / "launch", made / "launch")
  for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
    shutil.copy(ROOT / name, made / name)
  return made


@pytest.fixture
def record(tmp_path):
  path = tmp_path / "record"
  path.touch()
  return path


def asked(record: pathlib.Path) -> list[str]:
  """What the stand-in was asked since the last call."""
  lines = record.read_text().splitlines()
  record.write_text("")
  return lines


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_parses(script):
  path = str(ROOT / script)
  done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def test_ci_runs_the_tests_and_nothing_else():
  path = ROOT / ".ci/run"
  assert path.read_text().startswith("#!/usr/bin/env bash\n")
  assert "bash launch/test.sh" in path.read_text()
  assert os.access(path, os.X_OK)


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "launch/test.sh"])
@pytest.mark.parametrize(
    ("version", "verdict"),
    [("2.7", "too old"), ("3.9", "too old"), ("3.10", "too old"),
     ("3.14", "too new"), ("4.0", "too new")],
)
def test_a_python_out_of_range_gets_one_sentence(
    script, version, verdict, tmp_path
):
  python = interpreter(tmp_path, version)
  done = run(ROOT / script, PYTHON=python)
  assert done.returncode == 1
  assert done.stdout + done.stderr == (
      f"PYTHON={python} is Python {version}, {verdict}:"
      " basic needs 3.11, 3.12 or 3.13.\n"
  )


def test_a_python_that_is_missing_gets_one_sentence():
  done = run(ROOT / "launch/test.sh", PYTHON="python3.99")
  assert done.returncode == 1
  assert done.stdout + done.stderr == (
      "PYTHON=python3.99 does not run: name a Python 3.11, 3.12 or 3.13 that"
      " does.\n"
  )


def test_a_python_without_ensurepip_gets_the_package_to_install(tmp_path):
  python = interpreter(tmp_path, "3.12", ensurepip=1)
  done = run(ROOT / "launch/test.sh", PYTHON=python)
  assert done.returncode == 1
  assert len(done.stderr.splitlines()) == 1
  assert "python3.12-venv" in done.stderr


def tools_only(folder: pathlib.Path) -> str:
  """A PATH with the tools that the scripts use, and no Python."""
  folder.mkdir()
  for tool in (
      "bash", "cat", "cksum", "cp", "dirname", "env", "grep", "mkdir", "paste",
      "rm", "sed", "sort", "tail", "tr",
  ):
    (folder / tool).symlink_to(shutil.which(tool))
  return str(folder)


def test_no_python_in_range_gets_one_sentence(checkout, tmp_path):
  path = tools_only(tmp_path / "tools")
  interpreter(tmp_path / "pythons", "3.9", name="python3")
  found = run(
      checkout / "launch/test.sh", PATH=f"{path}:{tmp_path / 'pythons'}"
  )
  assert found.returncode == 1
  assert found.stderr == (
      "No Python 3.11, 3.12 or 3.13 runs here (python3 is 3.9, too old):"
      " install one, or name it with PYTHON=/path/to/python3.13.\n"
  )


def test_a_shim_with_no_python_behind_it_is_passed_over(
    checkout, tmp_path, record
):
  path = tools_only(tmp_path / "tools")
  shim = interpreter(tmp_path / "pythons", "3.11", name="python3.11")
  shim.write_text("#!/usr/bin/env bash\nexit 127\n")
  interpreter(tmp_path / "pythons", "3.12", name="python3.12")
  done = run(
      checkout / "launch/test.sh",
      PATH=f"{path}:{tmp_path / 'pythons'}",
      RECORD=record,
  )
  assert done.returncode == 0, done.stderr
  assert (checkout / ".venv/made-for").read_text().endswith(" 3.12.0 /usr\n")


def test_a_second_run_installs_nothing(checkout, tmp_path, record):
  python = interpreter(tmp_path, "3.13")
  script = checkout / "launch/test.sh"
  for installs in (2, 0):
    done = run(script, "-k", "a b", PYTHON=python, RECORD=record)
    assert done.returncode == 0, done.stderr
    lines = asked(record)
    assert len([line for line in lines if " pip " in line]) == installs
    assert lines[-2:] == [
        "-m pytest -n 2 -k a b", "platforms=cpu nproc=16"
    ]
  assert (checkout / ".venv-3.13").exists()
  assert not (checkout / ".venv").exists()


def test_style_and_types_are_checked_first_and_an_error_ends_the_run(
    checkout, tmp_path, record
):
  settings = dict(PYTHON=interpreter(tmp_path, "3.11"), RECORD=record)
  done = run(checkout / "launch/test.sh", **settings, RUFF_STATUS=1)
  assert done.returncode == 1
  assert "ruff check --fix" in done.stderr
  assert asked(record)[-1] == "-m ruff check --quiet ."
  done = run(checkout / "launch/test.sh", **settings, TYPES_STATUS=1)
  assert done.returncode == 1
  assert "x.py:1 is no int\nbasedpyright found the errors above" in done.stderr
  assert asked(record)[-1] == "-m basedpyright"
  assert run(checkout / "launch/test.sh", **settings).returncode == 0
  assert asked(record)[-2] == "-m pytest -n 2"


def test_the_site_is_built_with_its_extra_and_with_warnings_as_errors(
    checkout, tmp_path, record
):
  done = run(
      checkout / "launch/docs.sh", PYTHON=interpreter(tmp_path, "3.12"), RECORD=record)
  assert done.returncode == 0, done.stderr
  assert done.stdout == "build/docs/html/index.html\n"
  *_, installs, builds, environment = asked(record)
  assert "--editable .[docs]" in installs
  assert builds.startswith("-m sphinx --fail-on-warning")
  assert environment.startswith("platforms=cpu")


@pytest.mark.parametrize(
    "name", ["setup.cfg", "pyproject.toml", "constraints.txt"]
)
def test_changed_requirements_are_installed(name, checkout, tmp_path, record):
  python = interpreter(tmp_path, "3.11")
  script = checkout / "launch/test.sh"
  run(script, PYTHON=python, RECORD=record)
  with (checkout / name).open("a") as file:
    file.write("\n# another line\n")
  asked(record)
  run(script, PYTHON=python, RECORD=record)
  assert any("--editable" in line for line in asked(record))


def test_the_two_commands_share_an_environment(checkout, tmp_path, record):
  python = interpreter(tmp_path, "3.11")
  settings = dict(PYTHON=python, RECORD=record)
  run(checkout / "launch/quickstart.sh", **settings)
  assert any(line.endswith("--editable .") for line in asked(record))
  run(checkout / "launch/test.sh", "--without", "parity", **settings)
  assert any(line.endswith("--editable .[test]") for line in asked(record))
  run(checkout / "launch/quickstart.sh", "--steps=2", **settings)
  assert asked(record) == [
      "-m basic.train --config configs/digits.py --workdir runs/digits"
      " --steps=2",
      "platforms=unset nproc=unset",
  ]


def test_parity_is_installed_when_there_is_such_an_extra(
    checkout, tmp_path, record
):
  settings = dict(PYTHON=interpreter(tmp_path, "3.11"), RECORD=record)
  config = checkout / "setup.cfg"
  lines = config.read_text().splitlines(keepends=True)
  at = lines.index("test =\n")
  kept = [line for line in lines if not line.startswith("parity =")]
  config.write_text("".join([*kept[:at], "parity = torch\n", *kept[at:]]))
  script = checkout / "launch/test.sh"
  run(script, "--without", "parity", **settings)
  assert any(line.endswith(".[test]") for line in asked(record))
  run(script, **settings)
  assert any(line.endswith(".[parity,test]") for line in asked(record))


def test_extras_of_the_quickstart_are_installed_once(
    checkout, tmp_path, record
):
  settings = dict(PYTHON=interpreter(tmp_path, "3.11"), RECORD=record)
  script = checkout / "launch/quickstart.sh"
  run(script, EXTRAS="wandb,cuda", **settings)
  assert any(line.endswith(".[cuda,wandb]") for line in asked(record))
  run(script, EXTRAS="wandb,cuda", **settings)
  assert not any(" pip " in line for line in asked(record))


def test_an_extra_that_cannot_be_left_out_gets_one_sentence(checkout):
  done = run(checkout / "launch/test.sh", "--without", "jax")
  assert done.returncode == 1
  assert done.stderr == (
      "--without takes 'parity', not 'jax': nothing else can be left out.\n"
  )


def test_an_environment_that_was_moved_is_made_again(
    checkout, tmp_path, record
):
  settings = dict(PYTHON=interpreter(tmp_path, "3.11"), RECORD=record)
  run(checkout / "launch/test.sh", **settings)
  moved = checkout.rename(tmp_path / "moved")
  asked(record)
  run(moved / "launch/test.sh", **settings)
  assert any("--editable" in line for line in asked(record))
  assert str(moved) in (moved / ".venv-3.11/made-for").read_text()


def test_an_environment_of_the_users_own_is_left_alone(checkout, tmp_path):
  mine = checkout / ".venv-3.11" / "mine"
  mine.parent.mkdir()
  mine.touch()
  python = interpreter(tmp_path, "3.11")
  done = run(checkout / "launch/test.sh", PYTHON=python)
  assert done.returncode == 1
  assert "move it away" in done.stderr
  assert mine.exists()


def test_a_failed_install_shows_the_end_of_the_log_and_is_tried_again(
    checkout, tmp_path, record
):
  settings = dict(PYTHON=interpreter(tmp_path, "3.11"), RECORD=record)
  script = checkout / "launch/test.sh"
  done = run(script, PIP_STATUS=1, **settings)
  assert done.returncode == 1
  assert "pip says something at the end\npip could not install" in done.stderr
  assert not any("pytest" in line for line in asked(record))
  run(script, **settings)
  assert any("--editable" in line for line in asked(record))

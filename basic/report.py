"""python -m basic.report --workdir runs/digits: a run as one HTML page.

`python -m basic.report runs/a runs/b` writes a page that compares several runs.
"""

import os
import pathlib
from collections.abc import Sequence

from absl import app, flags

from basic import cli, optim
from basic.experiment import restore
from basic.pages import report


def rebuild(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes the page of a run anew, from its newest checkpoint.

  Args:
    workdir: folder of the run. Before its first checkpoint the page has no
      galleries.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: if the folder is not that of a run.
  """
  try:
    stage, state = restore.load(workdir)
  except restore.NoCheckpoint:
    return report.write(workdir, None)
  params = optim.evaluation_params(state)
  with stage.program.layout.context():
    return report.write(workdir, report.held_out(stage, params))


def compare(
    workdirs: Sequence[str | os.PathLike], out: str | os.PathLike | None = None
) -> pathlib.Path:
  """Writes a page that compares runs, from their files alone.

  Args:
    workdirs: folders of two or more runs, finished or not.
    out: the file to write; None: `comparison.html` in the folder that all runs
      are in, or else in the current one.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: if a folder is not that of a run.
    ValueError: if a run is given twice, there are too few or too many of them,
      or a file of one cannot be read.
  """
  if out is None:
    parents = {pathlib.Path(each).resolve().parent for each in workdirs}
    parent = parents.pop() if len(parents) == 1 else pathlib.Path()
    out = parent / "comparison.html"
  return report.compare(workdirs, out)


def written(
    workdir: str | None, runs: Sequence[str], out: str | None
) -> pathlib.Path:
  """Writes the page that a command line asks for.

  Args:
    workdir: the folder of a run; None if runs are given instead.
    runs: folders of runs: one for its own page, several for a comparison.
    out: the file of a comparison; None: see `compare`.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: if a folder is not that of a run.
    ValueError: if these do not fit each other, or as `compare`.
  """
  given = [*([] if workdir is None else [workdir]), *runs]
  if not given or (workdir is not None and runs):
    raise ValueError(
        f"found --workdir={workdir or ''} and {len(runs)} other folders; give "
        "--workdir RUN for the page of a run, or RUN RUN ... to compare several."
    )
  if len(given) > 1:
    return compare(given, out)
  if out is not None:
    raise ValueError(
        "--out is the file of a comparison; the page of a single run is "
        "report.html in its folder."
    )
  return rebuild(given[0])


def main(arguments: list[str]) -> None:
  """Writes a report or a comparison, and prints where it is."""
  with cli.sentences():
    print(written(flags.FLAGS.workdir, arguments[1:], flags.FLAGS.out))


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The run's folder.")
  flags.DEFINE_string("out", None, "The file of a comparison.")
  app.run(main)

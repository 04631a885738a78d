"""python -m basic.report --workdir runs/digits: a run as one HTML page."""

import os
import pathlib

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
    return report.write(workdir, report.samples(stage, params))


def main(arguments: list[str]) -> None:
  """Writes the report anew, and prints where it is."""
  del arguments
  with cli.sentences():
    print(rebuild(flags.FLAGS.workdir))


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
  app.run(main)

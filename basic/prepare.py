"""python -m basic.prepare COMMAND --setting=value ...

Prepares data for training: indexes tar shards, trains vocabularies, filters and
converts data sets, measures how fast they are read.

    python -m basic.prepare              lists the commands
    python -m basic.prepare check --help says what one does, and its settings
    python -m basic.prepare check --source.name=shapes
"""

import json
import sys
from collections.abc import Sequence

from basic import cli, types
from basic.experiment import command_line, schema


def prepare(command: str, arguments: Sequence[str]) -> types.Counts:
  """Runs one command.

  Args:
    command: name of a module in basic/preparation.
    arguments: its settings, as on the command line (command_line.settings).

  Returns:
    What it counted, by name.

  Raises:
    ValueError: if there is no such command, or a setting is wrong; and as the
      command does.
  """
  function = schema.plugin("preparation", command)
  settings = command_line.settings(command, function, arguments)
  return schema.make("preparation", {"name": command, **settings})


def _usage() -> str:
  commands = command_line.commands("preparation")
  width = max(map(len, commands))
  lines = [f"  {name:<{width}}  {line}" for name, line in commands.items()]
  return "\n".join([(__doc__ or "").rstrip(), "", "Commands:", *lines])


def _table(counts: types.Counts) -> str:
  width = max(map(len, counts), default=0)
  return "\n".join(
      f"{name:<{width}}  {value:,}" if isinstance(value, int)
      else f"{name:<{width}}  {value}"
      for name, value in counts.items()
  )


def main(arguments: Sequence[str]) -> None:
  """Runs the command and prints its report; `--json` prints one JSON object.

  What follows a `--` goes to the command unread: flags of Apache Beam.
  """
  arguments, flags = command_line.split(arguments)
  asked = [a for a in arguments if a not in ("--json", "--help", "-h")]
  if not asked:
    print(_usage())
    return
  with cli.sentences():
    command, *settings = asked
    if len(asked) < len([a for a in arguments if a != "--json"]):
      print(command_line.manual(schema.plugin("preparation", command)))
      return
    passed = [] if flags is None else ["--", *flags]
    counts = prepare(command, [*settings, *passed])
  print(json.dumps(counts) if "--json" in arguments else _table(counts))


if __name__ == "__main__":
  main(sys.argv[1:])

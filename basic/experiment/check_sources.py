"""Opens all data of a run before anything is trained, and says what cannot be meant."""

import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basic import types
from basic.experiment import schema, settings

Settings = settings.Settings
_log = logging.getLogger(__name__)


def check_sources(
    configs: Sequence[Settings], workdir: str | os.PathLike
) -> None:
  """Opens all sources of a new run before anything takes long; warns about them.

  Warns of a batch that is larger than the data set, and of an evaluation that
  reads the data of training.

  Args:
    configs: complete configurations of all stages.
    workdir: folder of the run; one that has begun is not checked.

  Raises:
    Exception: as the sources do, with the name of the setting in a note.
  """
  if (pathlib.Path(workdir) / "config.json").exists():
    return
  said: dict[str, None] = {}
  for config in configs:
    source = _opened("source", config["source"])
    if config["batch_size"] > len(source) > 0:
      said[
          f"batch_size is {config['batch_size']}, and the data has {len(source)} "
          "examples: every batch has some of them several times, which are no "
          "negatives of each other. Lower batch_size, or give more examples."
      ] = None
    for label, evaluation in config["evals"].items():
      judged = _opened(f"evals.{label}.source", evaluation["source"])
      if _overlap(config["source"], source, evaluation["source"], judged):
        said[
            f"evals.{label} reads the data that the run trains on, so its results "
            "say how well that was learned, and nothing of other data. Set "
            f"evals.{label}.source to examples that training does not see."
        ] = None
  for sentence in said:
    _log.warning("%s", sentence)


def _opened(setting: str, config: Settings) -> types.Source:
  try:
    return schema.make("sources", config)
  except Exception as error:
    error.add_note(f"It is `{setting}` of the configuration.")
    raise


def _overlap(config, source, other_config, other) -> bool:
  """Whether one of two sources is the other, or is made of it."""
  if config in _parts(other_config) or other_config in _parts(config):
    return True
  if config["name"] != other_config["name"]:
    return False
  found = [getattr(each, "fingerprint", None) for each in (source, other)]
  return found[0] is not None and found[0] == found[1]


def _parts(config: Any) -> Iterator[Any]:
  """The settings of a source, and of all sources that it reads."""
  if isinstance(config, Mapping):
    yield config
    for value in config.values():
      yield from _parts(value)

"""The position of a stream, as it is saved with a checkpoint, and its checks."""

from collections.abc import Mapping
from typing import Any

import grain

from basic import types
from basic.data import orders, pipeline


def record(stream: pipeline.Stream) -> dict[str, Any]:
  """What to save with a checkpoint, so that the stream resumes exactly.

  Args:
    stream: whose position to save.

  Returns:
    A dict for JSON. "next" are the indices of the next four examples, by which
    `check` detects a change of the shuffle.
  """
  return {
      "examples_seen": stream.position,
      "seed": stream.seed,
      "examples": len(stream.source),
      "fingerprint": _fingerprint(stream.source),
      "next": stream.ids(stream.position, stream.position + 4).tolist(),
      "grain": grain.__version__,
  }


def _fingerprint(source) -> str | None:
  """The source's hash of its own contents, if it has one."""
  return getattr(source, "fingerprint", None)


def check(
    saved: Mapping[str, Any],
    source: types.Source,
    seed: int,
    *,
    shuffle: str | None = "examples",
    window: int = 8,
) -> int:
  """Refuses to resume where the stream would not be the same.

  Args:
    saved: from `record`, also if it was kept as JSON.
    source: of the resumed run.
    seed: of the resumed run.
    shuffle: of the resumed run, as in `orders.order`.
    window: of the resumed run, as in `orders.order`.

  Returns:
    The examples seen: the `start` of the resumed stream.

  Raises:
    ValueError: if source, seed or shuffle are not those of the saved position.
  """
  seen = saved["examples_seen"]
  for name, now in (
      ("seed", seed),
      ("examples", len(source)),
      ("fingerprint", _fingerprint(source)),
  ):
    # A source whose hash has changed with this library says what it was.
    former = getattr(source, f"former_{name}", now)
    if saved[name] not in (now, former):
      raise ValueError(
          f"cannot resume after {seen} examples: the saved {name} is "
          f"{saved[name]}, this run has {now}; resume with the same source "
          "and seed, or begin a new run from the saved parameters"
      )
  order = orders.order(source, seed=seed, shuffle=shuffle, window=window)
  following = [int(order(seen + i)) for i in range(len(saved["next"]))]
  if following != list(saved["next"]):
    cause = (
        "the order of the source, or the settings shuffle and window, have "
        "changed; restore them to resume it"
        if saved["grain"] == grain.__version__ else
        f"the shuffle of grain {grain.__version__} is not that of grain "
        f"{saved['grain']}, with which the run began; install that version to "
        "resume it"
    )
    raise ValueError(f"cannot resume after {seen} examples: {cause}")
  return seen

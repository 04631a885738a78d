"""Builds the indexes of tar shards, and says what in them cannot be used."""

import os
from collections.abc import Mapping

from basic import types
from basic.sources import tar


def index(
    *,
    shards: str | tuple[str, ...],
    index: str | None = None,
    workers: int | None = None,
    image: str | tuple[str, ...] = tar.IMAGES,
    text: str | tuple[str, ...] | Mapping[str, int | float] | None = "txt",
    label: str | None = None,
) -> types.Counts:
  """Builds the indexes of tar shards, and says what in them cannot be used.

      python -m basic.prepare index --shards='data/{00000..00127}.tar'

  An index holds where each sample lies, which gives the source `tar` random
  access. It does not depend on the settings of that source. One that fits its
  shard, by size and samples of the content, is kept, so that the command can be
  stopped and started again.

  Args:
    shards: paths or URLs, with braces or wildcards, as of the source `tar`.
    index: folder for the indexes; None: beside each shard, as NAME.tar.index,
      and in the cache for shards that are not local.
    workers: processes; None: one for each core.
    image: as of the source `tar`, like text and label: what an example is made
      of, for the report.
    text: where captions are.
    label: where labels are.

  Returns:
    "shards", "indexed now", "samples", usable or not, "keys in several shards",
    whose samples are all kept, "examples", and reason -> number of what is left
    out, as `damage` of the source `tar`.

  Raises:
    FileNotFoundError: if a shard does not exist.
    ValueError: if some shards cannot be indexed, when all others are; or if no
      sample is usable.
  """
  if workers is not None and workers < 1:
    raise ValueError(f"workers is {workers}; expected 1 or more processes.")
  counts = tar.build_indexes(
      shards=shards, index=index, workers=workers or os.cpu_count() or 1
  )
  source = tar.tar(
      shards=shards, index=index, image=image, text=text, label=label,
      missing_index="refuse",
  )
  damage = getattr(source, "damage", {})
  return {**counts, "examples": len(source), **damage}

"""python -m basic.embed --workdir RUN --source.name=... --out embeddings.npz

Writes the embeddings of a source, of images and of texts, with ids that find the
examples again: a file .npz, or a data set of ArrayRecord.

    python -m basic.embed --help                                 all settings
    python -m basic.embed --workdir runs/x --out embeddings.npz \\
      --source.name=folder --source.path=pictures --source.layout=pictures
    python -m basic.embed --weights hf_clip:DIR --out embeddings \\
      --source.name=tar --source.shards='data/*.tar'

A command that was stopped goes on where it was when it is given again.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from basic import cli
from basic.experiment import command_line
from basic.interface import columns, model


def embed(
    *,
    source: Mapping[str, Any],
    out: str,
    workdir: str | None = None,
    weights: str | None = None,
    step: int | None = None,
    limit: int | None = None,
    batch_size: int = 256,
    cache: str | None = None,
) -> dict[str, int]:
  """Writes the embeddings of a source.

  The file .npz has the arrays "image" and "text" (of the views that the source
  has), unit vectors float32 [n d], in the order of the source, NaN where an
  example cannot be read; "readable" [n]; "id" [n], that of the source, or the
  index; "name" [n], the path of the file or the key in its shard, where the
  source knows it; and other numbers of the examples, such as "label". A data set
  of ArrayRecord has the same as features of TFDS. Of several captions the first
  is embedded. What cannot be read is listed in OUT.unreadable.jsonl, with the
  reason. Memory does not grow with the examples, but for ids and names.

  Args:
    source: `name` of a source, and its settings: --source.name=folder
      --source.path=pictures. Pictures without captions: --source.layout=pictures.
    out: a file that ends in .npz, or a folder for ArrayRecord. It must not exist.
    workdir: folder of a run; or
    weights: a format and a path, such as hf_clip:DIR.
    step: the checkpoint of a run; None: the newest.
    limit: the first examples alone; None: all.
    batch_size: examples that are encoded at a time.
    cache: folder where embeddings are kept; None: $XDG_CACHE_HOME/basic/embeddings.

  Returns:
    "examples", "embedded", and how many cannot be read, by reason.

  Raises:
    FileNotFoundError: if there is no such run, weights or data.
    ValueError: if neither `workdir` nor `weights` is given, or both; `out`
      exists; a setting is wrong, or nothing can be read.
  """
  if (workdir is None) == (weights is None):
    raise ValueError("give one of --workdir RUN and --weights FORMAT:PATH.")
  loaded = model.load(workdir or weights or "", step=step)
  trained, source = loaded.reading(source)
  return columns.write(
      trained, source, out, cache=cache, limit=limit, batch_size=batch_size
  )


def main(arguments: Sequence[str]) -> None:
  """Embeds, and prints what was counted."""
  if not arguments or {"--help", "-h"} & set(arguments):
    print(__doc__, command_line.manual(embed), sep="\n")
    return
  with cli.sentences():
    counts = embed(**command_line.settings("embed", embed, arguments))
  if jax.process_index() == 0:
    print("\n".join(f"{name}  {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
  main(sys.argv[1:])

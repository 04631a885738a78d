"""The embeddings of a source as columns of a file, with what identifies them."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from basic import files
from basic.data import embedding_files, examples
from basic.experiment import features, input_pipeline, schema, towers
from basic.interface import collection
from basic.ops import normalize
from basic.recording import redact

Column = embedding_files.Column


def columns(
    stored: features.Features, source: Any
) -> dict[str, Column]:
  """The columns of a file of embeddings.

  Args:
    stored: embeddings of the first n examples of the source.
    source: the examples.

  Returns:
    By name: each view, unit vectors float32 [n d], NaN where an example cannot be
    read; "readable" bool [n]; "id" int64 [n], that of the source or the index;
    other numbers of the examples, such as "label"; and "name" [n] where the
    source knows names, those of files.
  """
  found = {name: _unit(z) for name, z in stored.views.items()}
  found["readable"] = Column.of(np.asarray(stored.readable))
  for name, array in stored.fields.items():
    if array.ndim == 1 and name not in found:
      found[name] = Column.of(np.asarray(array))
  index = np.arange(len(stored), dtype=np.int64)
  ids = np.where(stored.readable, stored.fields.get("id", index), index)
  found["id"] = Column.of(ids.astype(np.int64))
  if hasattr(source, "name"):
    names = np.array([source.name(n) for n in range(len(stored))], np.str_)
    found["name"] = Column.of(names)
  return found


def _unit(z: np.ndarray) -> Column:
  def part(start, stop):
    return np.asarray(normalize.unit(jnp.asarray(np.asarray(z[start:stop]))))

  return Column(z.shape, np.dtype(np.float32), part)


def unreadable(
    stored: features.Features, source: Any, trained: towers.Towers
) -> Iterator[Mapping[str, Any]]:
  """What could not be read, and why; these examples are read again for it.

  Yields:
    "index", "name", "reason" and "message" of each.
  """
  prepare = input_pipeline.to_arrays(source, trained.tokenizer, trained.config, None)
  name = collection.names(source)
  for index in np.flatnonzero(~np.asarray(stored.readable)).tolist():
    row = examples.read(source, prepare, index, None)
    for failure in row.failures:
      yield {
          "index": index, "name": name(index), "reason": failure.reason,
          "message": failure.message,
      }


def write(
    trained: towers.Towers,
    source: Mapping[str, Any],
    out: str | os.PathLike,
    *,
    cache: str | None = None,
    limit: int | None = None,
    batch_size: int = 256,
) -> dict[str, int]:
  """Writes the embeddings of a source; see `python -m basic.embed`.

  Args:
    trained: the towers.
    source: `name` of a source and its settings.
    out: a file .npz, or a folder for a data set of ArrayRecord; neither exists.
    cache: folder where embeddings are kept, so that a call that was interrupted
      goes on; None: $XDG_CACHE_HOME/basic/embeddings.
    limit: the first examples alone; None: all.
    batch_size: examples that are encoded at a time.

  Returns:
    "examples", "embedded", and counts by reason of those that cannot be read.

  Raises:
    ValueError: if `out` exists, a setting is wrong, or nothing can be read.
  """
  target = files.checked("--out", out)
  is_npz = target.suffix == ".npz"
  files.folder("--out", target.parent if is_npz else target)
  if target.exists():
    raise ValueError(f"{target} exists; remove it, or give another --out.")
  stored = features.features(
      trained, source, cache or collection.default_cache(), limit=limit,
      batch_size=batch_size,
  )
  opened = schema.make("sources", source)
  table = columns(stored, opened)
  if is_npz:
    # Through JSON, so that redaction sees nested settings of any type.
    plain = json.loads(json.dumps(
        {"model": trained.origin, "source": dict(source)}, default=str))
    about = json.dumps(redact.value("", plain))
    table["about"] = Column.of(np.array([about], np.str_))
    embedding_files.write_npz(target, table)
  else:
    embedding_files.write_array_record(target, table)
  if not stored.readable.all():
    lines = [json.dumps(each) for each in unreadable(stored, opened, trained)]
    files.replace(f"{target}.unreadable.jsonl", "\n".join([*lines, ""]).encode())
  counts = {"examples": len(stored), "embedded": int(stored.readable.sum())}
  return {**counts, **{f"unreadable: {k}": n for k, n in stored.unreadable.items()}}

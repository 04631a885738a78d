"""Checksums of checkpoints, which detect flipped bits.

A digest has a CRC-32 of every distinct shard of an array and the index range of
the shard, so arrays with another sharding can be compared too. It detects
accidental damage, not tampering.
"""

import json
import zlib
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def digest(leaves: Mapping[str, jax.Array]) -> dict[str, Any]:
  """Computes the checksums of arrays, each process those of its shards.

  Args:
    leaves: arrays or typed keys by path, the same paths on all processes.

  Returns:
    path -> {"shape", "dtype", "pieces"}, JSON data, equal on all processes; a
    piece is [[start, stop] of every dimension, CRC-32].
  """
  data = {path: _data(x) for path, x in leaves.items()}
  pieces = [(path, span) for path, x in data.items() for span in _spans(x)]
  own = {
      (path, _span(shard.index, x.shape)): shard.data
      for path, x in data.items()
      for shard in x.addressable_shards
      if shard.replica_id == 0
  }
  with futures.ThreadPoolExecutor() as pool:
    values = list(pool.map(lambda p: _crc(own[p]) if p in own else 0, pieces))
  table = {
      path: {"shape": list(x.shape), "dtype": str(x.dtype), "pieces": []}
      for path, x in leaves.items()
  }
  for (path, span), value in zip(pieces, total(values), strict=True):
    table[path]["pieces"].append([[list(ends) for ends in span], int(value)])
  return table


def compare(
    leaves: Mapping[str, jax.Array], table: Mapping[str, Any]
) -> tuple[list[str], int]:
  """Finds the arrays whose content differs from a digest.

  Args:
    leaves: arrays or typed keys by path.
    table: the digest of the same paths.

  Returns:
    (paths that differ, number of pieces that no process holds in one shard and
    that are therefore not compared), equal on all processes.
  """
  paths = [path for path, row in table.items() for _ in row["pieces"]]
  with futures.ThreadPoolExecutor() as pool:
    rows = pool.map(
        lambda path: _compare(_data(leaves[path]), table[path]["pieces"]), table)
    found = [both for row in rows for both in row]
  seen = total([seen for seen, _ in found])
  differ = total([differ for _, differ in found])
  wrong = [path for path, count in zip(paths, differ, strict=True) if count]
  return list(dict.fromkeys(wrong)), sum(int(count) == 0 for count in seen)


def difference(table: Mapping[str, Any], leaves: Mapping[str, Any]) -> str:
  """Describes how paths, shapes and dtypes differ from those of a digest.

  Args:
    table: the digest.
    leaves: arrays or their shapes, by path.

  Returns:
    A clause that names up to three paths of each kind; "" if nothing differs.

  Example:
    >>> table = digest({"a/kernel": jax.numpy.ones((2, 3))})
    >>> difference(table, {"a/kernel": jax.ShapeDtypeStruct((2, 4), "float32")})
    'they differ in a/kernel (float32[2, 3] saved, float32[2, 4] wanted)'
  """
  saved = {p: f"{row['dtype']}{row['shape']}" for p, row in table.items()}
  wanted = {p: f"{x.dtype}{list(x.shape)}" for p, x in leaves.items()}
  findings = {
      "only the model has": [p for p in wanted if p not in saved],
      "only the checkpoint has": [p for p in saved if p not in wanted],
      "they differ in": [
          f"{p} ({saved[p]} saved, {wanted[p]} wanted)"
          for p in wanted if saved.get(p, wanted[p]) != wanted[p]
      ],
  }
  return "; ".join(
      f"{what} {', '.join(found[:3])}" + (", ..." if len(found) > 3 else "")
      for what, found in findings.items() if found
  )


def seal(content: Any) -> dict[str, Any]:
  """Adds a checksum to JSON data.

  Args:
    content: numbers, strings, lists and dicts.

  Returns:
    JSON data that `unseal` reads.

  Raises:
    TypeError: if the content is not JSON data.

  Example:
    >>> unseal(seal({"examples": 3}))
    {'examples': 3}
  """
  try:
    text = json.dumps(content)
  except TypeError as error:
    raise TypeError(
        f"this cannot be saved as JSON: {error}. Give numbers, strings, lists and "
        "dicts of Python"
    ) from error
  return {"content": text, "crc32": zlib.crc32(text.encode())}


def unseal(sealed: Mapping[str, Any]) -> Any:
  """Reads the result of `seal` and verifies its checksum.

  Raises:
    ValueError: if the checksum does not match.
  """
  text = sealed["content"]
  if zlib.crc32(text.encode()) != sealed["crc32"]:
    raise ValueError("the record of the position and the digests has changed")
  return json.loads(text)


def total(values: list[int]) -> np.ndarray:
  """Sums lists of counts, each below 2^32, over all processes."""
  counts = np.array(values, np.uint32)
  if jax.process_count() == 1:
    return counts
  return np.asarray(multihost_utils.process_allgather(counts)).sum(0)


def _compare(x, pieces):
  """(compared, differs) for every piece that this process holds."""
  if x.is_fully_addressable:
    blocks = {tuple((0, n) for n in x.shape): x}
  else:
    blocks = {_span(s.index, x.shape): s.data for s in x.addressable_shards}
  found = []
  for span, value in pieces:
    around = [at for at in blocks if _contains(at, span)]
    differs = any(_crc(_cut(blocks[at], at, span)) != value for at in around)
    found.append((bool(around), differs))
  return found


def _data(x):
  """The data of an array; for a typed key, its key data."""
  if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(x)
  return x


def _spans(x):
  """The distinct index ranges of the shards of an array, in a fixed order."""
  return sorted({
      _span(index, x.shape)
      for index in x.sharding.devices_indices_map(x.shape).values()
  })


def _span(index, shape):
  return tuple(part.indices(n)[:2] for part, n in zip(index, shape, strict=True))


def _contains(outer, inner):
  return all(a <= c and d <= b for (a, b), (c, d) in zip(outer, inner, strict=True))


def _cut(block, at, span):
  """The part of a block at index range `at` that another range selects."""
  host = np.asarray(block)
  return host[tuple(
      slice(start - origin, stop - origin)
      for (origin, _), (start, stop) in zip(at, span, strict=True)
  )]


def _crc(block):
  return zlib.crc32(np.asarray(block).ravel().view(np.uint8).data)


__all__ = ["compare", "difference", "digest", "seal", "total", "unseal"]

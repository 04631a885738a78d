"""One pass over a data set whose rows the processes of a run read together.

    process p reads its rows of a batch   -->   fields that towers encode: one
                                                array over all devices
                                          -->   labels, captions, the mask: the
                                                same in every process

So a data set is read, decoded and encoded once, however many processes there are.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from basic import cli
from basic.engine import exchange, together
from basic.sharding import layout

Rows = tuple[Mapping[str, Any], Any]  # fields of a batch, and its mask
_MASK, _PLACE = " mask", " place"  # No field of a source has such a name.


def shared(
    rows: Iterable[Rows], placement: layout.Layout, encoded: Collection[str]
) -> Iterator[Rows]:
  """The batches of all processes, of which each has read its own rows.

  All processes iterate together, and have equally many batches.

  Args:
    rows: (fields [b / processes ...], mask) of this process, as `pipeline.once`
      makes them.
    placement: mesh of the run.
    encoded: names of the fields that towers encode.

  Yields:
    (fields, mask bool [b]): fields to encode as arrays [b ...] over all devices,
    the others as NumPy arrays [b ...], equal in every process. With a single
    process, what `rows` has.

  Raises:
    cli.DamagedData: on all processes, if one of them could not read its rows.
  """
  if jax.process_count() == 1:
    yield from rows
    return
  everywhere = jax.jit(lambda tree: tree, out_shardings=placement.everywhere)
  at_once = placement._replace(waiting={})  # Not chunk by chunk, as in training.
  source = iter(rows)
  while (item := _next(source)) is not None:
    fields, mask = _alike(item[0]), item[1]
    places = jax.process_index() * len(mask) + np.arange(len(mask), dtype=np.int32)
    placed = at_once.shard({**fields, _MASK: mask, _PLACE: places})
    here = {name: x for name, x in placed.items() if name not in encoded}
    known = {name: np.asarray(x) for name, x in everywhere(here).items()}
    mask, places = known.pop(_MASK), known.pop(_PLACE)
    texts = {
        name: _texts(x, places) for name, x in fields.items() if name not in placed
    }
    there = {name: x for name, x in placed.items() if name in encoded}
    yield {**there, **known, **texts}, mask


def _next(source: Iterator[Rows]) -> Rows | None:
  """The next batch of this process; None at the end, which is that of all."""
  try:
    return together.together(lambda: next(source, None))
  except together.BrokenError as error:
    if error.__cause__ is not None:
      raise error.__cause__ from None
    raise cli.DamagedData(
        "another process could not read its rows of a data set; its own message "
        "says why"
    ) from error


def _alike(fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Fields padded to the shape of the widest process, as captions are.

  By zeros, or by "", the zero of text.
  """
  shapes = exchange.exchange({
      name: list(x.shape[1:]) for name, x in fields.items()
  })
  found = {}
  for name, x in fields.items():
    widest = np.max([each[name] for each in shapes], axis=0, initial=0).astype(int)
    found[name] = np.zeros((len(x), *widest), x.dtype)
    found[name][tuple(map(slice, x.shape))] = x
  return found


def _texts(own: np.ndarray, places: np.ndarray) -> np.ndarray:
  """A field of text of all processes, in the order of the rows."""
  rows = itertools.chain.from_iterable(exchange.exchange(own.tolist()))
  return np.array(list(rows))[places]


def total(counts: Mapping[str, int]) -> dict[str, int]:
  """Sums counts by name over all processes, which call it together.

  Args:
    counts: of this process.

  Returns:
    The sums, in the order in which names are first met.

  Example:
    >>> total({"truncated image": 2})
    {'truncated image': 2}
  """
  found: dict[str, int] = {}
  for each in exchange.exchange(dict(counts)):
    for name, count in each.items():
      found[name] = found.get(name, 0) + count
  return found

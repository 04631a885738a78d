"""A collection of embeddings, and the nearest of it to a query."""

import base64
import dataclasses
import html
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from basic import files, types
from basic.data import pictures
from basic.experiment import features, schema
from basic.ops import nearest, normalize

_NORMALISED = 1 << 16  # rows at a time
_LEAST = 16  # items that are looked for
_SIDE = 128  # pixels of what a notebook shows


class Found(NamedTuple):
  """The nearest items of n queries, best first.

  Attributes:
    names: of the items, for each query: paths below the folder, where the source
      knows them, else numbers.
    scores: cosines, for each query, best first.
    indices: numbers of the items in the collection, for each query.
    source: the examples, whose pictures a notebook shows; None: unknown.
  """

  names: list[list[str]]
  scores: list[list[float]]
  indices: list[list[int]]
  source: types.Source | None = None

  def __repr__(self) -> str:
    lines = []
    for n, (names, scores) in enumerate(zip(self.names, self.scores, strict=True)):
      lines += [f"query {n}:"] if len(self.names) > 1 else []
      lines += [
          f"{score:.3f}  {files.printable(name)}"
          for name, score in zip(names, scores, strict=True)
      ]
    return "\n".join(lines)

  def _repr_html_(self) -> str:
    """Rows of pictures, one for each query, as a notebook shows them."""
    rows = []
    for names, scores, indices in zip(*self[:3], strict=True):
      cells = (
          f"<td>{self._picture(i)}<br>{html.escape(files.printable(name))}<br>{score:.3f}</td>"
          for name, score, i in zip(names, scores, indices, strict=True)
      )
      rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"

  def _picture(self, number: int) -> str:
    """An item as HTML that holds its picture; "" where there is none."""
    example = {} if self.source is None else self.source[number]
    if "image" not in example:
      return ""
    data = base64.b64encode(pictures.thumbnail(example["image"], _SIDE)).decode()
    return f'<img src="data:image/jpeg;base64,{data}">'


@dataclasses.dataclass(frozen=True)
class Index:
  """A collection that can be searched.

  Attributes:
    embeddings: unit vectors float32 [m d]; NaN where an example is unreadable,
      which is never found.
    name: number of an item -> its name.
    source: the examples; None for images that were given one by one.
    unreadable: reason -> examples.
  """

  embeddings: jax.Array
  name: Callable[[int], str]
  source: types.Source | None = None
  unreadable: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(self.embeddings)

  def __repr__(self) -> str:
    without = sum(self.unreadable.values())
    listed = ", ".join(f"{n} x {reason}" for reason, n in self.unreadable.items())
    return f"Index of {len(self):,} items" + (
        f", of which {without:,} cannot be read ({listed})" if without else ""
    )


def search(
    queries: Float[np.ndarray, "n d"], among: Any, k: int, *, least: int = _LEAST
) -> Found:
  """Finds the k nearest items of each query.

  Args:
    queries: unit vectors.
    among: an `Index`, or vectors [m d] of any length.
    k: how many; no more than there are.
    least: items that are looked for, of which k are returned: one program is
      compiled for all smaller k.

  Raises:
    ValueError: if `k` is below 1, the collection is empty or of another width.
  """
  if not isinstance(among, Index):
    among = np.asarray(among)
    among = Index(unit(among) if among.size else jnp.asarray(among), str)
  if among.embeddings.ndim != 2 or not len(among) or k < 1:
    raise ValueError(
        f"found k={k} and a collection {list(among.embeddings.shape)}; expected "
        "k of 1 or more, and one or more rows [m d]."
    )
  if among.embeddings.shape[1] != queries.shape[1]:
    raise ValueError(
        f"queries are {queries.shape[1]} wide and the collection "
        f"{among.embeddings.shape[1]}: it was embedded by another model."
    )
  # Of few sizes, since each is compiled.
  most = min(1 << (max(k, least) - 1).bit_length(), len(among))
  scores, indices = (
      np.asarray(found)[:, :k]
      for found in nearest.top_k(jnp.asarray(queries), among.embeddings, most)
  )
  # An item that cannot be read has no score, and comes last.
  kept = [[int(i) for i in row[~np.isnan(s)]]
          for row, s in zip(indices, scores, strict=True)]
  return Found(
      [[among.name(i) for i in row] for row in kept],
      [[float(x) for x in s[~np.isnan(s)]] for s in scores], kept, among.source,
  )


def index(model: Any, source: Any, *, view: str, cache: str | None) -> Index:
  """Embeds a collection; see `Model.index`."""
  if isinstance(source, str | os.PathLike) and pathlib.Path(source).is_dir():
    source = dict(name="folder", path=os.fspath(source), layout="pictures")
  elif isinstance(source, str | os.PathLike):
    raise FileNotFoundError(
        f"there is no folder {os.fspath(source)!r}; give a folder with pictures, "
        "or the settings of a source as a dict."
    )
  if not isinstance(source, Mapping):
    return _of_images(model, source)
  trained, source = model.reading(source)
  stored = features.features(trained, source, cache or default_cache())
  if view not in stored.views:
    raise ValueError(
        f"the examples have the views {sorted(stored.views)}, and not {view!r}."
    )
  opened = schema.make("sources", source)
  return Index(
      unit(stored.views[view]), names(opened), opened, dict(stored.unreadable)
  )


def _of_images(model: Any, given: Any) -> Index:
  """A collection of images in memory or in files."""
  listed = given if isinstance(given, np.ndarray) else list(given)
  z = model.embed_images(listed)
  return Index(jnp.asarray(z), lambda n: _shown(listed, n))


def _shown(given: Sequence[Any] | np.ndarray, number: int) -> str:
  path = isinstance(given[number], str | os.PathLike)
  return os.fspath(given[number]) if path else str(number)


def names(source: types.Source) -> Callable[[int], str]:
  """Number of an example -> its name, that of its file where the source knows."""
  return getattr(source, "name", str)


def unit(z: Float[np.ndarray, "m d"]) -> jax.Array:
  """Vectors of length one, made a part at a time from a file or an array."""
  parts = [
      normalize.unit(jnp.asarray(np.asarray(z[n:n + _NORMALISED], np.float32)))
      for n in range(0, len(z), _NORMALISED)
  ]
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def default_cache() -> str:
  """The folder where embeddings of collections are kept."""
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return os.fspath(pathlib.Path(home) / "basic" / "embeddings")

"""Embeddings of a frozen tower: computed once, then used in place of inputs.

A tower that does not train gives the same embedding of an example every time,
unless its input is augmented at random. With stored embeddings, the tower runs
once over the source instead of in every step, and its inputs are not copied to
a device.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.interpreters import partial_eval

from basic import paths, types
from basic.data import damage

FOLDER = "stored"


def encode(inner: types.Encode, fields: Collection[str]) -> types.Encode:
  """Takes the embeddings of some views from the batch; encodes the others.

  Args:
    inner: the encoder of the model.
    fields: of the batch whose values are embeddings [b d].

  Returns:
    The same views; those of `fields` have pooled features and no tokens.

  Raises:
    ValueError: if one of `fields` is not a view.
  """
  unknown = sorted(set(fields) - inner.views.keys())
  if unknown:
    raise ValueError(
        f"stored names {unknown[0]!r}; the views are {sorted(inner.views)}."
    )

  def stored(params, inputs, keys):
    del params, keys
    return types.Features(inputs)

  views = {
      name: view._replace(apply=stored) if view.field in fields else view
      for name, view in inner.views.items()
  }
  return types.Encode(views, inner.side)


def check(
    fields: Collection[str],
    inner: types.Encode,
    params: types.Params,
    frozen: Iterable[str],
    augment: Mapping[str, Any],
    batch: types.Batch,
) -> None:
  """Refuses to store what differs from step to step.

  Args:
    fields: whose embeddings are to be stored.
    inner: the encoder of the model.
    params: of all towers, or their shapes.
    frozen: patterns of parameter paths that do not train.
    augment: settings of image augmentation.
    batch: shapes of a batch with inputs.

  Raises:
    ValueError: if a tower trains or is itself random (dropout and the like), if
      its images are cropped or flipped at random, or if it reads text, since
      captions are drawn at random.
  """
  trainable, _ = paths.split(params, tuple(frozen))
  for field in fields:
    if field == "text":
      raise ValueError(
          "stored names 'text', but a caption is drawn anew in every epoch; only "
          "embeddings that stay the same can be stored."
      )
    tower = inner.views[field].tower
    if tower in trainable:
      path = next(iter(paths.flatten(trainable[tower])))
      raise ValueError(
          f"stored names {field!r}, but {tower}/{path} trains, so its embeddings "
          f"change with every step; freeze the whole tower with frozen="
          f"('{tower}/.*',), or do not store it."
      )
    if _is_noisy(inner.views[field], params[tower], batch[field]):
      raise ValueError(
          f"stored names {field!r}, but the tower {tower!r} is random even "
          "though it is frozen, so its embeddings change with every step; set "
          "its rates (dropout, stochastic_depth, drop_patches, ...) to 0, or "
          "do not store it."
      )
    if field == "image" and (augment["crop"] == "random" or augment["mirror"]):
      raise ValueError(
          "stored names 'image', but images are cropped or flipped at random, "
          "so their embeddings change with every epoch; set augment.crop to "
          "'center' and augment.mirror to False, or do not store them."
      )


def _is_noisy(view: types.View, params: types.Params, inputs: Any) -> bool:
  """Whether a view's embeddings depend on the random keys of its rows."""
  keys = jax.eval_shape(
      lambda: jax.random.split(jax.random.key(0), inputs.shape[0])
  )
  traced = jax.make_jaxpr(
      lambda keys, params, inputs: view.apply(params, inputs, keys).pooled
  )(keys, params, inputs).jaxpr
  # Dead code is removed first: it may use the keys without any effect.
  _, used = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
  return used[0]


def shapes(
    fields: Collection[str],
    inner: types.Encode,
    params: types.Params,
    batch: types.Batch,
) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a batch with stored embeddings in place of inputs.

  Args:
    fields: whose embeddings are stored.
    inner: the encoder of the model.
    params: of all towers, or their shapes.
    batch: shapes of a batch with inputs.

  Returns:
    `batch`, with float32 [b d] for each of `fields`.
  """
  stored = dict(batch)
  for field in fields:
    z = jax.eval_shape(inner, params, {field: batch[field]}).views[field].pooled
    stored[field] = jax.ShapeDtypeStruct(z.shape, np.float32)
  return stored


def files(
    fields: Collection[str], workdir: str | os.PathLike, start: int
) -> dict[str, str]:
  """The files of the embeddings of a stage: field -> path.

  Named by the step at which the stage begins, since the parameters that a stage
  freezes are those with which the stage before it ended.
  """
  folder = pathlib.Path(workdir).absolute() / FOLDER
  return {field: str(folder / f"{field}-{start}.npy") for field in fields}


@dataclasses.dataclass(frozen=True)
class Stored:
  """A source in which some fields are replaced by embeddings from files.

  Attributes:
    source: the examples.
    files: field -> path of its embeddings, float32 [n d], written by `write`.
  """

  source: Any  # `types.Source`, with what is optional there
  files: Mapping[str, str]

  @property
  def classes(self) -> Any:
    """Names of the labels, where the source has them."""
    return getattr(self.source, "classes", ())

  @property
  def fingerprint(self) -> str | None:
    """That of the source, which a resumed run compares; None if it has none."""
    return getattr(self.source, "fingerprint", None)

  @property
  def order(self) -> Any:
    """The source's own order of its examples, if it has one."""
    return getattr(self.source, "order", None)

  @property
  def shards(self) -> Any:
    """The first index of each file of the source, where it says so."""
    return getattr(self.source, "shards", None)

  def where(self, index: int) -> str:
    """The file or record of an example, where the source says so."""
    return damage.where(self.source, index)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> types.Example:
    embeddings = {name: _open(path)[index] for name, path in self.files.items()}
    for name, z in embeddings.items():
      if not np.isfinite(z).all():
        raise types.Unreadable(
            "no embedding", f"that of {name!r} is not finite, or was unreadable"
        )
    example = dict(self.source[index])
    return {**example, **{name: np.array(z) for name, z in embeddings.items()}}


@functools.cache
def _open(path: str) -> np.ndarray:
  """A file of embeddings, memory-mapped once per process."""
  return np.load(path, mmap_mode="r")


def write(
    path: str | os.PathLike,
    count: int,
    batches: Iterable[tuple[Mapping[str, Any], np.ndarray]],
    embed: Callable[[Mapping[str, Any]], jax.Array],
) -> None:
  """Embeds a source once; an existing file is complete, and is kept.

  Examples that cannot be read get embeddings of NaN. All processes of a run
  compute the embeddings, as one program; the first one writes.

  Args:
    path: of the file to write; its folder is created.
    count: examples of the source.
    batches: in order, with masks, as `pipeline.once` gives them.
    embed: batch -> embeddings [b d], addressable by every process.
  """
  path = pathlib.Path(path)
  if path.exists():
    return
  unfinished = path.with_suffix(".unfinished")
  rows, start = None, 0
  for batch, mask in batches:
    z = np.asarray(embed(batch), np.float32)
    take = min(len(z), count - start)
    if jax.process_index() == 0:
      if rows is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.lib.format.open_memmap(
            unfinished, "w+", np.float32, (count, z.shape[1])
        )
      rows[start:start + take] = np.where(mask[:, None], z, np.nan)[:take]
    start += take
  if rows is not None:
    rows.flush()
    unfinished.rename(path)  # Atomic: a file of this name is complete.
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(path.name)

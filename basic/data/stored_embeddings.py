"""Embeddings of a locked tower: computed once, then read in place of inputs.

A tower that does not train gives the same embedding of an example every time,
unless its input is noisy. Stored, the tower costs one pass over the source
rather than one a step, and its inputs never reach a device.
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

FOLDER = "stored"


def encode(inner: types.Encode, leaves: Collection[str]) -> types.Encode:
  """Reads the embeddings of some views from the batch; encodes the others.

  Args:
    inner: of the model.
    leaves: whose values in the batch are embeddings [b d].

  Returns:
    The same views; those of `leaves` have pooled features and no tokens.

  Raises:
    ValueError: if one of them is not a view.
  """
  unknown = sorted(set(leaves) - inner.views.keys())
  if unknown:
    raise ValueError(
        f"stored names {unknown[0]!r}; the views are {sorted(inner.views)}."
    )

  def given(params, inputs, keys):
    del params, keys
    return types.Features(inputs)

  views = {
      name: view._replace(apply=given) if view.field in leaves else view
      for name, view in inner.views.items()
  }
  return types.Encode(views, inner.side)


def check(
    leaves: Collection[str],
    inner: types.Encode,
    params: types.Params,
    frozen: Iterable[str],
    augment: Mapping[str, Any],
    batch: types.Batch,
) -> None:
  """Refuses to store what differs from step to step.

  Args:
    leaves: that are to be stored.
    inner: of the model.
    params: of all towers, or their shapes.
    frozen: patterns of parameter paths that do not train.
    augment: settings of the noise of images.
    batch: shapes before any of it is stored.

  Raises:
    ValueError: if a tower trains or draws noise of its own, its images are
      cropped or mirrored at random, or it reads text, which is drawn.
  """
  trainable, _ = paths.split(params, tuple(frozen))
  for leaf in leaves:
    if leaf == "text":
      raise ValueError(
          "stored names 'text', but a caption is drawn anew in every epoch; only "
          "what is the same every time can be stored."
      )
    tower = inner.views[leaf].tower
    if tower in trainable:
      path = next(iter(paths.flatten(trainable[tower])))
      raise ValueError(
          f"stored names {leaf!r}, but {tower}/{path} trains, so its embeddings "
          f"change with every step; lock the whole tower with frozen="
          f"('{tower}/.*',), or do not store it."
      )
    if _is_noisy(inner.views[leaf], params[tower], batch[leaf]):
      raise ValueError(
          f"stored names {leaf!r}, but the tower {tower!r} draws noise, locked "
          "as it is, so its embeddings change with every step; set its rates "
          "of noise (dropout, stochastic_depth, drop_patches, ...) to 0, or do "
          "not store it."
      )
    if leaf == "image" and (augment["crop"] == "random" or augment["mirror"]):
      raise ValueError(
          "stored names 'image', but images are cropped or mirrored at random, "
          "so their embeddings change with every epoch; set augment.crop to "
          "'center' and augment.mirror to False, or do not store them."
      )


def _is_noisy(view: types.View, params: types.Params, inputs: Any) -> bool:
  """Whether a view's embeddings depend on the keys of its rows."""
  keys = jax.eval_shape(
      lambda: jax.random.split(jax.random.key(0), inputs.shape[0])
  )
  traced = jax.make_jaxpr(
      lambda keys, params, inputs: view.apply(params, inputs, keys).pooled
  )(keys, params, inputs).jaxpr
  # What is computed from keys that no result reads does not count.
  _, used = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
  return used[0]


def shapes(
    leaves: Collection[str],
    inner: types.Encode,
    params: types.Params,
    batch: types.Batch,
) -> dict[str, jax.ShapeDtypeStruct]:
  """A batch with embeddings for what is encoded, as shapes.

  Args:
    leaves: that are stored.
    inner: of the model.
    params: of all towers, or their shapes.
    batch: shapes before.

  Returns:
    `batch`, with float32 [b d] for each of `leaves`.
  """
  found = dict(batch)
  for leaf in leaves:
    z = jax.eval_shape(inner, params, {leaf: batch[leaf]}).views[leaf].pooled
    found[leaf] = jax.ShapeDtypeStruct(z.shape, np.float32)
  return found


def files(
    leaves: Collection[str], workdir: str | os.PathLike, start: int
) -> dict[str, str]:
  """Where the embeddings of a stage are: field -> path.

  Named by the step at which the stage begins, for what is locked in a stage is
  what the one before it left.
  """
  folder = pathlib.Path(workdir).absolute() / FOLDER
  return {leaf: str(folder / f"{leaf}-{start}.npy") for leaf in leaves}


@dataclasses.dataclass(frozen=True)
class Stored:
  """A source some of whose fields are embeddings from files.

  Attributes:
    source: the examples.
    files: field -> path of its embeddings, float32 [n d], written by `write`.
  """

  source: types.Source
  files: Mapping[str, str]

  @property
  def classes(self) -> Any:
    """Names of the labels, where the source has them."""
    return getattr(self.source, "classes", ())

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> types.Example:
    rows = {leaf: _open(path)[index] for leaf, path in self.files.items()}
    for leaf, row in rows.items():
      if not np.isfinite(row).all():
        raise types.Unreadable(
            "no embedding", f"that of {leaf!r} is not finite, or was unreadable"
        )
    example = dict(self.source[index])
    return {**example, **{leaf: np.array(row) for leaf, row in rows.items()}}


@functools.cache
def _open(path: str) -> np.ndarray:
  """A file of embeddings, mapped into memory once a process."""
  return np.load(path, mmap_mode="r")


def write(
    path: str | os.PathLike,
    count: int,
    passed: Iterable[tuple[Mapping[str, Any], np.ndarray]],
    embed: Callable[[Mapping[str, Any]], jax.Array],
) -> None:
  """Embeds a source once; a file that is there is whole, and stays.

  Examples that cannot be read have embeddings of NaN. Every process of a run
  embeds, as one program; the first one writes.

  Args:
    path: of the file to write; its folder is made.
    count: examples of the source.
    passed: batches in order, with masks, as `pipeline.once` gives them.
    embed: batch -> embeddings [b d], which every process can read.
  """
  path = pathlib.Path(path)
  if path.exists():
    return
  unfinished = path.with_suffix(".unfinished")
  rows, start = None, 0
  for batch, mask in passed:
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
    unfinished.rename(path)  # At once: what has the name is whole.
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(path.name)

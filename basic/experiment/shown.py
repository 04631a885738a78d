"""What the report shows of an evaluation: some examples, and answers by class."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from basic import types
from basic.data import class_prompts
from basic.engine import shared_rows
from basic.experiment import input_pipeline
from basic.ops import normalize
from basic.sharding import layout

Encode = Callable[[types.Batch], types.Embedded]
Caption = Callable[[types.Example, Any], Any]
Batches = Iterable[tuple[types.Batch, Any]]


class Shown(NamedTuple):
  """Examples with their embeddings, in host memory.

  Attributes:
    images: uint8 [n h w c]; None if the data has no images.
    captions: the first caption of each example, or else the name of its class;
      empty if there is neither.
    views: pooled embeddings [n d] by view, not normalised.
    labels: int [n], the class of each; None if an example has none or several.
  """

  images: Any
  captions: list[str]
  views: Mapping[str, Any]
  labels: Any = None


class Answers(NamedTuple):
  """The answers of a zero-shot evaluation, one an image.

  Attributes:
    classes: names of the classes that may be answered.
    labels: int [n], the true class, an index of `classes`.
    answers: int [n], the most similar class; -1 where an embedding is NaN.
    examples: number of examples of the whole evaluation.
  """

  classes: tuple[str, ...]
  labels: Int[np.ndarray, "n"]
  answers: Int[np.ndarray, "n"]
  examples: int


class Classes(NamedTuple):
  """The classes that a zero-shot evaluation may answer.

  Attributes:
    numbers: their labels, int [c].
    names: of each.
    embeddings: float [c d], unit vectors.
  """

  numbers: Int[np.ndarray, "c"]
  names: tuple[str, ...]
  embeddings: Float[np.ndarray, "c d"]


class Spread:
  """Some examples of a source, evenly spaced: of a sorted one, of every class.

  Args:
    source: at least one example.
    count: at most so many are left.
    limit: of the first so many examples of the source; None: of all.
  """

  def __init__(self, source: types.Source, count: int, limit: int | None = None):
    self._source = source
    self.examples = min(limit or len(source), len(source))
    self._count = min(count, self.examples)
    self.classes = getattr(source, "classes", ())

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> types.Example:
    if not 0 <= index < self._count:
      raise IndexError(f"example {index} of {self._count}")
    return self._source[index * self.examples // self._count]


def of(
    source: types.Source,
    settings: Mapping[str, Any],
    towers: Any,
    placement: layout.Layout,
    tokenizer: Any,
    size: int,
    read: Callable[..., contextlib.AbstractContextManager[Batches]],
) -> tuple[
    Callable[[types.Params, int], Shown],
    Callable[[types.Params, int], Answers | None] | None,
]:
  """What the report may ask of an evaluation.

  Args:
    source: of the evaluation.
    settings: of the evaluation, complete.
    towers: an `evaluation.Encoder`.
    placement: mesh of the run.
    tokenizer: of the run; None without text.
    size: rows of a batch.
    read: (some of the source, shard=...) -> its batches, as `pipeline.once`.

  Returns:
    ((parameters, count) -> so many of its examples at most, evenly spaced; and
    (parameters, count) -> the answers to so many, which is None itself unless
    the evaluation is zero-shot).
  """
  caption = input_pipeline.caption(source, settings["label_captions"])
  limit = settings["limit"]

  def known(params):
    return classes(
        functools.partial(towers.encode, params), settings, tokenizer.batch,
        settings.get("classes") or getattr(source, "classes", ()), size,
    )

  def some(params, count):
    spread = Spread(source, count, limit)
    with read(spread) as rows:
      return samples(
          spread, rows, functools.partial(towers.encode, params), caption, size
      )

  def some_with_classes(params, count):
    return with_classes(some(params, count), known(params), settings["text"])

  def some_answers(params, count):
    own = jax.process_index(), jax.process_count()
    spread = Spread(source, count, limit)
    with read(spread, shard=own) as rows:
      return answers(
          functools.partial(towers.encode, params), settings["image"], known(params),
          shared_rows.shared(rows, placement, towers.fields), spread.examples,
      )

  if settings["name"] != "zeroshot" or tokenizer is None:
    return some, None
  return some_with_classes, some_answers


def classes(
    encode: Encode,
    settings: Mapping[str, Any],
    tokenize: Callable[[Sequence[str]], Int[np.ndarray, "n t"]],
    names: Sequence[str],
    batch_size: int,
) -> Classes:
  """Embeds the classes of a zero-shot evaluation, as the evaluation does.

  Args:
    encode: the towers.
    settings: of the evaluation, complete.
    tokenize: strings -> ids [n t].
    names: of all classes, in the order of the labels.
    batch_size: rows of a batch of prompts.

  Returns:
    The classes of the evaluation's `subset`, or all.
  """
  chosen, said = class_prompts.candidates(
      classes=names, subset=settings["subset"], names=settings["names"]
  )
  templates = settings["templates"]
  embeddings = class_prompts.embeddings(
      encode, settings["text"], tokenize, class_prompts.prompts(said, templates),
      len(templates), batch_size,
  )
  return Classes(np.array(chosen, np.int64), said, np.asarray(embeddings))


def answers(
    encode: Encode, image: str, known: Classes, dataset: Batches, examples: int
) -> Answers | None:
  """Classifies images by the most similar class embedding.

  Ties go to the first class, as in the evaluation.

  Args:
    encode: the towers.
    image: the view to classify, and the field of a batch that it reads.
    known: the classes.
    dataset: (batch, mask) pairs with `image` and "label" int [b].
    examples: number of examples of the whole evaluation.

  Returns:
    The answers; None if no image has exactly one label among the classes.
  """
  place = {int(label): n for n, label in enumerate(known.numbers)}
  labels, found = [], []
  for batch, mask in dataset:
    if "label" not in batch or np.ndim(batch["label"]) != 1:
      return None
    pooled = np.asarray(encode({image: batch[image]}).views[image].pooled)
    x = np.asarray(normalize.unit(jnp.asarray(pooled)))
    s = x @ known.embeddings.T
    best = np.where(np.isnan(s).any(1), -1, s.argmax(1))
    for row in np.flatnonzero(mask):
      if (label := place.get(int(batch["label"][row]))) is not None:
        labels.append(label)
        found.append(best[row])
  if not labels:
    return None
  return Answers(
      known.names, np.array(labels, np.int64), np.array(found, np.int64), examples
  )


def samples(
    source: types.Source,
    dataset: Batches,
    encode: Encode,
    caption: Caption | None,
    size: int,
) -> Shown:
  """Images, captions and embeddings of all readable examples of a dataset.

  Args:
    source: of the dataset.
    dataset: (batch, mask) pairs of the source, in its order.
    encode: the towers.
    caption: (example, None) -> its caption; None: the text of the example.
    size: rows of a batch.

  Returns:
    The examples; without captions of their own, with the names of their classes.
  """
  images, texts, labels, views = [], [], [], []
  for n, (batch, mask) in enumerate(dataset):
    z = encode(batch)
    views.append({k: f.pooled[mask] for k, f in z.views.items()})
    if "image" in batch:
      images.append(_pixels(np.asarray(batch["image"])[mask]))
    if "text" in batch:
      rows = np.flatnonzero(mask).tolist()
      texts += [_first(source[n * size + row], caption) for row in rows]
    if "label" in batch and np.ndim(batch["label"]) == 1:
      labels += np.asarray(batch["label"])[mask].tolist()
  names = getattr(source, "classes", ())
  if labels and names and not texts:
    texts = [names[label] for label in labels]
  return Shown(
      np.concatenate(images) if images else None, texts,
      jax.tree.map(lambda *parts: np.concatenate(parts), *views),
      np.array(labels) if labels else None,
  )


def with_classes(shown: Shown, known: Classes, text: str) -> Shown:
  """Examples whose text is that of their class, where they have none.

  Args:
    shown: examples.
    known: the classes.
    text: the name of the view of text.

  Returns:
    The same with a view of text, and with names of classes for captions; unchanged
    if they have a text of their own, or one of them has no class that is known.
  """
  if text in shown.views or shown.labels is None:
    return shown
  place = {int(label): n for n, label in enumerate(known.numbers)}
  if any(int(label) not in place for label in shown.labels):
    return shown
  rows = [place[int(label)] for label in shown.labels]
  return shown._replace(
      captions=[known.names[row] for row in rows],
      views={**shown.views, text: known.embeddings[rows]},
  )


def _pixels(image: np.ndarray) -> np.ndarray:
  """Images as uint8; some augmentations return floats in [-1, 1]."""
  if image.dtype == np.uint8:
    return image
  return np.clip(np.round((image + 1) * 127.5), 0, 255).astype(np.uint8)


def _first(example, caption):
  """The first caption of an example that is not blank, as it is embedded."""
  text = example["text"] if caption is None else caption(example, None)
  texts = (text,) if isinstance(text, str) else text
  return next(text for text in texts if text and text.strip())

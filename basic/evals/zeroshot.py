"""Zero-shot classification with prompt ensembles."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from basic import types
from basic.ops import normalize, ranking


def zeroshot(
    *,
    tokenize: Callable[[Sequence[str]], Int[np.ndarray, "n t"]],
    classes: tuple[str, ...],
    templates: tuple[str, ...] = ("{}",),
    batch_size: int = 64,
    image: str = "image",
    text: str = "text",
    top: tuple[int, ...] = (1, 5),
    subset: tuple[int, ...] | None = None,
) -> types.Evaluator:
  """Classifies images by the most similar class embedding.

  With x_i the unit embedding of image i and y_cp that of template p filled
  with the name of class c,

      w_c  = unit(sum_p y_cp)
      hit@k of i:  fewer than k classes c come before the true one in <x_i, w_c>

  Ties are ranked in the order of `classes` (of `subset`, if given), as in argmax.
  An embedding that is NaN is a miss.

  Args:
    tokenize: strings -> ids [n t] with a constant t.
    classes: names in the order of the labels. Not empty.
    templates: each holds "{}", where the name goes. Not empty.
    batch_size: rows of every batch of prompts; id 0 fills the last one.
    image: the view to classify, and the field of a batch that it reads.
    text: the view of the prompts, and the field of a batch that it reads.
    top: each k of hit@k. One above the number of candidates is left out.
    subset: the labels of the candidate classes; None: all. ImageNet-A and -R
      use 200 of 1000 classes, and their labels count among the 1000.

  Returns:
    An evaluator over batches with `image` and "label" int [b]. Metrics: "@1",
    "@5", ... as fractions; "/per_class@1", the mean over the classes present
    of the fraction of each; "/count", the images classified.

  Raises:
    ValueError: if `classes`, `templates` or `subset` is empty, a template has
      no "{}", `subset` names a class twice or one that is not there, or a k
      or `batch_size` is below 1; when called, if there is no image,
      a field is missing, or a label is not among the candidates.

  References:
    Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, 2021, section 3.1.4. https://arxiv.org/abs/2103.00020

  Example:
    >>> words = ["", "cat", "dog"]
    >>> def tokenize(prompts):
    ...   return np.array([[words.index(prompt)] for prompt in prompts])
    >>> def encode(batch):  # towers that know their words
    ...   return types.Embedded({
    ...       view: types.Features(jnp.eye(3)[jnp.ravel(leaf)])
    ...       for view, leaf in batch.items()}, {})
    >>> evaluate = zeroshot(tokenize=tokenize, classes=("cat", "dog"))
    >>> batch = {"image": np.array([1, 1]), "label": np.array([0, 1])}
    >>> evaluate(encode, [(batch, np.array([True, True]))])["@1"]
    0.5
  """
  _check(classes, templates, subset, top, batch_size)
  candidates, said = candidate_classes(classes=classes, subset=subset)
  groups = jnp.asarray(candidates, jnp.int32)
  prompts = prompts_of(said, templates)

  def evaluate(
      encode: Callable[[types.Batch], types.Embedded],
      batches: Iterable[tuple[types.Batch, Any]],
  ) -> types.Metrics:
    w = class_embeddings(
        encode, text, tokenize, prompts, len(templates), batch_size
    )
    labels, ranks = [], []
    for batch, mask in batches:
      kept = np.asarray(mask, bool)
      label = _labels(batch, image, kept, candidates)
      x = _embed(encode, image, batch[image])
      rank = ranking.ranks(x, w, jnp.asarray(label), groups)
      labels.append(label[kept])
      ranks.append(np.asarray(rank)[kept])
    if not sum(len(label) for label in labels):
      raise ValueError(
          "zeroshot found no image to classify: the source is empty, or every "
          "row is masked. Give the eval a source with examples."
      )
    return _metrics(
        np.concatenate(labels), np.concatenate(ranks),
        [k for k in top if k <= len(candidates)],
    )

  return evaluate


def _embed(encode, field, rows):
  """Unit embeddings of one view, in the memory of this process."""
  pooled = np.asarray(encode({field: rows}).views[field].pooled)
  return normalize.unit(jnp.asarray(pooled))


def candidate_classes(
    *, classes: Sequence[str], subset: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
  """The classes that may be answered.

  Args:
    classes: names of all, in the order of the labels.
    subset: labels; None: all.

  Returns:
    (their labels, what prompts call them).
  """
  chosen = tuple(range(len(classes))) if subset is None else tuple(subset)
  return chosen, tuple(classes[label] for label in chosen)


def prompts_of(names: Sequence[str], templates: Sequence[str]) -> list[str]:
  """The prompts of all classes: every template of the first, then of the second.

  Example:
    >>> prompts_of(("cat", "dog"), ("a {}", "{}"))
    ['a cat', 'cat', 'a dog', 'dog']
  """
  return [each.replace("{}", name) for name in names for each in templates]


def class_embeddings(
    encode: Callable[[types.Batch], types.Embedded],
    text: str,
    tokenize: Callable[[Sequence[str]], Int[np.ndarray, "n t"]],
    prompts: Sequence[str],
    ways: int,
    batch_size: int,
) -> jax.Array:
  """w [c d], unit vectors: the mean direction of each run of `ways` prompts.

  Args:
    encode: the towers.
    text: the view of the prompts, and the field of a batch that it reads.
    tokenize: strings -> ids [n t] with a constant t.
    prompts: `ways` for each class, one class after the other.
    ways: number of templates.
    batch_size: rows of every batch of prompts; id 0 fills the last one.

  Returns:
    Float [c d], with c = len(prompts) / ways.
  """
  total = None
  for start in range(0, len(prompts), batch_size):
    tokens = np.asarray(tokenize(prompts[start : start + batch_size]), np.int32)
    rows = len(tokens)
    padded = np.pad(tokens, ((0, batch_size - rows), (0, 0)))
    y = np.asarray(_embed(encode, text, padded))[:rows]
    if total is None:
      total = np.zeros((len(prompts) // ways, y.shape[1]), y.dtype)
    np.add.at(total, np.arange(start, start + rows) // ways, y)
  return normalize.unit(jnp.asarray(total))


def _metrics(labels, ranks, top):
  """Fractions of hits, over images and over the classes present."""
  images = np.bincount(labels)
  hits = np.bincount(labels, ranks < 1)
  present = images > 0
  metrics = {f"@{k}": float(np.mean(ranks < k)) for k in top}
  metrics["/per_class@1"] = float(np.mean(hits[present] / images[present]))
  metrics["/count"] = float(len(labels))
  return metrics


def _labels(batch, image, kept, candidates):
  """The labels of a batch, int32; those of masked rows are arbitrary."""
  missing = {image, "label"} - set(batch)
  if missing:
    raise ValueError(
        f"zeroshot found the fields {sorted(batch)} and needs {sorted(missing)}"
        " too: give the eval a source with images and labels."
    )
  labels = np.asarray(batch["label"])
  if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
        f"zeroshot found labels {labels.dtype}{list(labels.shape)} and needs "
        "one integer a row: class numbers, not names or vectors."
    )
  strange = np.setdiff1d(labels[kept], candidates)
  if strange.size:
    raise ValueError(
        f"zeroshot found the labels {strange[:5].tolist()}, which are not among "
        f"the {len(candidates)} classes that may be answered: check `classes` "
        "and `subset` against the source."
    )
  return labels.astype(np.int32)


def _check(classes, templates, subset, top, batch_size):
  """Raises ValueError for settings that cannot work."""
  if not classes or not templates:
    raise ValueError(
        f"zeroshot found {len(classes)} classes and {len(templates)} templates "
        "and needs at least one of each."
    )
  without = [template for template in templates if "{}" not in template]
  if without:
    raise ValueError(
        f"zeroshot found the template {without[0]!r} without '{{}}': say where "
        "the class name goes, as in 'a photo of a {}.'"
    )
  if batch_size < 1 or any(k < 1 for k in top):
    raise ValueError(
        f"zeroshot found batch_size={batch_size} and top={tuple(top)} and "
        "needs whole numbers from 1."
    )
  if subset is None:
    return
  strange = [c for c in subset if not 0 <= c < len(classes)]
  if strange or not subset or len(set(subset)) < len(subset):
    raise ValueError(
        f"zeroshot found a subset of {len(subset)} with {len(set(subset))} "
        f"different classes, of which {strange[:5]} do not exist: give class "
        f"numbers in 0..{len(classes) - 1}, each once."
    )

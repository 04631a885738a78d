"""Zero-shot classification with prompt ensembles."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from basic import types
from basic.data import class_prompts
from basic.evals import _frozen
from basic.ops import average_precision, bootstrap, ranking


def zeroshot(
    *,
    tokenize: Callable[[Sequence[str]], Int[np.ndarray, "n t"]],
    classes: tuple[str, ...],
    templates: tuple[str, ...] = ("{}",),
    batch_size: int = 64,
    image: str = "image",
    text: str = "text",
    top: tuple[int, ...] = (1, 5),
    names: Mapping[str, str] | None = None,
    subset: tuple[int | str, ...] | None = None,
) -> types.Evaluator:
  """Classifies images by the most similar class embedding.

  With x_i the unit embedding of image i and y_cp that of template p filled
  with the name of class c,

      w_c  = unit(sum_p y_cp)
      hit@k of i:  fewer than k classes c come before the true one in <x_i, w_c>

  Ties are ranked in the order of `classes` (of `subset`, if given), as in argmax.
  An embedding that is NaN is a miss. Where an image may have several labels, images
  are ranked for each class in place of classes for each image
  (`basic.ops.average_precision`).

  Args:
    tokenize: strings -> ids [n t] with a constant t.
    classes: names in the order of the labels. Not empty. Equal ones are warned of.
    templates: each holds "{}", where the name goes. Not empty.
    batch_size: rows of every batch of prompts; id 0 fills the last one.
    image: the view to classify, and the field of a batch that it reads.
    text: the view of the prompts, and the field of a batch that it reads.
    top: each k of hit@k. One above the number of candidates is left out.
    names: what prompts say for each of `classes`, such as "tench" for "n01440764";
      None: `classes` themselves.
    subset: the candidate classes, as labels or as they are in `classes`; None: all.
      ImageNet-A and -R use 200 of 1000 classes, and their labels count among the
      1000.

  Returns:
    An evaluator over batches with `image` and "label". With one label an image,
    int [b], metrics: "@1", "@5", ... as fractions; "/per_class@1", the mean over
    the classes present of the fraction of each; "/count", the images classified.
    With several, int [b m] padded with -1: "/map_11_point" and "/map", the mean
    over the classes present of both average precisions; "/count".

  Raises:
    ValueError: if `classes`, `templates` or `subset` is empty, a template has
      no "{}", `subset` names a class twice or one that is not there, `names` lacks
      one, classes are WordNet numbers without `names`, or a k
      or `batch_size` is below 1; when called, if there is no image,
      a field is missing, or a label is not among the candidates.

  References:
    Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, 2021, section 3.1.4 and table 9. https://arxiv.org/abs/2103.00020

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
  _check(templates, top, batch_size)
  candidates, said = class_prompts.candidates(
      classes=classes, subset=subset, names=names
  )
  prompts = class_prompts.prompts(said, templates)

  def evaluate(
      encode: Callable[[types.Batch], types.Embedded],
      batches: Iterable[tuple[types.Batch, Any]],
  ) -> types.Metrics:
    w = class_prompts.embeddings(
        encode, text, tokenize, prompts, len(templates), batch_size
    )
    labels, judged = [], []
    for batch, mask in batches:
      kept = np.asarray(mask, bool)
      label = _labels(batch, image, kept, candidates)
      x = class_prompts.embed(encode, image, batch[image])
      labels.append(label[kept])
      judged.append(np.asarray(_judge(x, w, label, candidates))[kept])
    if not sum(len(label) for label in labels):
      raise ValueError(
          "zeroshot found no image to classify: the source is empty, or every "
          "row is masked. Give the eval a source with examples."
      )
    measure = _one_label if labels[0].ndim == 1 else _several_labels
    return measure(np.concatenate(labels), np.concatenate(judged), candidates, top)

  return evaluate


def _judge(x, w, label, candidates):
  """With one label, its rank [b]; with several, the scores of all classes [b c]."""
  if label.ndim == 1:
    return ranking.ranks(
        x, w, jnp.asarray(label), jnp.asarray(candidates, jnp.int32)
    )
  return jnp.einsum("bd,cd->bc", x, w, precision=jax.lax.Precision.HIGHEST)


def _one_label(labels, ranks, candidates, top):
  """Fractions of hits, over images and over the classes present."""
  top = [k for k in top if k <= len(candidates)]
  found = _frozen.accuracy(ranks, labels, top)
  return bootstrap.extended(found, {"/count": float(len(labels))})


def _several_labels(labels, scores, candidates, top):
  """Mean average precision over the classes present."""
  del top  # Of scores of images, not of classes.
  positive = np.any(labels[:, :, None] == np.asarray(candidates), axis=1)
  if not positive.any():
    raise ValueError(
        f"zeroshot found {len(labels)} images of which none has a label: give the "
        "eval a source whose labels are not all -1."
    )

  def again(rows):
    eleven, exact = average_precision.average_precision(
        scores[rows], positive[rows]
    )
    return {
        "/map_11_point": float(np.nanmean(eleven)), "/map": float(np.nanmean(exact))
    }

  return bootstrap.Measured(
      again, {"positive": positive, "score": scores},
      {"/count": float(len(labels))},
  )


def _labels(batch, image, kept, candidates):
  """The labels of a batch, int32; those of masked rows are arbitrary."""
  missing = {image, "label"} - set(batch)
  if missing:
    raise ValueError(
        f"zeroshot found the fields {sorted(batch)} and needs {sorted(missing)}"
        " too: give the eval a source with images and labels."
    )
  labels = np.asarray(batch["label"])
  if labels.ndim not in (1, 2) or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
        f"zeroshot found labels {labels.dtype}{list(labels.shape)} and needs "
        "one integer a row, or several padded with -1: class numbers, not names or "
        "vectors."
    )
  none = [-1] if labels.ndim == 2 else []
  strange = np.setdiff1d(labels[kept], [*candidates, *none])
  if strange.size:
    raise ValueError(
        f"zeroshot found the labels {strange[:5].tolist()}, which are not among "
        f"the {len(candidates)} classes that may be answered: check `classes` "
        "and `subset` against the source."
    )
  return labels.astype(np.int32)


def _check(templates, top, batch_size):
  """Raises ValueError for settings that cannot work."""
  if not templates:
    raise ValueError("zeroshot found 0 templates and needs at least one.")
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

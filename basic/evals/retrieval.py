"""Image-text retrieval over a whole dataset, in both directions."""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from basic import types
from basic.ops import normalize, ranking


def retrieval(
    *,
    at: tuple[int, ...] = (1, 5, 10),
    image: str = "image",
    captions: str = "captions",
    text: str = "text",
    block: int = 1024,
    batch_size: int = 64,
) -> types.Evaluator:
  """Measures recall of the captions of each image and of the image of each caption.

  With s = x @ y.T the cosines of images i and captions j, and own(i) the
  captions of image i,

      image to text @k:  mean over i of [some j of own(i) is among the k best]
      text to image @k:  mean over j of [the image of j is among the k best]

  Only the image's own captions are hits: the same text of another image is a miss,
  as in the usual protocol for Flickr30K and COCO. Ties are ranked in the order of
  the batches. An embedding that is NaN is a miss. Scores are computed in tiles; see
  `basic.ops.ranking`.

  Args:
    at: each k of recall@k. One above the number of items is left out.
    image: the view of the images, and the field of a batch that it reads.
    captions: the field of the captions, int [b k t] with a constant t. A
      caption of zeros is padding.
    text: the view of the captions, and the field of a batch that it reads.
    block: rows of a tile of scores, on both sides.
    batch_size: rows of every batch of captions; id 0 fills the last one.

  Returns:
    An evaluator over batches with `image` and `captions`. Metrics:
    "/image_to_text@1", "/text_to_image@1", ... as fractions;
    "/image_to_text_median_rank", "/text_to_image_median_rank", where 1 is the
    best; "/count", the images with captions; "/captions", their captions;
    "/distractors", the images without captions, which are candidates but not queries.

  Raises:
    ValueError: if a k, `block` or `batch_size` is below 1; when called, if
      there is no caption, a field is missing, or `captions` is not [b k t].

  References:
    Karpathy and Fei-Fei, Deep Visual-Semantic Alignments for Generating Image
    Descriptions, 2015, section 4.1. https://arxiv.org/abs/1412.2306

  Example:
    >>> def encode(batch):  # towers that see and read one number each
    ...   return types.Embedded({
    ...       view: types.Features(jnp.eye(4)[leaf.reshape(len(leaf))])
    ...       for view, leaf in batch.items()}, {})
    >>> batch = {"image": np.array([1, 2]), "captions": np.array([[[1]], [[3]]])}
    >>> metrics = retrieval(at=(1,))(encode, [(batch, np.array([True, True]))])
    >>> metrics["/image_to_text@1"], metrics["/text_to_image@1"]
    (0.5, 0.5)
  """
  if min(block, batch_size, *at) < 1:
    raise ValueError(
        f"retrieval found at={tuple(at)}, block={block} and "
        f"batch_size={batch_size} and needs whole numbers from 1."
    )

  def evaluate(
      encode: Callable[[types.Batch], types.Embedded],
      batches: Iterable[tuple[types.Batch, Any]],
  ) -> types.Metrics:
    images, tokens, owners, seen = [], [], [], 0
    for batch, mask in batches:
      kept = np.asarray(mask, bool)
      texts = _captions(batch, image, captions)[kept]
      row, column = np.nonzero(texts.any(axis=-1))
      images.append(_embed(encode, image, batch[image])[kept])
      tokens.append(texts[row, column])
      owners.append(seen + row)
      seen += len(texts)
    if not sum(len(owner) for owner in owners):
      raise ValueError(
          f"retrieval found {seen} images and no caption: give the "
          f"eval a source whose {captions!r} hold ids other than 0."
      )
    owner = np.concatenate(owners).astype(np.int32)
    x = jnp.asarray(np.concatenate(images))
    y = jnp.asarray(_embed_texts(encode, text, np.concatenate(tokens), batch_size))
    own = jnp.asarray(owner)
    every = jnp.arange(seen, dtype=jnp.int32)
    asking = np.unique(owner)  # images without captions are no queries
    to_text = np.asarray(ranking.ranks(x, y, every, own, block=block))[asking]
    to_image = np.asarray(ranking.ranks(y, x, own, every, block=block))
    return {
        **_recall("/image_to_text", to_text, at, len(owner)),
        **_recall("/text_to_image", to_image, at, seen),
        "/count": float(len(asking)),
        "/captions": float(len(owner)),
        "/distractors": float(seen - len(asking)),
    }

  return evaluate


def _embed(encode, field, rows):
  """Unit embeddings of one view, in host memory."""
  pooled = np.asarray(encode({field: rows}).views[field].pooled)
  return np.asarray(normalize.unit(jnp.asarray(pooled)))


def _embed_texts(encode, text, tokens, batch_size):
  """Unit embeddings of captions, in batches of one shape."""
  embedded = []
  for start in range(0, len(tokens), batch_size):
    chunk = tokens[start : start + batch_size]
    padded = np.pad(chunk, ((0, batch_size - len(chunk)), (0, 0)))
    embedded.append(_embed(encode, text, padded)[: len(chunk)])
  return np.concatenate(embedded)


def _recall(name, ranks, at, items):
  """Recall at each k that is not more than the items, and the median rank."""
  metrics = {f"{name}@{k}": float(np.mean(ranks < k)) for k in at if k <= items}
  metrics[f"{name}_median_rank"] = float(np.median(ranks + 1))
  return metrics


def _captions(batch, image, captions):
  """The captions of a batch, int32 [b k t]."""
  missing = {image, captions} - set(batch)
  if missing:
    raise ValueError(
        f"retrieval found the fields {sorted(batch)} and needs "
        f"{sorted(missing)} too: give the eval a source with captioned images."
    )
  texts = np.asarray(batch[captions])
  if texts.ndim != 3:
    raise ValueError(
        f"retrieval found {captions!r} of shape {list(texts.shape)} and needs "
        "[b k t]: k captions of t ids for each image, also where k is 1."
    )
  return texts.astype(np.int32)
